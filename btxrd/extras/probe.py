"""A probe: the network stays as it is, and a new head is fitted on its features.

Features are computed once and kept beside the image cache. A linear head is a multinomial logistic
regression as in (Alain and Bengio 2017) and takes seconds; one with attention is trained by
`btxrd.training.fit`, in minutes. What comes of it is an ordinary checkpoint.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from filelock import FileLock
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from btxrd.data.loader import BatchRequest, RadiographDataset, make_loader
from btxrd.files import (
    atomic_path,
    clear_scratch,
    digest,
    project_path,
    read_csv,
    write_csv,
    write_json,
)
from btxrd.models import BTXRDClassifier, load_checkpoint, save_checkpoint
from btxrd.models.attention import stage_shapes
from btxrd.models.inference import head_inputs, linear_head
from btxrd.models.weights import body_digest
from btxrd.params import RunParams
from btxrd.session import check_stop
from btxrd.stages import FEATURES_FILE
from btxrd.training import Fit, epoch_metrics, memory_advice

__all__ = ["KeptFeatures", "feature_loaders", "fit_head", "head_logits", "open_features"]

LAYOUT = 1
"""Raise it when the meaning of the stored features changes: old ones are then computed anew."""

PACKAGES = ("torch", "timm")
"""Whose version can change the features."""

MOST_ITERATIONS = 1000

Head = tuple[torch.Tensor, torch.Tensor]
"""Weight (C, D) and bias (C,) of a linear layer, float32."""


@dataclass(frozen=True)
class KeptFeatures:
    """What a network's head reads of some samples, on disk until it is asked for.

    Attributes:
        images, copies: float (n, D), memory-mapped: of all images, and of some dimmed copies.
        rows: int64 (samples,), of `copies` where the sample is `dimmed`, else of `images`.
        dimmed: bool (samples,).
        shapes: of a head with attention, C, h and w of each of the `stage_maps` that D joins.
    """

    images: np.ndarray
    copies: np.ndarray
    rows: np.ndarray
    dimmed: np.ndarray
    shapes: list[torch.Size]

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.rows)

    def __getitem__(self, samples: np.ndarray | slice) -> np.ndarray:
        """Return the features of some samples, (k, D)."""
        rows, dimmed = self.rows[samples], self.dimmed[samples]
        found = np.empty((len(rows), self.images.shape[1]), self.images.dtype)
        found[~dimmed], found[dimmed] = self.images[rows[~dimmed]], self.copies[rows[dimmed]]
        return found

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        """Return the features of all samples, (samples, D)."""
        return self[:].astype(dtype or self.images.dtype, copy=False)

    def stages(self, samples: np.ndarray | slice) -> list[torch.Tensor]:
        """Return the `stage_maps` of some samples, float32 (k, C, h, w) each, channels-last."""
        joined = torch.from_numpy(self[samples]).float()
        parts = joined.split([shape.numel() for shape in self.shapes], dim=1)
        return [
            part.unflatten(1, (height, width, channels)).permute(0, 3, 1, 2)
            for part, (channels, height, width) in zip(parts, self.shapes, strict=True)
        ]


def open_features(
    network: BTXRDClassifier,
    datasets: Mapping[str, RadiographDataset],
    run: RunParams,
    progress: bool = True,
) -> dict[str, KeptFeatures]:
    """Return what a network's head reads of every sample; compute it first where it is not kept.

    The features of all images are kept in `run.cache_dir`, those of dimmed copies beside them. The
    key covers the images' contents, their preprocessing, and the network's weights. Processes that
    want the same features wait for the one that computes them; an interrupted computation goes on.

    Args:
        network: put into eval mode and channels-last layout; it computes where it is, in single
            precision.
        datasets: as `btxrd.data.loader.make_datasets` returns them, not augmented.
        run: where features are kept, and how many images go through the network at a time.

    Returns:
        Part → the features of its dataset's samples, in their order.

    Raises:
        FloatingPointError: the network gives features that are no finite numbers.
        MemoryError: memory ran out, on the GPU or here; says which batch size to try.
        OSError: there is no room for the features.
        StopRequested: the study is to stop; what is done so far is kept.
        ValueError: the network has no linear head, nor one with attention.
    """
    network.to(memory_format=torch.channels_last).eval()
    cache = datasets["train"].cache
    rows = np.arange(len(cache.images))
    whole = RadiographDataset(cache, rows, labels=np.zeros_like(rows))
    plain = _stored(network, whole, run, progress)
    shapes = _shapes(network, whole)
    features = {}
    for part, samples in datasets.items():
        dimmed = samples.bright >= 0
        features[part] = KeptFeatures(plain, plain[:0], samples.rows, dimmed, shapes)
        if dimmed.any():
            copies = RadiographDataset(
                cache,
                samples.rows[dimmed],
                samples.labels[dimmed],
                samples.bright[dimmed],
                samples.dim_factor,
            )
            features[part] = replace(
                features[part],
                copies=_stored(network, copies, run, progress),
                rows=np.where(dimmed, dimmed.cumsum() - 1, samples.rows),
            )
    return features


def _shapes(network: BTXRDClassifier, samples: RadiographDataset) -> list[torch.Size]:
    if network.attention is None:
        return []
    return stage_shapes(network.model, samples.cache.images.shape[1])


def _stored(
    network: BTXRDClassifier, samples: RadiographDataset, run: RunParams, progress: bool
) -> np.ndarray:
    """Return the features of some samples, float (samples, D), memory-mapped."""
    places = [samples.rows.tolist(), samples.bright.tolist(), samples.dim_factor]
    made_by = [body_digest(network.model), network.normalization, *map(version, PACKAGES)]
    if network.flip_at_test:
        made_by.append("flip_at_test")
    key = digest([LAYOUT, samples.cache.key, places, made_by])
    name = f"features-{key}" if network.attention is None else f"stages-{key}"
    folder = project_path(run.cache_dir)
    file, unfinished = folder / f"{name}.npy", folder / f"{name}.unfinished.npy"
    with FileLock(file.with_suffix(".lock")):
        if not file.is_file():
            clear_scratch(folder, unfinished.name)
            _compute(network, samples, unfinished, run, progress)
            unfinished.rename(file)
    return np.load(file, mmap_mode="r")


def _compute(
    network: BTXRDClassifier,
    samples: RadiographDataset,
    file: Path,
    run: RunParams,
    progress: bool,
) -> None:
    """Fill a file of features, whose rows are NaN until they are computed."""
    if not file.is_file():
        _write_empty(network, samples, file)
    features = np.lib.format.open_memmap(file, "r+")
    size = run.training.batch_size
    # The same batches however often it is interrupted: another size gives other last digits.
    batches = np.array_split(np.arange(len(samples)), math.ceil(len(samples) / size))
    bar = {"desc": "features", "unit": "batch", "disable": not progress}
    started = time.perf_counter()
    for done, batch in enumerate(tqdm(batches, **bar)):
        if 10 * done % len(batches) < 10:
            _note(run, done / len(batches), started)
        rows = slice(batch[0], batch[-1] + 1)
        if np.isnan(features[rows]).any():
            check_stop(project_path(run.study_dir))
            images, *_ = samples[BatchRequest(batch, 0)]
            with memory_advice("in the features", size):
                features[rows] = head_inputs(network, images)
            if not np.isfinite(features[rows]).all():
                raise FloatingPointError(
                    f"{run.model.backbone} gives features that are no finite numbers"
                )
    features.flush()
    _note(run, 1.0, started)


def _write_empty(network: BTXRDClassifier, samples: RadiographDataset, file: Path) -> None:
    """Write an array of NaN, a row at a time: the features may be larger than the memory."""
    if network.attention is None:
        row = np.full(linear_head(network).in_features, np.nan, np.float32)
    else:
        width = sum(shape.numel() for shape in _shapes(network, samples))
        row = np.full(width, np.nan, np.float16)
    shape = (len(samples), len(row))
    header = {"descr": row.dtype.str, "fortran_order": False, "shape": shape}
    # Through Python's file: NumPy's own writer does not say why it failed.
    with atomic_path(file) as new, new.open("wb") as out:
        np.lib.format.write_array_header_1_0(out, header)
        for _ in samples.rows:
            out.write(row.tobytes())


def _note(run: RunParams, share: float, started: float) -> None:
    """Say how far the features are to whoever follows the study."""
    facts = {"share": share, "seconds": time.perf_counter() - started}
    write_json(run.run_dir / FEATURES_FILE, facts)


class FeatureDataset(Dataset):
    """The features of samples in the place of their images; each item is a whole batch.

    Args:
        features: of a head with attention, as `open_features` returns them.
        samples: the dataset that they are of; with its masks, if it has them.
    """

    def __init__(self, features: KeptFeatures, samples: RadiographDataset) -> None:
        self.features, self.samples, self.labels = features, samples, samples.labels

    def __len__(self) -> int:
        """Return the number of samples, dimmed copies included."""
        return len(self.samples)

    def __getitem__(self, request: BatchRequest) -> tuple[list[torch.Tensor] | torch.Tensor, ...]:
        """Return a list of `stage_maps`, int64 (B,) labels and, with masks, uint8 (B, S, S)."""
        chosen, masks = request.samples, []
        if self.samples.masks:
            masks = [torch.from_numpy(self.samples.cache.masks[self.samples.rows[chosen]])]
        labels = torch.from_numpy(self.labels[chosen])
        return self.features.stages(chosen), labels, *masks


def feature_loaders(
    features: Mapping[str, KeptFeatures],
    datasets: Mapping[str, RadiographDataset],
    run: RunParams,
) -> dict[str, DataLoader]:
    """Return loaders for `btxrd.training.fit` that serve features of samples, not their images."""
    return {
        part: make_loader(
            FeatureDataset(features[part], samples),
            run.training.batch_size,
            run.seed,
            shuffle=part == "train",
            balanced=part == "train" and not run.weighs_classes,
        )
        for part, samples in datasets.items()
    }


def fit_head(
    network: BTXRDClassifier,
    features: Mapping[str, KeptFeatures],
    labels: Mapping[str, np.ndarray],
    class_weights: torch.Tensor,
    run: RunParams,
    on_step: Iterable[Callable[[dict[str, float]], None]] = (),
) -> Fit:
    """Fit a network's linear head on its features and write the checkpoint of the best one.

    A multinomial logistic regression on standardised features for each inverse penalty of
    `run.training.C`; standardisation is folded into the head. The one with the least
    validation loss is kept, in the network and in `model.pt`. Writes `history.csv` and
    `seconds.csv` to `run.run_dir` after each. A folder with the same probe, complete, is left as
    it is. There is no chance in it: the seed changes nothing.

    Args:
        features, labels: by part: as `open_features` returns them, int64 (n,).
        class_weights: float (C,), weights of the training loss. The validation loss is unweighted.
        on_step: each is called with the row of the history, and its seconds.

    Raises:
        OSError: there is no room for the files.
        ValueError: the folder holds a training of other parameters.
    """
    run.run_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(run.run_dir / ".training.lock"):
        path = run.run_dir / "model.pt"
        if path.is_file():
            return _known_fit(network, run, path)
        arrays = {part: np.asarray(kept) for part, kept in features.items()}
        fit, head = _fit_all(network, arrays, labels, class_weights, run, on_step)
        _set_head(network, *head)
        config, val_loss = run.model_dump(), fit.best["val_loss"]
        save_checkpoint(network, None, None, 0, val_loss, config, class_weights, path)
    return fit


def _fit_all(
    network: BTXRDClassifier,
    features: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    class_weights: torch.Tensor,
    run: RunParams,
    on_step: Iterable[Callable[[dict[str, float]], None]],
) -> tuple[Fit, Head]:
    scaler = StandardScaler().fit(features["train"].astype(np.float64))
    standardised = scaler.transform(features["train"].astype(np.float64))
    regression = LogisticRegression(
        class_weight=dict(enumerate(class_weights.tolist())),
        max_iter=MOST_ITERATIONS,
        warm_start=True,
    )
    rows: list[dict[str, float]] = []
    seconds: list[float] = []
    heads: list[Head] = []
    for c in run.training.C:
        started = time.perf_counter()
        regression.set_params(C=c).fit(standardised, labels["train"])
        heads.append(_folded(regression, scaler))
        row = {"C": c}
        for part, weights in {"train": class_weights, "val": None}.items():
            row |= _scores(part, heads[-1], features[part], labels[part], weights)
        rows.append(row)
        seconds.append(time.perf_counter() - started)
        history = pd.DataFrame(rows)
        write_csv(run.run_dir / "history.csv", history)
        speed = history[["C"]].assign(seconds=seconds)
        write_csv(run.run_dir / "seconds.csv", speed)
        for callback in on_step:
            callback(row | {"seconds": seconds[-1]})
    return Fit(history, speed), heads[history["val_loss"].idxmin()]


def _folded(regression: LogisticRegression, scaler: StandardScaler) -> Head:
    """Return the linear layer that does to features what the regression does to standardised."""
    weight = regression.coef_ / scaler.scale_
    bias = regression.intercept_ - weight @ scaler.mean_
    return torch.from_numpy(weight).float(), torch.from_numpy(bias).float()


def _scores(
    part: str,
    head: Head,
    features: np.ndarray,
    labels: np.ndarray,
    class_weights: torch.Tensor | None,
) -> dict[str, float]:
    logits, truth = F.linear(torch.from_numpy(features), *head), torch.tensor(labels)
    loss = F.cross_entropy(logits, truth, class_weights) * len(truth)
    return epoch_metrics(part, [loss], logits, truth)


@torch.no_grad()
def _set_head(network: BTXRDClassifier, weight: torch.Tensor, bias: torch.Tensor) -> None:
    head = linear_head(network)
    head.weight.copy_(weight)
    head.bias.copy_(bias)


def _known_fit(network: BTXRDClassifier, run: RunParams, path: Path) -> Fit:
    checkpoint = load_checkpoint(path)
    run.require_own(checkpoint["config"], path)
    network.load_state_dict(checkpoint["model_state_dict"])
    print(f"already trained: {path}")
    return Fit(*(read_csv(run.run_dir / f"{name}.csv") for name in ("history", "seconds")))


@torch.inference_mode()
def head_logits(network: BTXRDClassifier, features: KeptFeatures) -> np.ndarray:
    """Return the logits, float32 (n, C), of a network's head on the features of n samples."""
    device = next(network.parameters()).device
    if network.attention is None:
        return linear_head(network)(torch.from_numpy(features[:]).to(device)).cpu().numpy()
    network.eval()
    logits = [
        network.attention([maps.to(device) for maps in features.stages(batch)])[0].cpu()
        for batch in np.array_split(np.arange(len(features)), math.ceil(len(features) / 64))
    ]
    return torch.cat(logits).numpy()
