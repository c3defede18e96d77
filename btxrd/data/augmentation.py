"""Training-time augmentation: val and test never see it."""

import math
import random
from functools import cache
from typing import Any

import albumentations as A
import cv2
import numpy as np

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
    steps = [] if strength == "none" else [_Standard(STRENGTHS[strength])]
    return _Compose([*steps, *(_source_jitter() if source_jitter else [])], seed=seed)


class _Compose(A.Compose):
    """Compose transforms that draw from one random state in turn.

    The library gives each a state of the same seed: one draw then decides about several steps.
    """

    def set_random_seed(self, seed: int | None) -> None:
        self.set_random_state(np.random.default_rng(seed), random.Random(seed))


class _Standard(A.DualTransform):
    """Do what five transforms of albumentations did, in few passes; `factor` is the strength."""

    def __init__(self, factor: float) -> None:
        super().__init__(p=1)
        self.factor = factor

    def _uniform(self, low: float, high: float) -> float:
        return self.factor * self.py_random.uniform(low, high)

    def get_params_dependent_on_data(self, params: dict, data: dict) -> dict[str, Any]:
        mirror = self.py_random.random() < 0.5
        if self.py_random.random() >= 0.7:
            return {"mirror": mirror, "matrix": None}
        height, width = params["shape"][:2]
        angle = math.radians(self._uniform(-15, 15))
        along_x, along_y = (1 + self._uniform(-0.1, 0.1) for _ in range(2))
        along_x *= -1 if mirror else 1
        a, b = math.cos(angle) * along_x, math.sin(angle) * along_y
        c, d = -math.sin(angle) * along_x, math.cos(angle) * along_y
        x, y = (width - 1) / 2, (height - 1) / 2
        right, down = (int(side * self._uniform(-0.05, 0.05)) for side in (width, height))
        matrix = [[a, b, x + right - a * x - b * y], [c, d, y + down - c * x - d * y]]
        return {"mirror": mirror, "matrix": np.array(matrix)}

    def apply(self, img: np.ndarray, **params: Any) -> np.ndarray:
        chance, integer = self.py_random.random, self.py_random.randint
        img = _moved(img, cv2.INTER_LINEAR, **params)
        if chance() < 0.5:
            contrast, brightness = 1 + self._uniform(-0.1, 0.1), 255 * self._uniform(-0.1, 0.1)
            img = cv2.addWeighted(img, contrast, img, 0, brightness)
        if chance() < 0.2:
            start, scale = integer(0, 3 * img.size), 255 / 32 * self._uniform(0.01, 0.03)
            noise = _noise_bank(4 * img.size)[start : start + img.size].reshape(img.shape)
            img = cv2.addWeighted(img, 1, noise, scale, -128 * scale)
        if chance() < 0.2:
            img, (height, width) = img.copy(), img.shape[:2]
            for _ in range(integer(1, 4)):
                tall, wide = (int(side * self._uniform(0.05, 0.12)) for side in (height, width))
                top, left = integer(0, height - tall), integer(0, width - wide)
                img[top : top + tall, left : left + wide] = 0
        return img

    def apply_to_mask(self, mask: np.ndarray, **params: Any) -> np.ndarray:
        return _moved(mask, cv2.INTER_NEAREST, **params)


def _moved(pixels: np.ndarray, interpolation: int, mirror, matrix, **others: Any) -> np.ndarray:
    if matrix is not None:
        return cv2.warpAffine(pixels, matrix, pixels.shape[1::-1], flags=interpolation)
    return cv2.flip(pixels, 1) if mirror else pixels


@cache
def _noise_bank(size: int) -> np.ndarray:
    """Return normal noise of mean 128 and deviation 32, uint8 (size,), always the same."""
    return np.random.default_rng(0).normal(128, 32, size).round().clip(0, 255).astype(np.uint8)


class _OneOf(A.OneOf):
    """Choose one of the transforms, all as likely, without the library's slow weighted choice."""

    def __call__(self, **data: Any) -> dict[str, Any]:
        if self.py_random.random() >= self.p:
            return data
        return self.py_random.choice(self.transforms)(force_apply=True, **data)


def _source_jitter() -> list[A.BasicTransform | A.BaseCompose]:
    interpolation = {"downscale": cv2.INTER_AREA, "upscale": cv2.INTER_LINEAR}
    sharpness = [
        A.GaussianBlur(blur_limit=0, sigma_limit=(0.5, 1.5)),
        A.Sharpen(alpha=(0.2, 0.5), lightness=(1.0, 1.0)),
        A.Downscale(scale_range=(0.5, 0.9), interpolation_pair=interpolation),
    ]
    crop = A.CropAndPad(percent=(-0.1, 0.0), keep_size=True, p=0.3)
    return [_OneOf(sharpness, p=0.5), crop, A.InvertImg(p=0.2)]
