"""The usual way of reading radiographs, which the benchmarks measure against, and what it reads."""

import cv2
import numpy as np
import pandas as pd
import torch

from btxrd.data.loader import BatchRequest, RadiographDataset

WIDTH, HEIGHT, SIDE = 1629, 2128, 224
"""Pixels: of the release's median file, and of what the network gets."""


def draw_radiograph(number: int) -> np.ndarray:
    """Soft tissue, three bones and film noise: uint8 (2128, 1629)."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j].astype(np.float32)
    image = 40 + 60 * np.exp(-((x / 0.7) ** 4))
    for centre, width in rng.uniform([-0.4, 0.08], [0.4, 0.2], (3, 2)):
        image += 60 * np.exp(-(((x - centre - 0.1 * np.sin(2 * y)) / width) ** 4))
    grain = rng.normal(0, 1.15, (HEIGHT // 2, WIDTH // 2))
    image += cv2.resize(grain, (WIDTH, HEIGHT))
    return image.clip(0, 255).astype(np.uint8)


def draw_release(folder, files: int, drawn: int) -> pd.DataFrame:
    """Draw so many of the files, and let the others be copies; returns image_id and path."""
    jpegs = [
        cv2.imencode(".jpg", draw_radiograph(number), [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
        for number in range(drawn)
    ]
    paths = [folder / f"IMG{number:06d}.jpeg" for number in range(files)]
    for number, path in enumerate(paths):
        path.write_bytes(jpegs[number % drawn])
    return pd.DataFrame({"image_id": [path.name for path in paths], "path": map(str, paths)})


def noted(benchmark, **facts) -> None:
    """Note facts with the benchmark, and print them."""
    benchmark.extra_info |= facts
    print(f"\n{benchmark.name}: {benchmark.extra_info}")


def best_seconds(clock, function, *arguments, rounds: int = 5):
    """Return the seconds of the best round by a clock, and what the last returned."""
    taken = []
    for _ in range(rounds):
        start = clock()
        result = function(*arguments)
        taken.append(clock() - start)
    return min(taken), result


def decode_rgb(path: str) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def resize(image: np.ndarray, interpolation: int = cv2.INTER_AREA) -> np.ndarray:
    return cv2.resize(image, (SIDE, SIDE), interpolation=interpolation)


class SampleBySample(RadiographDataset):
    """Batches whose images go through albumentations one after another, and are stacked."""

    def __getitem__(self, request: BatchRequest) -> tuple[torch.Tensor, torch.Tensor]:
        images = self.cache.images[self.rows[request.samples]]
        self.augmentation.set_random_seed(request.seed)
        augmented = np.stack([self.augmentation(image=image)["image"] for image in images])
        return torch.from_numpy(augmented), torch.from_numpy(self.labels[request.samples])
