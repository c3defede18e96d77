"""Batches from the image cache: dimmed copies, augmentation, the order of an epoch."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple

import cv2
import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from btxrd.data.cache import ImageCache
from btxrd.params import DataParams

if TYPE_CHECKING:
    import albumentations as A

__all__ = [
    "BatchRequest",
    "EpochSampler",
    "RadiographDataset",
    "borrow_masks",
    "make_datasets",
    "make_loader",
    "worker_count",
]


class BatchRequest(NamedTuple):
    """A request of one batch: sample numbers and the seed of their augmentation."""

    samples: np.ndarray
    seed: int


def borrow_masks(annotated: np.ndarray, regions: np.ndarray, seed: int) -> np.ndarray:
    """Return for each image the number, int64 (n,), of that whose lesion mask it is dimmed around.

    Those `annotated`, bool (n,), keep their own mask; the others borrow one within their region,
    (n,), or from all images where it has none. ValueError where no image is annotated.

    >>> annotated = np.array([True, False, True, False, False])
    >>> borrow_masks(annotated, np.array(["arm", "arm", "leg", "leg", "leg"]), seed=1)
    array([0, 0, 2, 2, 2])
    """
    if not annotated.any():
        raise ValueError("annotations: balanced_dim needs annotated images in train, found none")
    random = np.random.default_rng(seed)
    lenders = np.arange(len(annotated))
    for region in np.unique(regions):
        borrowers = np.flatnonzero((regions == region) & ~annotated)
        same_region = np.flatnonzero((regions == region) & annotated)
        pool = same_region if len(same_region) else np.flatnonzero(annotated)
        lenders[borrowers] = random.choice(pool, len(borrowers))
    return lenders


class RadiographDataset(Dataset):
    """Samples of the image cache; each item is a whole batch.

    Args:
        rows, labels: int64 (samples,), their rows in the cache, and their classes.
        bright: int64 (samples,), the row in the cache outside whose lesion mask a sample is dimmed;
            -1, and by default, not at all.
        dim_factor: pixels are multiplied by this there, in [0, 1].
        augmentation: of each image, and its mask, with the request's seed; none by default.
        masks: whether batches hold the lesion masks too, augmented as the images are.
    """

    def __init__(
        self,
        cache: ImageCache,
        rows: np.ndarray,
        labels: np.ndarray,
        bright: np.ndarray | None = None,
        dim_factor: float = 0.5,
        augmentation: "A.Compose | None" = None,
        masks: bool = False,
    ) -> None:
        self.cache, self.rows, self.labels = cache, rows, labels
        self.bright = np.full(len(rows), -1) if bright is None else bright
        self.dim_factor, self.augmentation, self.masks = dim_factor, augmentation, masks

    def __len__(self) -> int:
        """Return the number of samples, dimmed copies included."""
        return len(self.rows)

    def __getitem__(self, request: BatchRequest) -> tuple[torch.Tensor, ...]:
        """Return uint8 (B, S, S) images, int64 (B,) labels and, with `masks`, uint8 {0, 1} masks.

        The masks (B, S, S) are of the images' own lesions: never a borrowed one.
        """
        rows, bright = self.rows[request.samples], self.bright[request.samples]
        images = self.cache.images[rows]
        dark = np.rint(np.arange(256) * self.dim_factor).astype(np.uint8)
        for number in np.flatnonzero(bright >= 0):
            outside = 1 - self.cache.masks[bright[number]]
            cv2.copyTo(cv2.LUT(images[number], dark), outside, images[number])
        pixels = {"image": images}
        if self.masks:
            pixels["mask"] = self.cache.masks[rows]
        if self.augmentation is not None:
            self.augmentation.set_random_seed(request.seed)
            for number in range(len(images)):
                augmented = self.augmentation(**{name: pixels[name][number] for name in pixels})
                for name in pixels:
                    pixels[name][number] = augmented[name]
        images, *masks = (torch.from_numpy(stack) for stack in pixels.values())
        return images, torch.from_numpy(self.labels[request.samples]), *masks


def make_datasets(
    cache: ImageCache,
    split: pd.DataFrame,
    params: DataParams,
    seed: int,
    regions: pd.Series | None = None,
    masks: bool = False,
    augment: bool = True,
) -> dict[str, RadiographDataset]:
    """Return the datasets of the parts of a split: train annotated and augmented, others plain.

    With `annotations: roi_dim` every annotated training image has a second sample, dimmed outside
    its lesion mask; with `balanced_dim` every image has one, those without a lesion around the
    mask that `borrow_masks` chose. The dimmed samples stand after all others.

    Args:
        split: as `make_split` returns it.
        seed: of the borrowing, and of the shuffled labels of a control experiment.
        regions: body region by image_id; needed only for `balanced_dim`.
        masks: whether the training batches hold the lesion masks.
        augment: whether the training images are augmented; those of a probe are not.

    Returns:
        `train`, `val` and `test`, each in the split's order.

    Raises:
        ValueError: `balanced_dim` without regions, or without an annotated training image; or the
            split names images that cannot be used, which it lists.
    """
    _require_usable(cache, split)
    datasets = {}
    for part in ("train", "val", "test"):
        frame = split[split["part"] == part]
        rows, labels = cache.rows(frame["image_id"]), frame["label"].to_numpy()
        datasets[part] = RadiographDataset(cache, rows, labels)
    ids = split["image_id"][split["part"] == "train"]
    rows, labels = datasets["train"].rows, datasets["train"].labels
    if params.shuffle_labels:
        labels = np.random.default_rng(seed).permutation(labels)
    annotated = cache.index["lesion_area"].to_numpy()[rows] > 0
    copies = lenders = np.flatnonzero(annotated & (params.annotations == "roi_dim"))
    if params.annotations == "balanced_dim":
        if regions is None:
            raise ValueError("annotations: balanced_dim needs the images' regions")
        copies = np.arange(len(rows))
        lenders = borrow_masks(annotated, regions[ids].to_numpy(), seed)
    augmentation = None
    if augment:
        # albumentations takes a second to import, and only training needs it.
        from btxrd.data.augmentation import training_augmentation

        augmentation = training_augmentation(0, params.augmentation, params.source_jitter)
    datasets["train"] = RadiographDataset(
        cache,
        np.concatenate([rows, rows[copies]]),
        np.concatenate([labels, labels[copies]]),
        np.concatenate([np.full(len(rows), -1), rows[lenders]]),
        params.dim_factor,
        augmentation,
        masks,
    )
    return datasets


def _require_usable(cache: ImageCache, split: pd.DataFrame) -> None:
    errors = cache.index.set_index("image_id")["error"].astype(object)
    reasons = errors.reindex(split["image_id"], fill_value="set aside, `btxrd check` says why")
    broken = reasons.dropna()
    if len(broken):
        raise ValueError(
            f"the split names {len(broken)} images that cannot be used since it was made: "
            f"{'; '.join(f'{name}: {why}' for name, why in broken.head(3).items())}. Mend the "
            "files, or run the study again: it makes the splits anew, without them"
        )


class EpochSampler(Sampler[BatchRequest]):
    """The batches of an epoch, decided by the run's seed and the epoch's number alone.

    So an epoch can be repeated, with any number of workers. Batches differ in size by one at most:
    there is no small last one to upset batch statistics.

    Args:
        samples: their number.
        shuffle: whether their order differs from epoch to epoch.
        balance: int64 (samples,), their classes, for an epoch with as many samples of each: those
            of large classes are drawn anew each epoch, those of small ones repeated.
    """

    def __init__(
        self,
        samples: int,
        batch_size: int,
        seed: int,
        shuffle: bool,
        balance: np.ndarray | None = None,
    ) -> None:
        self.samples, self.batch_size, self.seed = samples, batch_size, seed
        self.shuffle, self.balance = shuffle, balance
        self.epoch = 0

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-self.samples // self.batch_size)

    def __iter__(self) -> Iterator[BatchRequest]:
        """Yield the requests of the current `epoch`."""
        random = np.random.default_rng([self.seed, self.epoch])
        order = np.arange(self.samples)
        if self.balance is not None:
            order = _balanced(self.balance, random)
        if self.shuffle:
            order = random.permutation(order)
        for samples in np.array_split(order, len(self)):
            yield BatchRequest(samples, int(random.integers(2**31)))


def _balanced(classes: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return int64 (n,) samples: as many as there are, of each class equally often, within one."""
    members = [np.flatnonzero(classes == each) for each in np.unique(classes)]
    shares = np.array_split(np.arange(len(classes)), len(members))
    drawn = zip(members, shares, strict=True)
    return np.concatenate([np.resize(random.permutation(m), len(share)) for m, share in drawn])


def worker_count(workers: int | Literal["auto"], device: torch.device) -> int:
    """Return how many processes load the training batches for a device: `workers`, unless `auto`.

    That is none where the CPU trains: it is busy enough. For a GPU it is one less than the threads
    that torch has here, which are the cores of this run, from one to eight.
    """
    if workers != "auto":
        return workers
    return min(max(torch.get_num_threads() - 1, 1), 8) if device.type == "cuda" else 0


def make_loader(
    dataset: Dataset,
    batch_size: int,
    seed: int,
    shuffle: bool,
    workers: int = 0,
    balanced: bool = False,
) -> DataLoader:
    """Return a loader whose `sampler.epoch` the training loop sets, perhaps of balanced classes."""
    balance = dataset.labels if balanced else None
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=EpochSampler(len(dataset), batch_size, seed, shuffle, balance),
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
