"""An epoch of E1 at 224 px against the straightforward loop, end to end, in one run.

The straightforward loop is what most notebooks do: every file decoded to RGB, equalised, augmented
at full size, resized and normalised by the dataset's `__getitem__`; the default `DataLoader`; the
network in the default NCHW layout. Files are of the release's usual size, 1,629 × 2,128 pixels.
"""

import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from straightforward import SIDE, decode_rgb, draw_release, plain_augmentation, resize
from torch import nn
from torch.utils.data import DataLoader, Dataset

from btxrd import NORMALIZATION
from btxrd.data import Preprocessing, open_cache
from btxrd.data.augmentation import training_augmentation
from btxrd.data.loader import RadiographDataset, make_loader
from btxrd.models import create_model
from btxrd.params import RunParams
from btxrd.training import seed_everything

IMAGES, BATCH, THREADS = 192, 32, 2
RUN = RunParams(
    experiment="E1",
    model={"backbone": "efficientnet_b0", "pretrained": False},
    training={"epochs": 1, "warmup_epochs": 0, "lr": 1e-4, "batch_size": BATCH},
)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return draw_release(tmp_path_factory.mktemp("images"), IMAGES, drawn=24)


class Straightforward(Dataset):
    """One file, one sample: float32 (3, S, S)."""

    def __init__(self, paths: pd.Series, labels: np.ndarray) -> None:
        self.paths, self.labels = paths, labels
        self.clahe = cv2.createCLAHE(2.0, (8, 8))
        self.augmentation = plain_augmentation()
        self.mean, self.std = (np.array(NORMALIZATION[key], np.float32) for key in ("mean", "std"))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        image = decode_rgb(self.paths.iloc[number])
        image = cv2.merge([self.clahe.apply(image[..., 0])] * 3)
        image = resize(self.augmentation(image=image)["image"]).astype(np.float32) / 255
        return torch.from_numpy(((image - self.mean) / self.std).transpose(2, 0, 1)), int(
            self.labels[number]
        )


def straightforward_epoch(paths: pd.Series, labels: np.ndarray) -> tuple[float, float]:
    """Return the seconds and the mean loss of an epoch."""
    seed_everything(RUN.seed)
    network = create_model(RUN.model_dump()).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=RUN.training.lr)
    criterion = nn.CrossEntropyLoss(label_smoothing=RUN.training.label_smoothing)
    loader = DataLoader(Straightforward(paths, labels), batch_size=BATCH, shuffle=True)
    losses, start = [], time.perf_counter()
    for images, targets in loader:
        optimizer.zero_grad()
        loss = criterion(network(images), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return time.perf_counter() - start, float(np.mean(losses))


def our_epoch(fit_network, train, val, study_dir: Path) -> tuple[float, float]:
    """Return the seconds and the mean loss of an epoch, start and checkpoints included."""
    run = RUN.model_copy(update={"study_dir": str(study_dir)})
    seed_everything(run.seed)
    network = create_model(run.model_dump())
    loaders = {
        "train": make_loader(train, BATCH, run.seed, shuffle=True),
        "val": make_loader(val, BATCH, run.seed, shuffle=False),
    }
    start = time.perf_counter()
    fitted = fit_network(network, loaders, run)
    return time.perf_counter() - start, float(fitted.history["train_loss"].iloc[0])


def seconds(loader: DataLoader) -> float:
    """Return how long serving an epoch takes."""
    start = time.perf_counter()
    for _ in loader:
        pass
    return time.perf_counter() - start


def test_an_epoch_is_twice_as_fast_as_the_straightforward_one(table, fit_network, tmp_path, capsys):
    """Ours is bound by the network; the rest is channels-last layout and the fused optimiser."""
    torch.set_num_threads(THREADS)
    labels = np.arange(IMAGES) % 3
    started = time.perf_counter()
    cache = open_cache(table, Preprocessing(SIDE), tmp_path / "cache", progress=False)
    cache_seconds = time.perf_counter() - started
    augmented = RadiographDataset(
        cache, np.arange(IMAGES), labels, augmentation=training_augmentation(seed=0)
    )
    val = RadiographDataset(cache, np.arange(3), labels[:3])
    data = [
        seconds(make_loader(augmented, BATCH, RUN.seed, shuffle=True)),
        seconds(DataLoader(Straightforward(table["path"], labels), batch_size=BATCH)),
    ]
    rounds = []
    for number in range(3):
        naive = straightforward_epoch(table["path"], labels)
        rounds.append(
            (*naive, *our_epoch(fit_network, augmented, val, tmp_path / f"study-{number}"))
        )
    naive, naive_loss, ours, loss = np.median(np.array(rounds), axis=0)
    with capsys.disabled():
        print(
            f"\nE1, {IMAGES} images of {SIDE} px, {THREADS} threads: straightforward {naive:.1f} s "
            f"({IMAGES / naive:.1f} images/s), ours {ours:.1f} s ({IMAGES / ours:.1f} images/s), "
            f"ratio {naive / ours:.2f}; the data alone {data[1]:.1f} s and {data[0]:.2f} s; "
            f"cache, once, {cache_seconds:.1f} s; loss {naive_loss:.3f} and {loss:.3f}"
        )
    assert naive / ours >= 2
    assert abs(naive_loss - loss) < 0.1


def seconds_a_step(frozen_stages: int) -> float:
    """Return how long a training step of EfficientNet-Lite0 takes; the median of five."""
    model = {"backbone": "tf_efficientnet_lite0", "frozen_stages": frozen_stages}
    network = create_model({"model": model}).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    images = torch.zeros(BATCH, 3, SIDE, SIDE).to(memory_format=torch.channels_last)
    labels, taken = torch.arange(BATCH) % 3, []
    for _ in range(7):
        start = time.perf_counter()
        loss = nn.functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        taken.append(time.perf_counter() - start)
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
