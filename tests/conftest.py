"""What several test files share: a small phantom, its cache and split, and the real samples.

What takes long to import is imported by the fixtures: the process that hands out the tests reads
this file too, before the others start.
"""

import base64
import json
import os
import resource
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from click.testing import Result
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from btxrd.data import ImageCache

SHARED = Path(__file__).resolve().parents[2] / "shared"

# One thread here and in the kernels that tests start: small tensors only lose by more.
os.environ["OMP_NUM_THREADS"] = "1"

KERNELS = ("tests/test_external.py", "tests/test_notebooks.py", "tests/test_run.py")
"""Their notebooks run in kernels that a process keeps warm: the files go to the same one."""

LONGEST = ("test_study.py", "test_notebooks.py", "test_run.py", "test_training.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files, so that no process waits for another in the end."""
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """One file of tests at a time for each process, as with `--dist loadfile`, but for kernels."""
    from xdist.scheduler import LoadFileScheduling

    class KernelsTogether(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "kernels" if file in KERNELS else file

    return KernelsTogether(config, log)


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """120 drawn images; the processes of one call of pytest share them."""
    from btxrd.extras.phantom import make_phantom

    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "data"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / ".lock"):
        if not (folder / "phantom").exists():
            make_phantom(folder / "phantom", n_images=120, workers=1)
    return folder / "phantom"


@pytest.fixture(scope="session")
def table(phantom: Path) -> "pd.DataFrame":
    from btxrd.data import read_table

    return read_table(phantom)


@pytest.fixture(scope="session")
def cache_dir(phantom: Path) -> Path:
    return phantom.parent / "cache"


@pytest.fixture(scope="session")
def cache(table: "pd.DataFrame", cache_dir: Path) -> "ImageCache":
    from btxrd.data import Preprocessing, open_cache

    return open_cache(table, Preprocessing(64), cache_dir, progress=False)


@pytest.fixture(scope="session")
def duplicates(cache: "ImageCache") -> "pd.DataFrame":
    from btxrd.data import near_duplicates

    index = cache.index
    return near_duplicates(index["image_id"], index["phash"].to_numpy(), index["digest"])


@pytest.fixture(scope="session")
def split(table: "pd.DataFrame", duplicates: "pd.DataFrame") -> "pd.DataFrame":
    from btxrd.data import make_split

    return make_split(table, "stratified", duplicates=duplicates)


@pytest.fixture(scope="session")
def fit_network() -> Callable[..., Any]:
    """Train a network on loaders by the recipe of notebook 03; returns the `Fit`."""
    import torch

    from btxrd.models import compute_class_weights
    from btxrd.training import fit, parameter_groups, warmup_cosine

    def trained(network: Any, loaders: Any, run: Any, on_epoch: Any = ()) -> Any:
        settings, steps = run.training, len(loaders["train"])
        optimizer = torch.optim.AdamW(
            parameter_groups(network, settings),
            settings.lr,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        return fit(
            network,
            loaders["train"],
            loaders["val"],
            torch.nn.CrossEntropyLoss(
                compute_class_weights(loaders["train"].dataset.labels),
                label_smoothing=settings.label_smoothing,
            ),
            optimizer,
            warmup_cosine(optimizer, settings.warmup_epochs * steps, settings.epochs * steps),
            run,
            on_epoch,
        )

    return trained


@pytest.fixture(scope="session")
def albumentations_alone() -> Callable[..., Any]:
    """Make the augmentation of the specification from albumentations' own transforms."""
    import albumentations as A
    import cv2

    from btxrd.data.augmentation import training_augmentation

    def augmentation(factor: float = 1, source_jitter: bool = False) -> A.Compose:
        """Multiply the standard strength by a factor."""
        hole = (0.05 * factor, 0.12 * factor)
        jitter = training_augmentation(0, "none", source_jitter).transforms
        return A.Compose(
            [
                A.HorizontalFlip(p=0.5),
                A.Affine(
                    scale=(1 - 0.1 * factor, 1 + 0.1 * factor),
                    translate_percent=(-0.05 * factor, 0.05 * factor),
                    rotate=(-15 * factor, 15 * factor),
                    interpolation=cv2.INTER_LINEAR,
                    p=0.7,
                ),
                A.RandomBrightnessContrast(0.1 * factor, 0.1 * factor, p=0.5),
                A.GaussNoise(std_range=(0.01 * factor, 0.03 * factor), p=0.2),
                A.CoarseDropout((1, 4), hole, hole, p=0.2),
                *(A.OneOf(s.transforms, s.p) if isinstance(s, A.OneOf) else s for s in jitter),
            ],
            seed=0,
        )

    return augmentation


@pytest.fixture(scope="session")
def saved_network() -> Callable[..., Any]:
    """Save an untrained network that tells images apart as a checkpoint; returns the network."""
    import torch

    from btxrd.models import BTXRDClassifier, save_checkpoint

    def save(path: Path, config: dict[str, Any], seed: int = 0) -> BTXRDClassifier:
        torch.manual_seed(seed)
        network = BTXRDClassifier("resnet10t", pretrained=False)
        torch.nn.init.normal_(network.model.fc.weight)
        optimizer = torch.optim.AdamW(network.parameters())
        save_checkpoint(network, optimizer, None, 1, 0.5, config, [1.0, 1.0, 1.0], path)
        return network.eval()

    return save


@pytest.fixture(scope="session")
def predicted() -> Callable[..., "pd.DataFrame"]:
    """Make predictions of a model that gives the true class's logit `skill` more than noise."""
    import numpy as np
    import pandas as pd

    from btxrd.predictions import predictions_frame

    def make(
        sizes: tuple[int, int, int] = (60, 50, 20),
        seed: int = 0,
        skill: float = 1.5,
        part: str = "test",
        views: int = 2,
        **columns: Any,
    ) -> "pd.DataFrame":
        """Give so many images of each class, in patient groups of `views` images of one class."""
        y = np.repeat([0, 1, 2], sizes)
        rows = pd.DataFrame({"image_id": [f"{part}-{i:04d}" for i in range(len(y))], "label": y})
        groups = [f"{label}-{i // views}" for i, label in enumerate(y)]
        rows = rows.assign(part=part, center=1, group=groups).assign(**columns)
        noise = np.random.default_rng(seed).normal(size=(len(y), 3))
        return predictions_frame(rows, noise + skill * np.eye(3)[y])

    return make


@pytest.fixture(scope="session")
def korn_graubard() -> Callable[..., tuple[float, float]]:
    """Compute the interval of a proportion as the paper does, one at a time."""
    import numpy as np
    from scipy.stats import beta, t

    def interval(
        replicates: Any, share: float, n: int, groups: int, level: float, degrees: Any = None
    ) -> tuple[float, float]:
        """Give the ends; the variance is that of replicates which draw `groups` of as many."""
        tail, mean, variance = (1 - level) / 2, np.mean(replicates), np.var(replicates)
        n_eff = groups
        if variance > 0:
            effect = variance * groups / (groups - 1) / (mean * (1 - mean) / (n - 1))
            quantiles = t.ppf(tail, [n - 1, degrees or groups - 1])
            n_eff = n / max(1, effect) * (quantiles[0] / quantiles[1]) ** 2
        x = share * n_eff
        low = beta.ppf(tail, x, n_eff - x + 1) if x > 0 else 0
        high = beta.ppf(1 - tail, x + 1, n_eff - x) if x < n_eff else 1
        return low, high

    return interval


@pytest.fixture(scope="session")
def btxrd() -> Callable[..., "Result"]:
    """Run the command with words and paths; returns what it wrote, and its status."""
    from click.testing import CliRunner

    from btxrd.runner.cli import main

    return lambda *words: CliRunner().invoke(main, [*map(str, words)])


@pytest.fixture
def drawn() -> Callable[["Figure", Any], "Figure"]:
    """Draw a figure, and check what every figure promises."""
    from matplotlib import pyplot as plt
    from matplotlib.figure import Figure

    plt.switch_backend("Agg")

    def draw(figure: Figure, n: Any) -> Figure:
        assert isinstance(figure, Figure)
        assert f"n = {n}" in figure.get_suptitle()
        assert figure.get_figwidth() <= 10
        figure.canvas.draw()
        assert plt.get_fignums() == []
        return figure

    return draw


class Killed(Exception):
    """Stands for the end of the process in the middle of a training."""


@pytest.fixture
def die_at() -> Callable[[int], Callable[[dict[str, float]], None]]:
    """Make an `on_epoch` that ends the process, as it were, after an epoch; raises its `Killed`."""

    def make(epoch: int) -> Callable[[dict[str, float]], None]:
        def on_epoch(row: dict[str, float]) -> None:
            if row["epoch"] == epoch:
                raise Killed

        return on_epoch

    make.Killed = Killed
    return make


class Here(nullcontext):
    """In the place of a cluster: this process, whose kernels are warm already."""

    def __init__(self, jobs, scheduler, resources):
        super().__init__(self)
        self.resources = {}

    def slots(self):
        return 1

    def meet(self, file):
        return 1

    def submit(self, function, *arguments):
        future = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    def result(self, future):
        return future.result()


@pytest.fixture(scope="session")
def here() -> type:
    """What stands in for `btxrd.runner.study.Cluster` to run a study in this process."""
    return Here


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
def read_heatmaps() -> "Callable[[Path], dict[str, dict[str, NDArray[np.uint8]]]]":
    """Read `heatmaps.js`: source → image_id → the picture of its map, uint8 BGRA (h, w, 4)."""
    import cv2
    import numpy as np

    def picture(address: str) -> "NDArray[np.uint8]":
        png = base64.b64decode(address.removeprefix("data:image/png;base64,"))
        return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)

    def read(path: Path) -> "dict[str, dict[str, NDArray[np.uint8]]]":
        call = path.read_text().strip()
        content = json.loads(call.removeprefix("btxrdHeatmaps(").removesuffix(");"))
        return {
            source: {image_id: picture(address) for image_id, address in maps.items()}
            for source, maps in content["maps"].items()
        }

    return read


@pytest.fixture(scope="session")
def real_sample() -> Path:
    return _shared("btxrd-sample")


@pytest.fixture(scope="session")
def real_table() -> Path:
    return _shared("btxrd-table")


@pytest.fixture(scope="session")
def real_images() -> Path:
    return _shared("btxrd-256")


def _shared(name: str) -> Path:
    if not (SHARED / name).is_dir():
        pytest.skip(f"the real {name} is not beside this clone")
    return SHARED / name
