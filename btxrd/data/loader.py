"""Batches from the image cache, and the one way from uint8 pixels to a network's input."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from btxrd import NORMALIZATION
from btxrd.data.cache import ImageCache
from btxrd.params import DataParams

__all__ = [
    "BatchRequest",
    "EpochSampler",
    "RadiographDataset",
    "make_datasets",
    "make_loader",
    "to_input",
]


class BatchRequest(NamedTuple):
    """What a dataset is asked for: sample numbers and the seed of their augmentation."""

    samples: np.ndarray
    seed: int


def to_input(images: torch.Tensor, normalization: dict = NORMALIZATION) -> torch.Tensor:
    """Turn preprocessed pixels into a network's input, on the device they are on.

    Shared by training, evaluation, Grad-CAM and predict.

    Args:
        images: uint8 (B, S, S).
        normalization: channel `mean` and `std` of pixels in [0, 1], three numbers each.

    Returns:
        float32 (B, 3, S, S) in channels-last layout.
    """
    mean, std = (
        torch.tensor(normalization[key], device=images.device).view(1, 3, 1, 1)
        for key in ("mean", "std")
    )
    pixels = images.unsqueeze(1).float().div_(255)
    return ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)


class RadiographDataset(Dataset):
    """Samples of the image cache; each item is a whole batch.

    With `annotations="roi_dim"` every annotated image has a second sample, whose pixels outside
    the lesion mask are multiplied by `dim_factor`. Normals have none.

    Args:
        cache: the image cache.
        rows: int64 (n,), the images' rows in the cache.
        labels: int64 (n,), their labels.
        annotations: `none` or `roi_dim`.
        dim_factor: in [0, 1].
        augment: whether to augment (train only).
    """

    def __init__(
        self,
        cache: ImageCache,
        rows: np.ndarray,
        labels: np.ndarray,
        annotations: str = "none",
        dim_factor: float = 0.5,
        augment: bool = False,
    ) -> None:
        rows, labels = np.asarray(rows), np.asarray(labels)
        dimmed = np.zeros(len(rows), bool)
        if annotations == "roi_dim":
            annotated = np.flatnonzero(cache.index["lesion_area"].to_numpy()[rows] > 0)
            rows = np.concatenate([rows, rows[annotated]])
            labels = np.concatenate([labels, labels[annotated]])
            dimmed = np.concatenate([dimmed, np.ones(len(annotated), bool)])
        self.cache = cache
        self.rows, self.labels, self.dimmed = rows, labels, dimmed
        self.dim_factor = dim_factor
        self.augmentation = None
        if augment:
            # albumentations takes a second to import, and only training needs it.
            from btxrd.data.augmentation import training_augmentation

            self.augmentation = training_augmentation(seed=0)

    def __len__(self) -> int:
        """Return the number of samples, dimmed copies included."""
        return len(self.rows)

    def __getitem__(self, request: BatchRequest) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a batch: uint8 (B, S, S) images and int64 (B,) labels."""
        rows = self.rows[request.samples]
        images = self.cache.images[rows]
        dimmed = self.dimmed[request.samples]
        if dimmed.any():
            images[dimmed] = self._dim(images[dimmed], self.cache.masks[rows[dimmed]])
        if self.augmentation is not None:
            self.augmentation.set_random_seed(request.seed)
            images = np.stack([self.augmentation(image=image)["image"] for image in images])
        return torch.from_numpy(images), torch.from_numpy(self.labels[request.samples])

    def _dim(self, images: np.ndarray, masks: np.ndarray) -> np.ndarray:
        return np.where(masks == 1, images, np.rint(images * self.dim_factor).astype(np.uint8))


def make_datasets(
    cache: ImageCache, split: pd.DataFrame, params: DataParams, seed: int
) -> dict[str, RadiographDataset]:
    """Return the datasets of the parts of a split: train augmented and annotated, others plain.

    Args:
        cache: the image cache.
        split: as `make_split` returns it.
        params: what annotations add, and whether the training labels are shuffled (a control).
        seed: the run's.

    Returns:
        `train`, `val` and `test`, each in the split's order.
    """
    datasets = {}
    for part in ("train", "val", "test"):
        frame = split[split["split"] == part]
        rows, labels = cache.rows(frame["image_id"]), frame["label"].to_numpy()
        if part != "train":
            datasets[part] = RadiographDataset(cache, rows, labels)
            continue
        if params.shuffle_labels:
            labels = np.random.default_rng(seed).permutation(labels)
        datasets[part] = RadiographDataset(
            cache, rows, labels, params.annotations, params.dim_factor, augment=True
        )
    return datasets


class EpochSampler(Sampler[BatchRequest]):
    """The batches of an epoch, decided by the run's seed and the epoch's number alone.

    Neither the number of workers nor what ran before changes them, so an epoch can be repeated.
    Batches differ in size by one at most: there is no small last one to upset batch statistics.

    Args:
        samples: how many there are.
        batch_size: the largest batch.
        seed: the run's.
        shuffle: whether to reorder the samples every epoch.
    """

    def __init__(self, samples: int, batch_size: int, seed: int, shuffle: bool) -> None:
        self.samples, self.batch_size, self.seed = samples, batch_size, seed
        self.shuffle = shuffle
        self.epoch = 0

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-self.samples // self.batch_size)

    def __iter__(self) -> Iterator[BatchRequest]:
        """Yield the requests of the current `epoch`."""
        random = np.random.default_rng([self.seed, self.epoch])
        order = random.permutation(self.samples) if self.shuffle else np.arange(self.samples)
        for samples in np.array_split(order, len(self)):
            yield BatchRequest(samples, int(random.integers(2**31)))


def make_loader(
    dataset: RadiographDataset, batch_size: int, seed: int, shuffle: bool, workers: int = 0
) -> DataLoader:
    """Return a loader whose `sampler.epoch` the training loop sets before each epoch."""
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=EpochSampler(len(dataset), batch_size, seed, shuffle),
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
