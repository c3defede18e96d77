"""Training-time augmentation: val and test never see it."""

import albumentations as A
import cv2

__all__ = ["training_augmentation"]


def training_augmentation(seed: int) -> A.Compose:
    """Return the study's augmentation of uint8 (S, S) images, with its own random state.

    albumentations ignores global seeds: call `set_random_seed` on the result before each batch.

    >>> import numpy as np
    >>> training_augmentation(1)(image=np.full((64, 64), 128, np.uint8))["image"].shape
    (64, 64)
    """
    return A.Compose(
        [
            A.HorizontalFlip(p=0.5),
            A.Affine(
                scale=(0.9, 1.1),
                translate_percent=(-0.05, 0.05),
                rotate=(-15, 15),
                interpolation=cv2.INTER_LINEAR,
                p=0.7,
            ),
            A.RandomBrightnessContrast(brightness_limit=0.1, contrast_limit=0.1, p=0.5),
            A.GaussNoise(std_range=(0.01, 0.03), p=0.2),
            A.CoarseDropout(
                num_holes_range=(1, 4),
                hole_height_range=(0.05, 0.12),
                hole_width_range=(0.05, 0.12),
                p=0.2,
            ),
        ],
        seed=seed,
    )
