"""The epoch loop: fit a classifier, keep its history, resume where it was interrupted."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from filelock import FileLock
from timm.layers import SelectAdaptivePool2d
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassRecall

from btxrd import CLASS_NAMES, NORMALIZATION
from btxrd.data.loader import to_input
from btxrd.files import write_csv
from btxrd.models import BTXRDClassifier, EarlyStopping, save_checkpoint
from btxrd.models.checkpoints import save_tensors
from btxrd.params import TrainingParams

__all__ = ["Fit", "cam_loss", "fit", "predict_logits", "seed_everything"]

STATE = {
    "model",
    "optimizer",
    "scheduler",
    "scaler",
    "stopping",
    "rows",
    "seconds",
    "random",
    "cuda_random",
    "config",
}
"""What `last.pt` holds."""


def seed_everything(seed: int) -> None:
    """Seed torch, on every device; numpy and albumentations take theirs from the run's seed."""
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # No code here reads memory before it is written; filling it costs B3 a tenth of its speed.
    torch.utils.deterministic.fill_uninitialized_memory = False


@dataclass(frozen=True)
class Fit:
    """The outcome of a training.

    Attributes:
        history: one row an epoch: epoch, lr, {train,val}_{loss,top1,top2,recall_<class>}.
            Losses are in nats, top-1, top-2 and recalls in [0, 1]. With a `cam_weight` also
            train_cam_loss, in [0, 1]; train_loss is without it.
        seconds: float (epochs,), how long each took. Not part of the history, which is the
            same whenever the run is repeated.
        best_epoch: the epoch of the least validation loss, which `model.pt` holds.
    """

    history: pd.DataFrame
    seconds: np.ndarray
    best_epoch: int


def cam_loss(
    features: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, masks: torch.Tensor
) -> torch.Tensor:
    """Return how much of each image's class activation map misses the lesion.

    The map of the true class is the features weighed by the class's row of the linear head (Zhou
    et al. 2016, "Learning Deep Features for Discriminative Localization", CVPR), rectified. That
    attention can be trained by a loss on it is due to Li et al. 2018, "Tell Me Where to Look:
    Guided Attention Inference Network" (CVPR); the loss here is the energy of the map outside
    the mask. The mask is scaled to the map's size by area; a place counts in full where it holds
    as much of the lesion as any other, so that a small lesion can reach 0 too.

    Args:
        features: float (B, D, h, w), what global average pooling gets.
        weight: float (C, D), of the linear head.
        labels: int64 (B,).
        masks: uint8 {0, 1} (B, S, S), none of them empty.

    Returns:
        float32 (B,), in [0, 1]; 1 where the map is zero everywhere.

    >>> features = torch.tensor([[[[3.0, 1.0]]]])
    >>> mask = torch.tensor([[[0, 0, 1, 0], [0, 0, 0, 0]]], dtype=torch.uint8)
    >>> cam_loss(features, torch.ones(3, 1), torch.tensor([2]), mask)
    tensor([0.7500])
    """
    weighed = features.float() * weight.float()[labels][:, :, None, None]
    maps = weighed.sum(dim=1).relu()
    lesions = F.interpolate(masks[:, None].float(), maps.shape[1:], mode="area")[:, 0]
    lesions = lesions / lesions.amax(dim=(1, 2), keepdim=True)
    total = maps.sum(dim=(1, 2)).clamp_min(1e-6)
    return 1 - (maps * lesions).sum(dim=(1, 2)) / total


