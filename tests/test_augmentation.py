"""What the augmentation does to images, against the transforms of albumentations it replaces."""

import albumentations as A
import numpy as np
import pytest
from scipy.stats import ks_2samp

from btxrd.data.augmentation import STRENGTHS, training_augmentation

SIDE, DRAWS = 64, 1500
ACROSS = np.tile(np.arange(1, SIDE + 1, dtype=np.uint8), (SIDE, 1))
DARK, BRIGHT = (np.full((SIDE, SIDE), level, np.uint8) for level in (90, 150))


def drawn(augmentation: A.Compose, image: np.ndarray, mask: np.ndarray, draws: int = DRAWS):
    """Return images and masks, uint8 (draws, S, S), of the same seed each time."""
    augmentation.set_random_seed(7)
    samples = [augmentation(image=image, mask=mask) for _ in range(draws)]
    return tuple(np.stack([sample[name] for sample in samples]) for name in ("image", "mask"))


def facts(augmentation: A.Compose) -> dict[str, np.ndarray]:
    """Return what was done to each image, float (draws,), and NaN where a step did nothing.

    How an image moved is read from its mask, in which every pixel says where it came from.
    """
    dark, x = drawn(augmentation, DARK, ACROSS)
    bright, y = drawn(augmentation, BRIGHT, ACROSS.T)
    patch = np.s_[:, SIDE // 2 - 12 : SIDE // 2 + 12, SIDE // 2 - 12 : SIDE // 2 + 12]
    rows, columns = np.mgrid[-11.5:12, -11.5:12]
    design = np.column_stack([columns.ravel(), rows.ravel(), np.ones(rows.size)])
    came = np.stack([x[patch], y[patch]], axis=-1).reshape(DRAWS, -1, 2) - (SIDE + 1) / 2
    (xx, yx), (xy, yy), shift = np.moveaxis(np.linalg.pinv(design) @ came, 0, -1)
    flipped = xx < 0
    moved = (np.where(flipped[:, None, None], x[:, :, ::-1], x) != ACROSS).any(axis=(1, 2))
    tones = [np.median(image[patch], axis=(1, 2)) for image in (dark, bright)]
    toned = (tones[0] != 90) | (tones[1] != 150)
    kept = np.where(bright[patch] == 0, np.nan, bright[patch])
    noise = np.nanstd(kept.reshape(DRAWS, -1), axis=1)
    holes = ((bright == 0) & (x > 0)).mean(axis=(1, 2))
    values = {
        "flip": (flipped, flipped),
        "rotation": (moved, np.degrees(np.arctan2(yx, np.abs(xx)))),
        "scale_x": (moved, np.hypot(xx, yx)),
        "scale_y": (moved, np.hypot(xy, yy)),
        "shift_x": (moved, shift[0]),
        "shift_y": (moved, shift[1]),
        "contrast": (toned, tones[1] - tones[0]),
        "brightness": (toned, tones[1] + tones[0]),
        "noise": (noise > 0, noise),
        "holes": (holes > 0, holes),
    }
    return {name: np.where(done, value, np.nan) for name, (done, value) in values.items()}


@pytest.mark.parametrize("strength", STRENGTHS)
def test_images_change_as_the_specification_says(strength, albumentations_alone):
    ours = facts(training_augmentation(0, strength))
    theirs = facts(albumentations_alone(STRENGTHS[strength]))
    # The library cuts fractions off: levels are half a level lower, noise less than promised.
    theirs["brightness"] += 1
    promised = 255 * STRENGTHS[strength] * np.linspace(0.01, 0.03, DRAWS)
    theirs["noise"] = np.where(np.isnan(theirs["noise"]), np.nan, promised)
    for name in ours:
        pair = [values[~np.isnan(values)] for values in (ours[name], theirs[name])]
        assert abs(len(pair[0]) - len(pair[1])) < 0.055 * DRAWS, name
        assert ks_2samp(*pair).pvalue > 0.001, name


def test_one_step_tells_nothing_about_another():
    """The first images of batches, where transforms seeded alike would all draw the same number."""
    augmentation, firsts = training_augmentation(0), []
    for seed in range(500):
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
