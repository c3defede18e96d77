import cv2
import numpy as np
import pytest
from PIL import Image

from btxrd.data import Preprocessing


def save(path, pixels, **options):
    Image.fromarray(pixels).save(path, quality=95, **options)
    return path


BRIGHT = np.tile(np.linspace(200, 250, 200).astype(np.uint8), (400, 1))


def test_the_image_keeps_its_shape_in_the_square_or_fills_it(tmp_path):
    path = save(tmp_path / "a.jpeg", BRIGHT)
    square = Preprocessing(96, contrast="none").read(path)
    assert square.shape == (96, 96)
    assert square.dtype == np.uint8
    assert (square[:, 25:71] > 190).all()
    assert (square[:, :23] == 0).all()
    assert (square[:, 73:] == 0).all()
    assert (Preprocessing(96, contrast="none", resize="stretch").read(path) > 190).all()


@pytest.mark.parametrize("size", [(1629, 2128), (1999, 333), (153, 311), (3593, 4881)])
def test_scaled_decoding_moves_nothing(tmp_path, size):
    """A disc whose centre is known stays where the geometry says, whatever the decoder rounds."""
    width, height = size
    pixels = np.zeros((height, width), np.uint8)
    centre = np.array([round(width * 0.7), round(height * 0.3)])
    cv2.circle(pixels, centre.tolist(), min(size) // 6, 255, -1)
    preprocessing = Preprocessing(224, contrast="none")
    square = preprocessing.read(save(tmp_path / "a.jpeg", pixels)).astype(float)
    rows, columns = np.indices(square.shape)
    found = [(columns * square).sum() / square.sum(), (rows * square).sum() / square.sum()]
    transform = preprocessing.geometry(width, height).transform
    expected = transform[:, :2] @ (centre + 0.5) + transform[:, 2] - 0.5
    assert np.abs(found - expected).max() < 0.5


def test_grayscale_and_equal_channels_are_the_same_image(tmp_path):
    gray = np.random.default_rng(1).integers(0, 255, (64, 64), dtype=np.uint8)
    gray = cv2.GaussianBlur(gray, (9, 9), 0)
    first = Preprocessing(64).read(save(tmp_path / "l.png", gray))
    second = Preprocessing(64).read(save(tmp_path / "rgb.png", np.dstack([gray] * 3)))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("factor", [16, 257])
def test_deeper_images_are_shown_over_all_their_values(tmp_path, factor):
    """Twelve bits in sixteen, and all sixteen: of an image that uses its eight bits, the same."""
    pixels = np.linspace(0, 255, 300 * 200).reshape(300, 200).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "deep.png"), pixels.astype(np.uint16) * factor)
    preprocessing = Preprocessing(64, contrast="none")
    deep, plain = preprocessing.read(tmp_path / "deep.png"), save(tmp_path / "8.png", pixels)
    assert np.abs(deep.astype(int) - preprocessing.read(plain)).max() <= 2
    assert preprocessing.decode(tmp_path / "deep.png").mode == "I;16"


def test_clahe_raises_contrast(tmp_path):
    noise = np.random.default_rng(1).normal(0, 60, (256, 256))
    texture = np.clip(115 + cv2.GaussianBlur(noise, (0, 0), 4), 0, 255).astype(np.uint8)
    path = save(tmp_path / "a.png", texture)
    plain = Preprocessing(128, contrast="none").read(path)
    assert Preprocessing(128).read(path).std() > 1.5 * plain.std()


def test_an_image_that_is_missing_broken_or_too_large_is_named(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"gone\.jpeg"):
        Preprocessing(64).read(tmp_path / "gone.jpeg")
    broken = tmp_path / "broken.jpeg"
    broken.write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"broken\.jpeg"):
        Preprocessing(64).read(broken)
    bomb = save(tmp_path / "bomb.png", np.zeros((40, 40), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match=r"bomb\.png.*exceeds limit"):
        Preprocessing(64).read(bomb)


def test_settings_come_back_from_a_checkpoints_config():
    section = {"image_size": 96, "contrast": "none", "resize": "stretch", "annotations": "none"}
    assert Preprocessing.from_config({"data": section}) == Preprocessing(96, "none", "stretch")
