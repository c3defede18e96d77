"""A probe: the network stays as it is, and a new head is trained on its features.

Features are computed once and kept beside the image cache. A linear head is a multinomial logistic
regression as in (Alain and Bengio 2017) and takes seconds; one with attention is trained by
`btxrd.training.fit`, in minutes. Both end in an ordinary checkpoint.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
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
from btxrd.models import BTXRDClassifier, load_checkpoint, predict_logits, save_checkpoint
from btxrd.models.attention import stage_shapes
from btxrd.models.inference import head_inputs, linear_head
from btxrd.models.weights import body_digest
from btxrd.params import RunParams
from btxrd.session import check_stop
from btxrd.stages import FEATURES_FILE
from btxrd.training import Fit, epoch_metrics, memory_advice

__all__ = ["KeptFeatures", "feature_loaders", "fit_head", "head_logits", "open_features"]

LAYOUT = 2
"""Raise it when the meaning of the stored features changes: old ones are then computed anew."""

PACKAGES = ("torch", "timm")
"""The packages whose version can change the features."""

MOST_ITERATIONS = 1000


@dataclass(frozen=True)
class KeptFeatures:
    """The features of some samples, as the head of a network reads them, in files.

    Attributes:
        images, copies: float (n, D), memory-mapped: of all images, and of some dimmed copies.
        rows: int64 (samples,), rows of `copies` where the sample is `dimmed`, else of `images`.
        dimmed: bool (samples,).
        shapes: of the parts that D joins: for a head with attention C, h and w of `stage_maps`.
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
) -> dict[str, KeptFeatures]:
    """Return, by part, the features of a dataset's samples; compute those that are not kept.

    The features of all images are kept in `run.cache_dir`, those of dimmed copies beside them. The
    key covers the images' contents, their preprocessing, and the network's weights. Processes that
    want the same features wait for the one that computes them; an interrupted computation goes on.
    The network, where it is, is put into eval mode and channels-last layout; the datasets of
    `btxrd.data.loader.make_datasets` are not augmented.

    Raises:
        FloatingPointError: the network gives features that are no finite numbers.
        MemoryError: memory ran out, on the GPU or here; says which batch size to try.
        OSError: there is no room for the features.
        StopRequested: the study is to stop; what is done so far is kept.
        ValueError: the network has no linear head, nor one with attention.
    """
    network.to(memory_format=torch.channels_last).eval()
    cache = datasets["train"].cache
    if network.attention is None:
        shapes = [torch.Size([linear_head(network).in_features])]
    else:
        shapes = stage_shapes(network.model, cache.images.shape[1])
    width = sum(shape.numel() for shape in shapes)
    rows = np.arange(len(cache.images))
    whole = RadiographDataset(cache, rows, labels=np.zeros_like(rows))
    images = _stored(network, whole, width, run)
    features = {}
    for part, samples in datasets.items():
        rows, bright, dimmed = samples.rows, samples.bright, samples.bright >= 0
        copies = images[:0]
        if dimmed.any():
            dark = rows[dimmed], samples.labels[dimmed], bright[dimmed], samples.dim_factor
            copies = _stored(network, RadiographDataset(cache, *dark), width, run)
            rows = np.where(dimmed, dimmed.cumsum() - 1, rows)
        features[part] = KeptFeatures(images, copies, rows, dimmed, shapes)
    return features


def _stored(
    network: BTXRDClassifier, samples: RadiographDataset, width: int, run: RunParams
) -> np.ndarray:
    """Return the features of some samples, float (samples, width), memory-mapped."""
    places = [samples.rows.tolist(), samples.bright.tolist(), samples.dim_factor]
    made_by = [body_digest(network.model), network.normalization, *map(version, PACKAGES)]
    made_by += [network.attention is not None, network.flip_at_test]
    key = digest([LAYOUT, samples.cache.key, places, made_by])
    file = project_path(run.cache_dir) / f"features-{key}.raw"
    dtype = np.dtype(np.float32 if network.attention is None else np.float16)
    with FileLock(file.with_suffix(".lock")):
        if not file.is_file():
            clear_scratch(file.parent, file.name)
            _compute(network, samples, file, width * dtype.itemsize, run)
    return np.memmap(file, dtype, mode="r", shape=(len(samples), width))


