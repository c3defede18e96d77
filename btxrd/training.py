"""The epoch loop: fit a classifier, keep its history, resume where it was interrupted."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from filelock import FileLock
from timm.layers import SelectAdaptivePool2d
from timm.optim import param_groups_layer_decay
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassRecall

from btxrd import CLASS_NAMES
from btxrd.files import write_csv
from btxrd.models import (
    BTXRDClassifier,
    EarlyStopping,
    features_and_logits,
    save_checkpoint,
    to_input,
)
from btxrd.models.attention import attention_loss, stage_maps
from btxrd.models.checkpoints import load_tensors, save_tensors
from btxrd.models.inference import autocast, logits_of, mixed_precision
from btxrd.params import RunParams, TrainingParams

__all__ = [
    "EpochMetrics",
    "Fit",
    "cam_loss",
    "fit",
    "memory_advice",
    "parameter_groups",
    "seed_everything",
    "warmup_cosine",
]


def seed_everything(seed: int) -> None:
    """Seed torch, on every device; numpy and albumentations take theirs from the run's seed."""
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # No code here reads memory before it is written; filling it costs B3 a tenth of its speed.
    torch.utils.deterministic.fill_uninitialized_memory = False


def warmup_cosine(optimizer: Optimizer, warmup_steps: int, total_steps: int) -> LRScheduler:
    """Return a schedule in steps: a linear warm-up from 1 % of the rate, then a cosine to zero.

    The warm-up takes half of the steps at most; with 0 there is none.
    """
    warmup = min(warmup_steps, total_steps // 2)
    cosine = CosineAnnealingLR(optimizer, total_steps - warmup)
    if warmup == 0:
        return cosine
    linear = LinearLR(optimizer, start_factor=0.01, total_iters=warmup)
    return SequentialLR(optimizer, [linear, cosine], [warmup])


def parameter_groups(network: BTXRDClassifier, settings: TrainingParams) -> list[dict[str, Any]]:
    """Return a network's parameters in groups, each with its learning rate, for an optimiser.

    Without a `layer_decay` in one group, with the optimiser's own rate. With one the rates fall by
    that factor from `lr` at the backbone's head to its stem, layer by layer (Clark et al. 2020),
    and weight decay is not for norms and biases.

    >>> network = BTXRDClassifier("resnet18", pretrained=False)
    >>> groups = parameter_groups(network, TrainingParams(lr=1e-3, layer_decay=0.5))
    >>> groups[0]["lr"] < groups[-1]["lr"]
    True
    """
    if settings.layer_decay == 1:
        return [{"params": list(network.parameters())}]
    groups = param_groups_layer_decay(
        network.model, settings.weight_decay, layer_decay=settings.layer_decay
    )
    for group in groups:
        group["lr"] = settings.lr * group.pop("lr_scale")
    grouped = {id(parameter) for group in groups for parameter in group["params"]}
    rest = [parameter for parameter in network.parameters() if id(parameter) not in grouped]
    return [*groups, {"params": rest}] if rest else groups


def cam_loss(
    features: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, masks: torch.Tensor
) -> torch.Tensor:
    """Return how much of each image's class activation map misses the lesion: float32 (B,).

    The rectified map of the true class (Zhou 2016), trained by its energy outside the mask, after
    the idea of (Li 2018): in [0, 1], 1 where the map is zero everywhere. The mask is scaled to the
    map by area, and to a largest value of 1, so that a small lesion can reach 0 too.

    Args:
        features: float (B, D, h, w), what global average pooling gets.
        weight: float (C, D), of the linear head.
        labels: int64 (B,).
        masks: uint8 {0, 1} (B, S, S), none of them empty.

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


@dataclass(frozen=True)
class Fit:
    """The outcome of a training.

    Attributes:
        history: one row an epoch: epoch, lr, {train,val}_{loss,top1,top2,recall_<class>}.
            The rate is the head's. Losses are in nats, top-1, top-2 and recalls in [0, 1]. With a
            `cam_weight` also train_cam_loss, in [0, 1], and with a `model.attention`
            train_attention_loss; train_loss is without them. Of a linear probe, one row a C, which
            stands in the place of epoch and lr.
        seconds: float (rows,), how long each took.
    """

    history: pd.DataFrame
    seconds: np.ndarray

    @property
    def best(self) -> pd.Series:
        """The row of the least validation loss, which `model.pt` holds."""
        return self.history.loc[self.history["val_loss"].idxmin()]


def fit(
    network: BTXRDClassifier,
    train: DataLoader,
    val: DataLoader,
    criterion: nn.CrossEntropyLoss,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    run: RunParams,
    on_epoch: Iterable[Callable[[dict[str, float]], None]] = (),
    on_step: Callable[[int, int], None] | None = None,
) -> Fit:
    """Train until the epochs are over or the validation loss has stopped improving.

    Writes to `run.run_dir` after every epoch: `history.csv`; `seconds.csv`; `last.pt`, from which
    an interrupted training of the same parameters goes on; and `model.pt` whenever the validation
    loss is the least so far. A second training in the same folder waits for the first.

    With an `ema`, what is validated and kept is the exponential moving average of the network's
    weights and batch statistics (Polyak and Juditsky 1992), whose decay rises to that in the first
    steps; `last.pt` has both.

    Args:
        network: trained on the device it is on; in mixed precision on CUDA.
        train, val: from `btxrd.data.loader.make_loader`; where the run `needs_masks`, the training
            batches must hold the lesion masks. In the place of images there may be a list of their
            `stage_maps`: then only the head of a network with attention is trained.
        criterion: the training loss, with class weights. The validation loss is unweighted and
            unsmoothed.
        scheduler: stepped after every batch.
        run: where the files go, when to stop, and what the checkpoints record.
        on_epoch: each is called with the saved epoch's row of the history, and its seconds.
        on_step: called after every batch with its number in the epoch, and how many there are.

    Raises:
        FloatingPointError: the loss is NaN or infinite; says at which epoch and step.
        MemoryError: memory ran out, on the GPU or here; says which batch size to try.
        OSError: there is no room for the files.
        ValueError: `last.pt` is damaged, no state of a training, or of other parameters; or
            there is a `cam_weight` and the network has no class activation map.
    """
    run.run_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(run.run_dir / ".training.lock"):
        trainer = _Trainer(network, train, val, criterion, optimizer, scheduler, run, on_step)
        trainer.resume()
        while not trainer.finished:
            row = trainer.run_epoch()
            for callback in on_epoch:
                callback(row | {"seconds": trainer.seconds[-1]})
    return Fit(pd.DataFrame(trainer.rows), np.array(trainer.seconds))


class EpochMetrics:
    """Loss, top-1, top-2 and per-class recall of one part over one epoch.

    Args:
        part: what the names of the columns begin with.
    """

    def __init__(self, part: str, num_classes: int, device: torch.device | str = "cpu") -> None:
        self.part = part
        # A NaN counts as infinite and so stops the training; by default it would be passed over.
        self.loss = MeanMetric(nan_strategy=math.inf).to(device)
        self.scores = MetricCollection(
            {
                "top1": MulticlassAccuracy(num_classes, average="micro"),
                "top2": MulticlassAccuracy(num_classes, top_k=2, average="micro"),
                "recall": MulticlassRecall(num_classes, average=None),
            },
            compute_groups=False,
        ).to(device)

    def update(self, loss: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Take a batch: its mean loss, float (B, C) logits and int64 (B,) labels."""
        self.loss.update(loss.detach(), weight=len(labels))
        self.scores.update(logits.detach(), labels)

    def compute_and_reset(self) -> dict[str, float]:
        """Return the epoch's columns of the history, and begin the next epoch."""
        scores = self.scores.compute()
        row = {"loss": self.loss.compute(), "top1": scores["top1"], "top2": scores["top2"]}
        for name, recall in zip(CLASS_NAMES, scores["recall"], strict=True):
            row[f"recall_{name}"] = recall
        self.loss.reset()
        self.scores.reset()
        return {f"{self.part}_{name}": float(value) for name, value in row.items()}


@dataclass
class _Trainer:
    """What `fit` was given, and everything that changes while training."""

    network: BTXRDClassifier
    train: DataLoader
    val: DataLoader
    criterion: nn.CrossEntropyLoss
    optimizer: Optimizer
    scheduler: LRScheduler
    run: RunParams
    on_step: Callable[[int, int], None] | None = None
    rows: list[dict[str, float]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.params, self.config = self.run.training, self.run.model_dump()
        self.device = next(self.network.parameters()).device
        self.network.to(memory_format=torch.channels_last)
        self.ema = None
        if self.params.ema:
            self.ema = ModelEmaV3(self.network, self.params.ema, use_warmup=True)
        self.criterion.to(self.device)
        if self.params.cam_weight:
            _require_class_maps(self.network)
        amp = mixed_precision(self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=amp == torch.float16)
        self.stopping = EarlyStopping(self.params.patience)
        self.metrics = {
            part: EpochMetrics(part, self.network.num_classes, self.device)
            for part in ("train", "val")
        }
        self.guide = "cam" if self.network.attention is None else "attention"
        self.guide_metric = MeanMetric().to(self.device)

    @property
    def stateful(self) -> dict[str, object]:
        """What has a `state_dict`, by its key in `last.pt`."""
        return {
            "model": self.network,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "scaler": self.scaler,
            "stopping": self.stopping,
            **({"ema": self.ema} if self.ema else {}),
        }

    @property
    def judged(self) -> BTXRDClassifier:
        """The network that is validated and kept."""
        return self.ema.module if self.ema else self.network

    @property
    def finished(self) -> bool:
        return len(self.rows) >= self.params.epochs or self.stopping.should_stop

    def run_epoch(self) -> dict[str, float]:
        started = time.perf_counter()
        epoch = len(self.rows) + 1
        self.train.sampler.epoch = epoch
        lr = max(group["lr"] for group in self.optimizer.param_groups)
        row = {"epoch": epoch, "lr": lr, **self._train_epoch(epoch), **self._validate(epoch)}
        self.rows.append(row)
        self.seconds.append(time.perf_counter() - started)
        self.stopping(row["val_loss"])
        self._save()
        return row

    def _train_epoch(self, epoch: int) -> dict[str, float]:
        # The averaged one too: what some networks keep in eval mode would be of old weights.
        self.judged.train()
        self.network.train()
        for step, batch in enumerate(self.train, start=1):
            place = f"at epoch {epoch}, step {step}"
            with memory_advice(place, self.params.batch_size):
                self._step(batch, place)
            if self.ema:
                self.ema.update(self.network, (epoch - 1) * len(self.train) + step)
            if self.on_step is not None:
                self.on_step(step, len(self.train))
        row = self.metrics["train"].compute_and_reset()
        if self.run.needs_masks:
            row[f"train_{self.guide}_loss"] = float(self.guide_metric.compute())
            self.guide_metric.reset()
        return row

    def _step(self, batch: Sequence[torch.Tensor], place: str) -> None:
        given, labels, *masks = (self._placed(part) for part in batch)
        with autocast(self.device):
            if self.run.needs_masks:
                logits, extra = self._guided(given, labels, *masks)
            else:
                logits, extra = self._logits(given), 0.0
            loss = self.criterion(logits, labels)
            total = loss + extra
        value = total.item()
        self._require_finite(value, f"training loss is {value} {place}")
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(total).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.network.parameters(), self.params.grad_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        self.metrics["train"].update(loss, logits.float(), labels)

    def _placed(self, part: torch.Tensor | list[torch.Tensor]) -> torch.Tensor | list[torch.Tensor]:
        if isinstance(part, list):
            return [maps.to(self.device, non_blocking=True) for maps in part]
        return part.to(self.device, non_blocking=True)

    def _guided(
        self, given: torch.Tensor | list[torch.Tensor], labels: torch.Tensor, masks: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a batch's logits, and the weighed mean loss of what the masks guide.

        That is over the images that teach it, 0 without any.
        """
        if self.network.attention is None:
            features, logits = features_and_logits(self.network, self._inputs(given))
            annotated = masks.bool().flatten(1).any(dim=1)
            head = self.network.model.get_classifier().weight
            losses = cam_loss(features[annotated], head, labels[annotated], masks[annotated])
            weight = self.params.cam_weight
        else:
            logits, attention = self.network.attention(self._stages(given))
            losses = attention_loss(attention, labels, masks)
            weight = self.params.attention_weight
        self.guide_metric.update(losses.detach())
        return logits, weight * losses.sum() / max(1, len(losses))

    def _logits(self, given: torch.Tensor | list[torch.Tensor]) -> torch.Tensor:
        if self.network.attention is None:
            return self.network(self._inputs(given))
        return self.network.attention(self._stages(given))[0]

    def _inputs(self, images: torch.Tensor) -> torch.Tensor:
        return to_input(images, self.network.normalization)

    def _stages(self, given: torch.Tensor | list[torch.Tensor]) -> list[torch.Tensor]:
        if isinstance(given, list):
            return given
        return stage_maps(self.network.model, self._inputs(given))

    @torch.inference_mode()
    def _validate(self, epoch: int) -> dict[str, float]:
        self.judged.eval()
        for given, labels in self.val:
            labels = labels.to(self.device)
            with (
                memory_advice(f"in validation, epoch {epoch}", self.params.batch_size),
                autocast(self.device),
            ):
                given = self._placed(given)
                if isinstance(given, list):
                    logits = self.judged.attention(given)[0].float()
                else:
                    logits = logits_of(self.judged, self._inputs(given)).float()
            self.metrics["val"].update(F.cross_entropy(logits, labels), logits, labels)
        row = self.metrics["val"].compute_and_reset()
        loss = row["val_loss"]
        self._require_finite(loss, f"validation loss is {loss} after epoch {epoch}")
        return row

    def _require_finite(self, loss: float, words: str) -> None:
        if not math.isfinite(loss):
            advice = f"try a lower training.lr than {self.params.lr:g}"
            raise FloatingPointError(f"the {words}; {advice}")

    def _save(self) -> None:
        folder, row = self.run.run_dir, self.rows[-1]
        history = pd.DataFrame(self.rows)
        write_csv(folder / "history.csv", history)
        write_csv(folder / "seconds.csv", history[["epoch"]].assign(seconds=self.seconds))
        if self.stopping.counter == 0:
            save_checkpoint(
                self.judged,
                self.optimizer,
                self.scheduler,
                row["epoch"],
                row["val_loss"],
                self.config,
                self.criterion.weight,
                folder / "model.pt",
            )
        save_tensors(folder / "last.pt", self._state())

    def _state(self) -> dict[str, object]:
        """Return what `last.pt` holds."""
        return {
            **{name: part.state_dict() for name, part in self.stateful.items()},
            "rows": self.rows,
            "seconds": self.seconds,
            "random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "config": self.config,
        }

    def resume(self) -> None:
        """Take up the training that `last.pt` holds, if there is one with its `model.pt`."""
        path = self.run.run_dir / "last.pt"
        if not (path.is_file() and path.with_name("model.pt").is_file()):
            return
        try:
            state = load_tensors(path, self._state())
        except ValueError as error:
            raise ValueError(f"{error}; delete it to train anew") from error
        self.run.require_own(state["config"], path)
        for name, part in self.stateful.items():
            part.load_state_dict(state[name])
        self.rows, self.seconds = state["rows"], state["seconds"]
        torch.set_rng_state(state["random"])
        if state["cuda_random"]:
            torch.cuda.set_rng_state_all(state["cuda_random"])


@contextmanager
def memory_advice(place: str, batch_size: int) -> Iterator[None]:
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


def _require_class_maps(network: BTXRDClassifier) -> None:
    model = network.model
    pool, head = getattr(model, "global_pool", None), model.get_classifier()
    averages = isinstance(pool, SelectAdaptivePool2d) and pool.pool_type == "avg"
    linear = isinstance(head, nn.Linear) and head.in_features == network.num_features
    if not (averages and linear):
        raise ValueError(
            f"training.cam_weight: {type(model).__name__} does not end in global average pooling "
            "and a linear head, so it has no class activation map; set cam_weight to 0"
        )
