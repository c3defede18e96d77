"""What the augmentation does to images, against the transforms of albumentations it replaces."""

import albumentations as A
import cv2
import numpy as np
import pytest
from scipy.stats import ks_2samp

from btxrd.data.augmentation import STRENGTHS, training_augmentation

SIDE, DRAWS = 64, 500
ACROSS = np.tile(np.arange(SIDE, dtype=np.uint8), (SIDE, 1))
DARK, BRIGHT = (np.full((SIDE, SIDE), level, np.uint8) for level in (90, 150))


def librarys(factor: float) -> A.Compose:
    """The specification, as albumentations is told it, multiplied by a strength's factor."""
    hole = (0.05 * factor, 0.12 * factor)
    return A.Compose(
        [
            A.HorizontalFlip(p=0.5),
            A.Affine(
                scale=(1 - 0.1 * factor, 1 + 0.1 * factor),
                translate_percent=(-0.05 * factor, 0.05 * factor),
                rotate=(-15 * factor, 15 * factor),
                interpolation=cv2.INTER_LINEAR,
                p=0.7,
            ),
            A.RandomBrightnessContrast(0.1 * factor, 0.1 * factor, p=0.5),
            A.GaussNoise(std_range=(0.01 * factor, 0.03 * factor), p=0.2),
            A.CoarseDropout((1, 4), hole_height_range=hole, hole_width_range=hole, p=0.2),
        ]
    )


def drawn(augmentation: A.Compose, image: np.ndarray, mask: np.ndarray, draws: int = DRAWS):
    """Return images and masks, uint8 (draws, S, S), of the same seed each time."""
    augmentation.set_random_seed(7)
    samples = [augmentation(image=image, mask=mask) for _ in range(draws)]
    return tuple(np.stack([sample[name] for sample in samples]) for name in ("image", "mask"))


def facts(augmentation: A.Compose) -> dict[str, np.ndarray]:
    """Return what was done to each image, float (draws,), read from its mask and its centre."""
    dark, x = drawn(augmentation, DARK, ACROSS)
    bright, y = drawn(augmentation, BRIGHT, ACROSS.T)
    centre = slice(SIDE // 2 - 12, SIDE // 2 + 12)
    rows, columns = np.mgrid[-11.5:12, -11.5:12]
    design = np.column_stack([columns.ravel(), rows.ravel(), np.ones(rows.size)])
    came = np.stack([x, y], axis=-1)[:, centre, centre].reshape(DRAWS, -1, 2) - (SIDE - 1) / 2
    (xx, yx), (xy, yy), (x0, y0) = np.moveaxis(np.linalg.pinv(design) @ came, 0, -1)
    patches = (image[:, centre, centre].reshape(DRAWS, -1) for image in (dark, bright))
    dark_level, bright_level = (np.median(patch, axis=1) for patch in patches)
    residuals = bright.astype(float) - bright_level[:, None, None]
    return {
        "flipped": xx < 0,
        "rotation": np.degrees(np.arctan2(yx, np.abs(xx))).round() * np.where(xx < 0, -1, 1),
        "scale_x": np.hypot(xx, yx).round(2),
        "scale_y": np.hypot(xy, yy).round(2),
        "shift_x": x0.round(),
        "shift_y": y0.round(),
        "contrast": (bright_level - dark_level).round(-1),
        "brightness": ((bright_level + dark_level) / 2).round(-1),
        "noise": np.median(np.abs(residuals[:, centre, centre]), axis=(1, 2)).round(),
        "holes": np.where((x == ACROSS).all(axis=(1, 2)), (bright == 0).mean(axis=(1, 2)), 0),
    }


@pytest.mark.parametrize("strength", STRENGTHS)
def test_images_change_as_the_specification_says(strength):
    ours = facts(training_augmentation(0, strength))
    theirs = facts(librarys(STRENGTHS[strength]))
    unlike = {name: p for name in ours if (p := ks_2samp(ours[name], theirs[name]).pvalue) < 0.001}
    assert unlike == {}


def test_one_step_tells_nothing_about_another():
    """The first images of batches, where transforms seeded alike would all draw the same number."""
    augmentation, firsts = training_augmentation(0), []
    for seed in range(DRAWS):
        augmentation.set_random_seed(seed)
        firsts.append(augmentation(image=BRIGHT, mask=ACROSS))
    mirrored = [sample["mask"][32, 20] > sample["mask"][32, 44] for sample in firsts]
    noisy = [len(np.unique(sample["image"][24:40, 24:40])) > 5 for sample in firsts]
    assert 0.4 < np.mean(mirrored) < 0.6
    assert 0.15 < np.mean(noisy) < 0.25
    assert abs(np.corrcoef(mirrored, noisy)[0, 1]) < 0.15


def test_each_image_has_noise_of_its_own():
    images = drawn(training_augmentation(0), BRIGHT, ACROSS)[0][:, 24:40, 24:40]
    noisy = [image.tobytes() for image in images if len(np.unique(image)) > 5]
    assert len(noisy) == len(set(noisy)) > 50


def test_neither_tones_nor_holes_reach_the_mask_or_the_callers_image():
    images, masks = drawn(training_augmentation(0), BRIGHT, np.ones_like(BRIGHT))
    moved = (masks == 0).any(axis=(1, 2))
    assert (images[~moved] == 0).any()
    assert set(np.unique(masks)) == {0, 1}
    assert 0.2 < moved.mean() < 0.7
    assert (BRIGHT == 150).all()
