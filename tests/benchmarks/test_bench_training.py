"""An epoch of E1 at 224 px against the usual loop, from files to weights, in one run.

Run with `pytest tests/benchmarks/test_bench_training.py -s -o addopts= -n 0`.

The usual loop is an open-source project's on the same data set: Pillow, albumentations at the
file's own size, the default `DataLoader`, NCHW, AdamW as it comes. Files are the real sample where
it stands beside the clone, else drawn ones of the release's mean size. The network, its images
and the threads are the same; our cache is made before. Ratios are of processor time.
"""

import time
from pathlib import Path

import albumentations as A
import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from albumentations.pytorch import ToTensorV2
from PIL import Image
from straightforward import SIDE, draw_release
from torch import nn
from torch.utils.data import DataLoader, Dataset

from btxrd import NORMALIZATION
from btxrd.data import Preprocessing, open_cache
from btxrd.data.augmentation import training_augmentation
from btxrd.data.loader import RadiographDataset, make_loader
from btxrd.models import create_model
from btxrd.models.memory import keeping_memory
from btxrd.params import RunParams
from btxrd.training import seed_everything

SAMPLE = Path(__file__).resolve().parents[3] / "shared" / "btxrd-sample" / "images"
FILES, IMAGES, BATCH, THREADS, PAIRS = 12, 192, 32, 1, 3
RUN = RunParams(
    experiment="E1",
    model={"backbone": "efficientnet_b0", "pretrained": False},
    training={"epochs": 1, "warmup_epochs": 0, "lr": 1e-4, "batch_size": BATCH},
)


class UsualDataset(Dataset):
    """One file, one sample: float32 (3, S, S); `steps` augment it."""

    def __init__(self, paths: pd.Series, steps: list[A.BasicTransform]) -> None:
        self.paths = paths
        clahe, resize = A.CLAHE(clip_limit=4.0, p=1.0), A.Resize(SIDE, SIDE)
        normalize = A.Normalize(NORMALIZATION["mean"], NORMALIZATION["std"])
        self.transform = A.Compose([clahe, *steps, resize, normalize, ToTensorV2()], seed=0)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        image = np.array(Image.open(self.paths.iloc[number]).convert("RGB"))
        return self.transform(image=image)["image"], number % 3


def usual_epoch(paths: pd.Series, steps: list[A.BasicTransform]) -> float:
    """Return the mean loss of an epoch."""
    seed_everything(RUN.seed)
    network = create_model(RUN.model_dump()).train()
    settings, losses = RUN.training, []
    optimizer = torch.optim.AdamW(network.parameters(), settings.lr)
    criterion = nn.CrossEntropyLoss(label_smoothing=settings.label_smoothing)
    for images, labels in DataLoader(UsualDataset(paths, steps), batch_size=BATCH, shuffle=True):
        optimizer.zero_grad()
        loss = criterion(network(images), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), settings.grad_clip)
        optimizer.step()
        losses.append(loss.item())
    return float(np.mean(losses))


def our_epoch(fit_network, datasets, study_dir: Path) -> float:
    """Return the mean loss of an epoch, checkpoints and a validation of three images included."""
    seed_everything(RUN.seed)
    network = create_model(RUN.model_dump())
    loaders = {
        part: make_loader(dataset, BATCH, RUN.seed, shuffle=part == "train")
        for part, dataset in datasets.items()
    }
    fitted = fit_network(network, loaders, RUN.model_copy(update={"study_dir": str(study_dir)}))
    return float(fitted.history["train_loss"].iloc[0])


def taken(epoch, *arguments) -> tuple[float, float, float]:
    """Return processor and wall-clock seconds of an epoch, and its loss."""
    cpu, wall = time.process_time(), time.perf_counter()
    loss = epoch(*arguments)
    return time.process_time() - cpu, time.perf_counter() - wall, loss


def source_files(folder: Path, longest: int | None) -> list[str]:
    """Return paths of the files, reduced to fit so many pixels where they are to be."""
    paths = sorted(SAMPLE.glob("*.jp*g")) or draw_release(folder, FILES, FILES)["path"]
    if longest is None:
        return [str(path) for path in paths]
    (folder / "reduced").mkdir()
    reduced = [folder / "reduced" / Path(path).name for path in paths]
    for path, small in zip(paths, reduced, strict=True):
        image = Image.open(path)
        image.thumbnail((longest, longest))
        image.save(small, quality=90)
    return [str(path) for path in reduced]


@pytest.mark.parametrize(("longest", "least"), [(None, 2.5), (256, 1.8)])
def test_an_epoch_is_faster_than_the_usual_one(
    fit_network, albumentations_alone, tmp_path, capsys, longest, least
):
    """Ours is bound by the network: channels-last layout, memory kept, and data from the cache.

    The first step takes its memory from the system: an epoch of fewer steps gains less.
    """
    torch.set_num_threads(THREADS)
    cv2.setNumThreads(THREADS)
    paths = pd.Series(np.resize(source_files(tmp_path, longest), IMAGES))
    table = pd.DataFrame({"image_id": [f"{n}.jpeg" for n in range(IMAGES)], "path": paths})
    cache = open_cache(table, Preprocessing(SIDE), tmp_path / "cache", progress=False)
    rows = np.arange(IMAGES)
    datasets = {
        "train": RadiographDataset(cache, rows, rows % 3, augmentation=training_augmentation(0)),
        "val": RadiographDataset(cache, rows[:3], rows[:3]),
    }
    steps = albumentations_alone().transforms
    usual_epoch(paths[:BATCH], steps)
    rounds = [
        taken(usual_epoch, paths, steps)
        + taken(our_epoch, fit_network, datasets, tmp_path / str(number))
        for number in range(PAIRS)
    ]
    cpu, wall, loss, our_cpu, our_wall, our_loss = np.median(rounds, axis=0)
    with capsys.disabled():
        print(
            f"\nE1, {IMAGES} images of {SIDE} px from files of {longest or 'full'} size, "
            f"{THREADS} thread: usual {cpu:.1f} s CPU ({wall:.1f} s), ours {our_cpu:.1f} s CPU "
            f"({our_wall:.1f} s), ratio {cpu / our_cpu:.2f} ({wall / our_wall:.2f} wall-clock); "
            f"loss {loss:.3f} and {our_loss:.3f}"
        )
    assert abs(loss - our_loss) < 0.1
    assert cpu / our_cpu >= least


@keeping_memory()
def seconds_a_step(frozen_stages: int) -> float:
    """Return the processor time of a step of EfficientNet-Lite0, the median of five."""
    model = {"backbone": "tf_efficientnet_lite0", "frozen_stages": frozen_stages}
    network = create_model({"model": model}).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    images = torch.zeros(BATCH, 3, SIDE, SIDE).to(memory_format=torch.channels_last)
    labels, taken = torch.arange(BATCH) % 3, []
    for _ in range(7):
        start = time.process_time()
        loss = nn.functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        taken.append(time.process_time() - start)
    return float(np.median(taken[2:]))


def test_frozen_stages_spare_the_dearest_half_of_a_step(capsys):
    torch.set_num_threads(THREADS)
    whole, half = np.median([[seconds_a_step(0), seconds_a_step(4)] for _ in range(3)], axis=0)
    with capsys.disabled():
        print(
            f"\nEfficientNet-Lite0, a step of {BATCH} images of {SIDE} px, {THREADS} threads: "
            f"{whole:.2f} s, with four of eight stages frozen {half:.2f} s, "
            f"ratio {whole / half:.2f}"
        )
    assert whole / half >= 1.5