def _compute(
    network: BTXRDClassifier,
    samples: RadiographDataset,
    file: Path,
    row_bytes: int,
    run: RunParams,
) -> None:
    """Write the features of some samples, row after row; go on from those that are there."""
    size, unfinished = run.training.batch_size, file.with_suffix(".unfinished")
    # The batches are the same however often it is interrupted: others give other last digits.
    batches = np.array_split(np.arange(len(samples)), math.ceil(len(samples) / size))
    bar = tqdm(batches, desc="features", unit="batch")
    started = time.perf_counter()
    with atomic_path(file) as new, unfinished.open("ab") as out:
        for done, batch in enumerate(bar):
            if 10 * done % len(batches) < 10:
                _note(run, done / len(batches), started)
            if out.tell() >= (batch[-1] + 1) * row_bytes:
                continue
            check_stop(project_path(run.study_dir))
            images, *_ = samples[BatchRequest(batch, 0)]
            with memory_advice("in the features", size):
                features = head_inputs(network, images)
            if not np.isfinite(features).all():
                name = run.model.backbone
                raise FloatingPointError(f"{name} gives features that are no finite numbers")
            out.truncate(int(batch[0]) * row_bytes)  # a killed process may leave part of a batch
            out.write(features.tobytes())
            out.flush()
        unfinished.rename(new)
    _note(run, 1.0, started)


def _note(run: RunParams, share: float, started: float) -> None:
    """Write how far the features are, for `btxrd status`."""
    facts = {"share": share, "seconds": time.perf_counter() - started}
    write_json(run.run_dir / FEATURES_FILE, facts)


class FeatureDataset(Dataset):
    """The `stage_maps` of samples in the place of their images; each item is a whole batch."""

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
        return self.features.stages(chosen), torch.from_numpy(self.labels[chosen]), *masks


def feature_loaders(
    features: Mapping[str, KeptFeatures],
    datasets: Mapping[str, RadiographDataset],
    run: RunParams,
) -> dict[str, DataLoader]:
    """Return loaders for `btxrd.training.fit` that serve `stage_maps` in the place of images."""
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

    A multinomial logistic regression on standardised features is fitted for each inverse penalty
    of `run.training.C`; standardisation is folded into the head. The head of the least validation
    loss is kept, in the network and in `model.pt`. Writes `history.csv` and `seconds.csv` to
    `run.run_dir` after each. A folder with the same probe, complete, is left as it is. The seed
    changes nothing.

    Args:
        features, labels: by part: as `open_features` returns them, int64 (n,).
        class_weights: float (C,), weights of the training loss. The validation loss is unweighted.
        on_step: each is called with the row of the history, and its seconds.

    Raises:
        OSError: there is no room for the files.
        ValueError: the folder holds a training of other parameters.
    """
    run.run_dir.mkdir(parents=True, exist_ok=True)
    path = run.run_dir / "model.pt"
    with FileLock(run.run_dir / ".training.lock"):
        if path.is_file():
            checkpoint = load_checkpoint(path)
            run.require_own(checkpoint["config"], path)
            network.load_state_dict(checkpoint["model_state_dict"])
            print(f"already trained: {path}")
            files = (run.run_dir / f"{name}.csv" for name in ("history", "seconds"))
            return Fit(*map(read_csv, files))
        train = features["train"][:].astype(np.float64)
        scaler = StandardScaler().fit(train)
        standardised = scaler.transform(train)
        regression = LogisticRegression(
            class_weight=dict(enumerate(class_weights.tolist())),
            max_iter=MOST_ITERATIONS,
            warm_start=True,
        )
        rows, speed, heads = [], [], []
        for c in run.training.C:
            started = time.perf_counter()
            regression.set_params(C=c).fit(standardised, labels["train"])
            weight = regression.coef_ / scaler.scale_
            bias = regression.intercept_ - weight @ scaler.mean_
            head = {"weight": weight, "bias": bias}
            heads.append({name: torch.from_numpy(x).float() for name, x in head.items()})
            row = {"C": c}
            for part, weights in {"train": class_weights, "val": None}.items():
                logits = F.linear(torch.from_numpy(features[part][:]), **heads[-1])
                truth = torch.tensor(labels[part])
                loss = F.cross_entropy(logits, truth, weights) * len(truth)
                row |= epoch_metrics(part, [loss], logits, truth)
            rows.append(row)
            speed.append({"C": c, "seconds": time.perf_counter() - started})
            write_csv(run.run_dir / "history.csv", pd.DataFrame(rows))
            write_csv(run.run_dir / "seconds.csv", pd.DataFrame(speed))
            for callback in on_step:
                callback(row | speed[-1])
        fit = Fit(pd.DataFrame(rows), pd.DataFrame(speed))
        linear_head(network).load_state_dict(heads[fit.history["val_loss"].idxmin()])
        config, val_loss = run.model_dump(), fit.best["val_loss"]
        save_checkpoint(network, None, None, 0, val_loss, config, class_weights, path)
    return fit


@torch.inference_mode()
def head_logits(network: BTXRDClassifier, features: KeptFeatures) -> np.ndarray:
    """Return the logits, float32 (n, C), of a network's head on the features of n samples."""
    if network.attention is not None:
        batches = np.array_split(np.arange(len(features)), math.ceil(len(features) / 64))
        return predict_logits(network, ((features.stages(batch),) for batch in batches))
    device = next(network.parameters()).device
    return linear_head(network)(torch.from_numpy(features[:]).to(device)).cpu().numpy()
