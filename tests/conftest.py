"""What several test files share: a small phantom, its cache and split, and the real samples."""

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from btxrd.data import (
    ImageCache,
    Preprocessing,
    make_split,
    near_duplicates,
    open_cache,
    read_table,
)
from btxrd.phantom import make_phantom
from btxrd.predictions import predictions_frame

SHARED = Path(__file__).resolve().parents[2] / "shared"

# One thread here and in the kernels that tests start: small tensors only lose by more.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_phantom(tmp_path_factory.mktemp("data") / "phantom", n_images=120, workers=1)


@pytest.fixture(scope="session")
def table(phantom: Path) -> pd.DataFrame:
    return read_table(phantom)


@pytest.fixture(scope="session")
def cache_dir(phantom: Path) -> Path:
    return phantom.parent / "cache"


@pytest.fixture(scope="session")
def cache(table: pd.DataFrame, cache_dir: Path) -> ImageCache:
    return open_cache(table, Preprocessing(64), cache_dir, progress=False)


@pytest.fixture(scope="session")
def duplicates(cache: ImageCache) -> pd.DataFrame:
    return near_duplicates(cache.index["image_id"], cache.index["phash"].to_numpy())


@pytest.fixture(scope="session")
def split(table: pd.DataFrame, duplicates: pd.DataFrame) -> pd.DataFrame:
    return make_split(table, "stratified", duplicates=duplicates)


@pytest.fixture(scope="session")
def predicted() -> Callable[..., pd.DataFrame]:
    """Make predictions of a model that gives the true class's logit `skill` more than noise."""

    def make(
        sizes: tuple[int, int, int] = (60, 50, 20),
        seed: int = 0,
        skill: float = 1.5,
        part: str = "test",
        views: int = 2,
        **columns: Any,
    ) -> pd.DataFrame:
        """Give so many images of each class, in study groups of `views` images of one class."""
        y = np.repeat([0, 1, 2], sizes)
        rows = pd.DataFrame({"image_id": [f"{part}-{i:04d}" for i in range(len(y))], "label": y})
        groups = [f"{label}-{i // views}" for i, label in enumerate(y)]
        rows = rows.assign(part=part, center=1, group=groups).assign(**columns)
        noise = np.random.default_rng(seed).normal(size=(len(y), 3))
        return predictions_frame(rows, noise + skill * np.eye(3)[y])

    return make


@pytest.fixture
def drawn() -> Callable[[Figure, Any], Figure]:
    """Draw a figure, and check what every figure promises."""
    plt.switch_backend("Agg")

    def draw(figure: Figure, n: Any) -> Figure:
        assert isinstance(figure, Figure)
        assert f"n = {n}" in figure.get_suptitle()
        assert figure.get_figwidth() <= 10
        figure.canvas.draw()
        assert plt.get_fignums() == []
        return figure

    return draw


@pytest.fixture
def no_file_above() -> Callable[[int], AbstractContextManager[None]]:
    """Let this process and its kernels write no file of more bytes, as on a disk nearly full."""

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))

    return limited


@pytest.fixture(scope="session")
def real_sample() -> Path:
    return _shared("btxrd-sample")


@pytest.fixture(scope="session")
def real_table() -> Path:
    return _shared("btxrd-table")


def _shared(name: str) -> Path:
    if not (SHARED / name).is_dir():
        pytest.skip(f"the real {name} is not beside this clone")
    return SHARED / name