class _EpochMetrics:
    """Loss, top-1, top-2 and per-class recall of one part over one epoch."""

    def __init__(self, part: str, num_classes: int, device: torch.device) -> None:
        self.part = part
        self.loss = MeanMetric().to(device)
        self.scores = MetricCollection(
            {
                "top1": MulticlassAccuracy(num_classes, average="micro"),
                "top2": MulticlassAccuracy(num_classes, top_k=2, average="micro"),
                "recall": MulticlassRecall(num_classes, average=None),
            },
            compute_groups=False,
        ).to(device)

    def update(self, loss: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> None:
        self.loss.update(loss.detach(), weight=len(labels))
        self.scores.update(logits.detach(), labels)

    def compute_and_reset(self) -> dict[str, float]:
        scores = self.scores.compute()
        row = {"loss": float(self.loss.compute())}
        row |= {name: float(scores[name]) for name in ("top1", "top2")}
        row |= {
            f"recall_{name}": float(value)
            for name, value in zip(CLASS_NAMES, scores["recall"], strict=True)
        }
        self.loss.reset()
        self.scores.reset()
        return {f"{self.part}_{name}": value for name, value in row.items()}


def fit(
    model: BTXRDClassifier,
    train: DataLoader,
    val: DataLoader,
    params: TrainingParams,
    class_weights: torch.Tensor,
    run_dir: str | Path,
    config: dict[str, Any],
    device: torch.device,
    on_epoch: Callable[[dict[str, float]], None] = lambda row: None,
) -> Fit:
    """Train until the epochs are over or the validation loss has stopped improving.

    Writes to `run_dir` after every epoch: `history.csv`; `seconds.csv`, how long each epoch took;
    `last.pt`, from which an interrupted training of the same `config` goes on; and `model.pt`
    whenever the validation loss is the least so far. A second training in the same folder waits
    for the first.

    Args:
        model: moved to `device` in channels-last layout.
        train, val: from `btxrd.data.loader.make_loader`; where `params.cam_weight` is above 0, the
            training batches must hold the lesion masks.
        params: optimiser, schedule and stopping.
        class_weights: float32 (C,), of the training loss. The validation loss is unweighted and
            unsmoothed.
        run_dir: where the files go.
        config: the resolved parameters, kept in the checkpoints.
        device: where to train; in mixed precision on CUDA, in float32 elsewhere.
        on_epoch: called with each epoch's row of the history, and its seconds, once the epoch
            is saved.

    Raises:
        FloatingPointError: the loss is NaN or infinite; says at which epoch and step.
        MemoryError: memory ran out, on the GPU or here; says which batch size to try.
        OSError: there is no room for the files.
        ValueError: `last.pt` is damaged, no state of a training, or of another configuration; or
            there is a `cam_weight` and the network has no class activation map.
    """
    run_dir = Path(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(run_dir / ".training.lock"):
        trainer = _Trainer(model, train, val, params, class_weights, run_dir, config, device)
        trainer.resume()
        while not trainer.finished:
            on_epoch(trainer.run_epoch() | {"seconds": trainer.seconds[-1]})
    history = pd.DataFrame(trainer.rows)
    best_epoch = int(history.loc[history["val_loss"].idxmin(), "epoch"])
    return Fit(history, np.array(trainer.seconds), best_epoch)


class _Trainer:
    """Everything that changes while training, so that it can be saved and taken up again."""

    def __init__(
        self,
        model: BTXRDClassifier,
        train: DataLoader,
        val: DataLoader,
        params: TrainingParams,
        class_weights: torch.Tensor,
        run_dir: Path,
        config: dict[str, Any],
        device: torch.device,
    ) -> None:
        self.model = model.to(device, memory_format=torch.channels_last)
        if params.cam_weight:
            _require_class_maps(model)
        self.train, self.val, self.params = train, val, params
        self.run_dir, self.config, self.device = run_dir, config, device
        self.class_weights = class_weights
        self.criterion = nn.CrossEntropyLoss(
            weight=class_weights, label_smoothing=params.label_smoothing
        ).to(device)
        self.val_criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=params.lr, weight_decay=params.weight_decay, fused=True
        )
        self.scheduler = _schedule(self.optimizer, params, len(train))
        self.scaler = torch.amp.GradScaler(
            device.type, enabled=_mixed_precision(device) == torch.float16
        )
        self.stopping = EarlyStopping(params.patience)
        self.rows: list[dict[str, float]] = []
        self.seconds: list[float] = []
        self.metrics = {
            part: _EpochMetrics(part, model.num_classes, device) for part in ("train", "val")
        }
        self.cam_metric = MeanMetric().to(device)

    @property
    def finished(self) -> bool:
        return len(self.rows) >= self.params.epochs or self.stopping.should_stop

    def run_epoch(self) -> dict[str, float]:
        started = time.perf_counter()
        epoch = len(self.rows) + 1
        self.train.sampler.epoch = epoch
        lr = self.optimizer.param_groups[0]["lr"]
        row = {"epoch": epoch, "lr": lr, **self._train_epoch(epoch), **self._validate(epoch)}
        self.rows.append(row)
        self.seconds.append(time.perf_counter() - started)
        improved = row["val_loss"] < self.stopping.best_loss
        self.stopping(row["val_loss"])
        self._save(improved)
        return self.rows[-1]

    def _train_epoch(self, epoch: int) -> dict[str, float]:
        self.model.train()
        for step, batch in enumerate(self.train, start=1):
            with _memory_advice(f"at epoch {epoch}, step {step}", self.params.batch_size):
                self._step(batch, f"at epoch {epoch}, step {step}")
        row = self.metrics["train"].compute_and_reset()
        if self.params.cam_weight:
            row["train_cam_loss"] = float(self.cam_metric.compute())
            self.cam_metric.reset()
        return row

    def _step(self, batch: Sequence[torch.Tensor], place: str) -> None:
        images, labels, *masks = (part.to(self.device, non_blocking=True) for part in batch)
        with _autocast(self.device):
            if self.params.cam_weight:
                features = self.model.model.forward_features(to_input(images))
                logits = self.model.model.forward_head(features)
                extra = self.params.cam_weight * self._cam_loss(features, labels, *masks)
            else:
                logits, extra = self.model(to_input(images)), 0.0
            loss = self.criterion(logits, labels)
            total = loss + extra
        if not torch.isfinite(total):
            raise FloatingPointError(
                f"the training loss is {total.item()} {place}; "
                f"try a lower training.lr than {self.params.lr:g}"
            )
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(total).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.params.grad_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        self.metrics["train"].update(loss, logits.float(), labels)

    def _cam_loss(
        self, features: torch.Tensor, labels: torch.Tensor, masks: torch.Tensor
    ) -> torch.Tensor:
        """Return the mean of `cam_loss` over the annotated images of a batch; 0 without any."""
        annotated = masks.bool().flatten(1).any(dim=1)
        weight = self.model.model.get_classifier().weight
        losses = cam_loss(features[annotated], weight, labels[annotated], masks[annotated])
        self.cam_metric.update(losses.detach())
        return losses.sum() / max(1, len(losses))

    @torch.inference_mode()
    def _validate(self, epoch: int) -> dict[str, float]:
        self.model.eval()
        for images, labels in self.val:
            labels = labels.to(self.device)
            with (
                _memory_advice(f"in validation, epoch {epoch}", self.params.batch_size),
                _autocast(self.device),
            ):
                logits = self.model(to_input(images.to(self.device))).float()
            self.metrics["val"].update(self.val_criterion(logits, labels), logits, labels)
        row = self.metrics["val"].compute_and_reset()
        if not math.isfinite(row["val_loss"]):
            raise FloatingPointError(
                f"the validation loss is {row['val_loss']} after epoch {epoch}; "
                f"try a lower training.lr than {self.params.lr:g}"
            )
        return row

    def _save(self, improved: bool) -> None:
        write_csv(self.run_dir / "history.csv", pd.DataFrame(self.rows))
        epochs = [row["epoch"] for row in self.rows]
        timing = pd.DataFrame({"epoch": epochs, "seconds": self.seconds})
        write_csv(self.run_dir / "seconds.csv", timing)
        if improved:
            save_checkpoint(
                self.model,
                self.optimizer,
                self.scheduler,
                int(self.rows[-1]["epoch"]),
                self.rows[-1]["val_loss"],
                self.config,
                self.class_weights,
                self.run_dir / "model.pt",
            )
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "stopping": self.stopping.state_dict(),
            "rows": self.rows,
            "seconds": self.seconds,
            "random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "config": self.config,
        }
        save_tensors(self.run_dir / "last.pt", state)

    def resume(self) -> None:
        """Take up the training that `last.pt` holds, if there is one with its `model.pt`."""
        path = self.run_dir / "last.pt"
        if not (path.is_file() and (self.run_dir / "model.pt").is_file()):
            return
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
        except Exception as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(f"{path} is damaged: delete it to train anew ({reason})") from error
        if not (isinstance(state, dict) and state.keys() >= STATE):
            raise ValueError(f"{path} is no state of a training: delete it to train anew")
        if state["config"] != self.config:
            raise ValueError(f"{path} belongs to other parameters: move {self.run_dir} aside")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.scaler.load_state_dict(state["scaler"])
        self.stopping.load_state_dict(state["stopping"])
        self.rows, self.seconds = state["rows"], state["seconds"]
        torch.set_rng_state(state["random"].cpu())
        if state["cuda_random"]:
            torch.cuda.set_rng_state_all([part.cpu() for part in state["cuda_random"]])


