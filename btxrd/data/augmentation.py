"""Training-time augmentation: val and test never see it."""

import albumentations as A
import cv2

__all__ = ["STRENGTHS", "training_augmentation"]

STRENGTHS = {"light": 0.5, "standard": 1.0, "strong": 2.0}
"""The strengths, as multiples of the standard augmentation."""


def training_augmentation(
    seed: int, strength: str = "standard", source_jitter: bool = False
) -> A.Compose:
    """Return an augmentation of uint8 (S, S) images, with its own random state.

    albumentations ignores global seeds: call `set_random_seed` on the result before each batch.

    Args:
        strength: a key of `STRENGTHS`, or `none`.
        source_jitter: whether images also change in what can tell hospitals apart, after the
            domain randomisation of (Zhang et al. 2020).

    >>> import numpy as np
    >>> training_augmentation(1)(image=np.full((64, 64), 128, np.uint8))["image"].shape
    (64, 64)
    """
    steps = [] if strength == "none" else _standard(STRENGTHS[strength])
    return A.Compose([*steps, *(_source_jitter() if source_jitter else [])], seed=seed)


def _standard(factor: float) -> list[A.BasicTransform]:
    hole = (0.05 * factor, 0.12 * factor)
    return [
        A.HorizontalFlip(p=0.5),
        A.Affine(
            scale=(1 - 0.1 * factor, 1 + 0.1 * factor),
            translate_percent=(-0.05 * factor, 0.05 * factor),
            rotate=(-15 * factor, 15 * factor),
            interpolation=cv2.INTER_LINEAR,
            p=0.7,
        ),
        A.RandomBrightnessContrast(
            brightness_limit=0.1 * factor, contrast_limit=0.1 * factor, p=0.5
        ),
        A.GaussNoise(std_range=(0.01 * factor, 0.03 * factor), p=0.2),
        A.CoarseDropout(
            num_holes_range=(1, 4), hole_height_range=hole, hole_width_range=hole, p=0.2
        ),
    ]


def _source_jitter() -> list[A.BasicTransform | A.BaseCompose]:
    return [
        A.OneOf(
            [
                A.GaussianBlur(blur_limit=0, sigma_limit=(0.5, 1.5)),
                A.Sharpen(alpha=(0.2, 0.5), lightness=(1.0, 1.0)),
                A.Downscale(
                    scale_range=(0.5, 0.9),
                    interpolation_pair={"downscale": cv2.INTER_AREA, "upscale": cv2.INTER_LINEAR},
                ),
            ],
            p=0.5,
        ),
        A.CropAndPad(percent=(-0.1, 0.0), keep_size=True, p=0.3),
        A.InvertImg(p=0.2),
    ]
