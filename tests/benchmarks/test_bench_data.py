"""Samples, cache and loader, each against the naive way in the same run.

Run with `pytest tests/benchmarks/test_bench_data.py --override-ini addopts=`.

The images have the release's mean size, 1,629 × 2,128 pixels. The naive way uses the same
libraries, augmentation and interpolation on one thread too; it decodes the whole file to RGB every
time, works at full size and resizes last. Ratios are of processor time, which other programs
disturb least; the loader's throughput is wall-clock time and needs two idle cores.
"""

import itertools
import time
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pandas as pd
import pytest
from straightforward import (
    SIDE,
    SampleBySample,
    decode_rgb,
    draw_release,
    noted,
    resize,
)

from btxrd.data import ImageCache, Preprocessing, open_cache
from btxrd.data.augmentation import training_augmentation
from btxrd.data.loader import EpochSampler, RadiographDataset, make_loader

DRAWN, FILES, IMAGES = 12, 96, 3746
BATCH = 32
CPU_TIMER = pytest.mark.benchmark(timer=time.process_time)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return draw_release(tmp_path_factory.mktemp("images"), FILES, DRAWN)


@pytest.fixture(scope="module")
def cache(table: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> ImageCache:
    """As many images as the release has, 188 MB: more than a processor's own caches hold."""
    folder = tmp_path_factory.mktemp("cache")
    small = open_cache(table, Preprocessing(SIDE), folder, progress=False)
    np.save(folder / "all.npy", np.resize(small.images, (IMAGES, SIDE, SIDE)))
    images = np.load(folder / "all.npy", mmap_mode="r")
    index = pd.concat([small.index] * -(-len(images) // len(small.index)), ignore_index=True)
    return ImageCache(images, images, index, small.key)


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    yield
    cv2.setNumThreads(before)


def dataset_of(cache: ImageCache, augment: bool) -> RadiographDataset:
    rows, augmentation = np.arange(IMAGES), training_augmentation(seed=0) if augment else None
    return RadiographDataset(cache, rows, rows % 3, augmentation=augmentation)


def serve(dataset: RadiographDataset, batches: int | None = None) -> None:
    requests = EpochSampler(len(dataset), BATCH, seed=0, shuffle=True)
    for request in itertools.islice(requests, batches):
        dataset[request]


def naive_validation(path: str) -> np.ndarray:
    return resize(decode_rgb(path))


def hasty_validation(path: str) -> np.ndarray:
    """As most code resizes: no low-pass filter, so quicker, and fine detail turns into noise."""
    return resize(decode_rgb(path), cv2.INTER_LINEAR)


def naive_training(augmentation: Callable) -> Callable[[str], np.ndarray]:
    clahe = cv2.createCLAHE(2.0, (8, 8))

    def sample(path: str) -> np.ndarray:
        # The three channels are equal: one is equalised, which is the cheapest correct way.
        equalised = cv2.merge([clahe.apply(decode_rgb(path)[..., 0])] * 3)
        return resize(augmentation(image=equalised)["image"])

    return sample


def cpu_seconds(sample: Callable[[str], np.ndarray], paths: pd.Series) -> float:
    """Processor time of one sample, the mean over the files after one to warm up."""
    sample(paths.iloc[0])
    start = time.process_time()
    for path in paths:
        sample(path)
    return (time.process_time() - start) / len(paths)


def report(benchmark, seconds: float, **naive: float) -> float:
    """Note microseconds and ratios with the benchmark; return the first ratio."""
    ratios = {f"ratio_to_{name}": round(cost / seconds, 1) for name, cost in naive.items()}
    costs = {f"{name}_us": round(cost * 1e6) for name, cost in naive.items()}
    noted(benchmark, us=round(seconds * 1e6, 1), **ratios, **costs)
    return next(iter(ratios.values()))


@CPU_TIMER
@pytest.mark.usefixtures("one_thread")
def test_training_sample_is_a_hundred_times_the_naive_one(
    benchmark, table, cache, albumentations_alone
):
    """Bound by warping seven of ten images."""
    naive = cpu_seconds(naive_training(albumentations_alone()), table["path"])
    dataset, batches = dataset_of(cache, augment=True), 40
    benchmark.pedantic(serve, (dataset, batches), rounds=5, warmup_rounds=1)
    seconds = benchmark.stats.stats.median / (batches * BATCH)
    assert report(benchmark, seconds, naive=naive) >= 100


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("source_jitter", [False, True])
def test_training_sample_is_twice_as_fast_as_with_albumentations_alone(
    benchmark, cache, albumentations_alone, source_jitter
):
    """The least processor time of each of 40 batches, with either way in turn."""
    rows = np.arange(IMAGES)
    ways = [
        RadiographDataset(
            cache, rows, rows % 3, augmentation=training_augmentation(0, "standard", source_jitter)
        ),
        SampleBySample(cache, rows, rows % 3, augmentation=albumentations_alone(1, source_jitter)),
    ]
    requests = list(itertools.islice(EpochSampler(IMAGES, BATCH, seed=0, shuffle=True), 40))
    least = np.full((2, len(requests)), np.inf)

    def once() -> None:
        for number, request in enumerate(requests):
            for way, dataset in enumerate(ways):
                start = time.process_time()
                dataset[request]
                least[way, number] = min(least[way, number], time.process_time() - start)

    benchmark.pedantic(once, rounds=5, warmup_rounds=1)
    ours, plain = (least.mean(axis=1) / BATCH).tolist()
    report(benchmark, ours, plain=plain)
    assert ours <= plain / 2


@CPU_TIMER
@pytest.mark.usefixtures("one_thread")
def test_validation_sample_is_fifty_times_the_naive_one(benchmark, table, cache):
    """Bound by copying 50 kB out of the page cache."""
    naive = cpu_seconds(naive_validation, table["path"])
    hasty = cpu_seconds(hasty_validation, table["path"])
    benchmark.pedantic(serve, (dataset_of(cache, augment=False),), rounds=5, warmup_rounds=1)
    seconds = benchmark.stats.stats.median / IMAGES
    assert report(benchmark, seconds, naive=naive, hasty=hasty) >= 50


@CPU_TIMER
@pytest.mark.usefixtures("one_thread")
def test_cache_pays_for_itself_within_the_first_epoch(benchmark, table, tmp_path):
    """Bound by the JPEG's entropy coding, which decoding at an eighth of the size cannot skip.

    The time is that of all threads together: of one core, file digests and index included.
    """
    naive = cpu_seconds(naive_validation, table["path"])
    hasty = cpu_seconds(hasty_validation, table["path"])
    folders = (tmp_path / str(number) for number in itertools.count())
    benchmark.pedantic(
        open_cache,
        setup=lambda: ((table, Preprocessing(SIDE), next(folders), False), {}),
        rounds=5,
        warmup_rounds=1,
    )
    seconds = benchmark.stats.stats.median / FILES
    assert report(benchmark, seconds, naive=naive, hasty=hasty) >= 2


@pytest.mark.parametrize(("part", "required"), [("validation", 5000), ("training", 2500)])
def test_loader_throughput_on_two_cores(benchmark, cache, part, required):
    """Training is bound by augmentation in the workers, validation by handing batches over.

    Read from the best of ten epochs: others on the machine can only slow one.
    """
    dataset = dataset_of(cache, augment=part == "training")
    loader = make_loader(dataset, BATCH, seed=0, shuffle=True, workers=2)
    benchmark.pedantic(lambda: sum(len(labels) for _, labels in loader), rounds=10, warmup_rounds=1)
    best, median = IMAGES / benchmark.stats.stats.min, IMAGES / benchmark.stats.stats.median
    noted(benchmark, images_per_s=round(best), median=round(median))
    assert best >= required


def test_training_loader_outpaces_albumentations_alone(benchmark, cache, albumentations_alone):
    """The best of five epochs of either, in turn."""
    rows = np.arange(IMAGES)
    plain = SampleBySample(cache, rows, rows % 3, augmentation=albumentations_alone())
    loaders = [
        make_loader(dataset, BATCH, seed=0, shuffle=True, workers=2)
        for dataset in (dataset_of(cache, augment=True), plain)
    ]
    least = [np.inf, np.inf]

    def once() -> None:
        for way, loader in enumerate(loaders):
            start = time.perf_counter()
            served = sum(len(labels) for _, labels in loader)
            least[way] = min(least[way], (time.perf_counter() - start) / served)

    benchmark.pedantic(once, rounds=5, warmup_rounds=1)
    assert report(benchmark, least[0], plain=least[1]) >= 1.8