@contextmanager
def _memory_advice(place: str, batch_size: int) -> Iterator[None]:
    """Say what helps where memory runs out; the CPU's allocator raises a bare RuntimeError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        on_gpu = isinstance(error, torch.OutOfMemoryError)
        if not (on_gpu or isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)):
            raise
        where, further = ("CUDA is", "") if on_gpu else ("this machine is", ", or fewer --jobs")
        smaller = max(2, batch_size // 2)
        raise MemoryError(
            f"{where} out of memory {place}; "
            f"try training.batch_size {smaller} instead of {batch_size}{further}"
        ) from error


def _require_class_maps(model: BTXRDClassifier) -> None:
    network = model.model
    pool, head = getattr(network, "global_pool", None), network.get_classifier()
    averages = isinstance(pool, SelectAdaptivePool2d) and pool.pool_type == "avg"
    linear = isinstance(head, nn.Linear) and head.in_features == model.num_features
    if not (averages and linear):
        raise ValueError(
            f"training.cam_weight: {type(network).__name__} does not end in global average pooling "
            "and a linear head, so it has no class activation map; set cam_weight to 0"
        )


def _schedule(
    optimizer: torch.optim.Optimizer, params: TrainingParams, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Return a linear warm-up followed by a cosine to zero, counted in steps."""
    total = params.epochs * steps_per_epoch
    warmup = min(params.warmup_epochs * steps_per_epoch, total // 2)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, total - warmup))
    if warmup == 0:
        return cosine
    linear = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=warmup)
    return torch.optim.lr_scheduler.SequentialLR(optimizer, [linear, cosine], [warmup])


def _mixed_precision(device: torch.device) -> torch.dtype | None:
    """Return the dtype of mixed precision: bfloat16 where the GPU has it; none on a CPU or MPS."""
    if device.type != "cuda":
        return None
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if has_bf16 else torch.float16


def _autocast(device: torch.device) -> torch.autocast:
    dtype = _mixed_precision(device)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def predict_logits(
    model: BTXRDClassifier,
    loader: Iterable[tuple[torch.Tensor, ...]],
    device: torch.device,
    normalization: dict = NORMALIZATION,
) -> np.ndarray:
    """Return the logits, float32 (n, C), of every sample in the loader's order.

    Args:
        model: put into eval mode and moved to `device`.
        loader: batches that begin with images, uint8 (B, S, S).
        device: where to compute; in mixed precision on CUDA, in float32 elsewhere.
        normalization: as `to_input` takes it.
    """
    # Outside inference mode: a parameter whose layout changes inside can never be trained again.
    model.to(device, memory_format=torch.channels_last).eval()
    with torch.inference_mode(), _autocast(device):
        batches = [
            model(to_input(images.to(device), normalization)).float().cpu() for images, *_ in loader
        ]
    return torch.cat(batches).numpy()
