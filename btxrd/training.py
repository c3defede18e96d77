"""The training of a classifier: the step, the epochs, and the files to go on from."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from filelock import FileLock
from timm.optim import param_groups_layer_decay
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR
from torch.utils.data import DataLoader
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_recall

from btxrd import CLASS_NAMES
from btxrd.files import write_csv
from btxrd.models import BTXRDClassifier, EarlyStopping, features_and_logits, save_checkpoint
from btxrd.models.attention import attention_loss
from btxrd.models.checkpoints import load_tensors, save_tensors
from btxrd.models.inference import autocast, logits_of, mixed_precision, network_inputs
from btxrd.models.memory import keeping_memory
from btxrd.params import RunParams, TrainingParams

__all__ = [
    "Fit",
    "cam_loss",
    "epoch_metrics",
    "fit",
    "memory_advice",
    "parameter_groups",
    "seed_everything",
    "train_one_epoch",
    "validate",
    "warmup_cosine",
]


def seed_everything(seed: int) -> None:
    """Seed torch on every device; the data draw numbers of their own, from the run's seed."""
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

    There is one group, with the optimiser's own rate, unless a `layer_decay` is below 1. Then the
    rates fall by that factor from `lr` at the head to the backbone's stem, layer by layer (Clark
    et al. 2020), norms and biases have no weight decay, and what is frozen is left out.
    """
    if settings.layer_decay == 1:
        return [{"params": list(network.parameters())}]
    groups = param_groups_layer_decay(
        network.model, settings.weight_decay, layer_decay=settings.layer_decay
    )
    for group in groups:
        group["lr"] = settings.lr * group.pop("lr_scale")
    if network.attention is not None:
        groups.append({"params": list(network.attention.parameters())})
    return groups


def cam_loss(
    features: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, masks: torch.Tensor
) -> torch.Tensor:
    """Return the share of each image's class activation map that misses the lesion, float32 (B,).

    The map is that of the true class (Zhou et al. 2016), without what is below 0; the loss is the
    share of its sum outside the mask (Li et al. 2018), and 1 where the map is 0 everywhere. The
    mask is reduced to the map's size by area and divided by its largest value, so that the map of
    a lesion smaller than a place can reach 0 too.

    Args:
        features: float (B, D, h, w), the input of global average pooling.
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
        history: one row an epoch: epoch, lr, {train,val}_{loss,top1,top2,recall_<class>}. The
            rate is the head's. Losses are in nats, top-1, top-2 and recalls in [0, 1]. Where lesion
            masks guide the network, also train_cam_loss, in [0, 1], or train_attention_loss;
            train_loss is without them. A linear probe has one row a C: C in place of epoch and lr.
        speed: one row an epoch: epoch; seconds, validation included; images_per_second in training;
            and waiting, the share of it in which the network waited for its batches, in [0, 1]. A
            linear probe has one row a C: C and seconds.
    """

    history: pd.DataFrame
    speed: pd.DataFrame

    @property
    def best(self) -> pd.Series:
        """The row of the least validation loss, which `model.pt` holds."""
        return self.history.loc[self.history["val_loss"].idxmin()]


@keeping_memory()
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

    Writes to `run.run_dir` after every epoch: `history.csv`; `seconds.csv`, which holds
    `Fit.speed`; `last.pt`, from which an interrupted training of the same parameters goes on; and
    `model.pt` whenever the validation loss is the least so far. A second training in the same
    folder waits for the first.

    With an `ema`, the exponential moving average of the network's weights and batch statistics
    (Polyak and Juditsky 1992) is validated and kept; its decay rises to that in the first steps.

    Args:
        network: trained on the device it is on; in mixed precision on CUDA.
        train, val: from `btxrd.data.loader.make_loader`: the order of a training epoch follows from
            its number, which is set as the `epoch` of the loader's `EpochSampler`.
        criterion: the training loss. The validation loss is unweighted and unsmoothed.
        scheduler: stepped after every batch.
        run: where the files go, when to stop, and what the checkpoints record.
        on_epoch: each is called with the saved epoch's row of `Fit.history` and of `Fit.speed`.
        on_step: called after every batch with its number in the epoch, and how many there are.

    Raises:
        FloatingPointError: the loss is NaN or infinite; says at which epoch and step.
        MemoryError: memory ran out, on the GPU or here; says which batch size to try.
        OSError: there is no room for the files.
        ValueError: `last.pt` is damaged, no state of a training, or of other parameters; or there
            is a `cam_weight` and the network has no class activation map.
    """
    settings, config = run.training, run.model_dump()
    device = next(network.parameters()).device
    if settings.cam_weight:
        _require_class_maps(network)
    network.to(memory_format=torch.channels_last)
    criterion.to(device)
    ema = ModelEmaV3(network, settings.ema, use_warmup=True) if settings.ema else None
    kept = ema.module if ema else network
    scaler = torch.amp.GradScaler(device.type, enabled=mixed_precision(device) == torch.float16)
    stopping = EarlyStopping(settings.patience)
    stateful = {"model": network, "optimizer": optimizer, "scheduler": scheduler}
    stateful |= {"scaler": scaler, "stopping": stopping, **({"ema": ema} if ema else {})}
    run.run_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(run.run_dir / ".training.lock"):
        rows, speed = _resume(stateful, run)
        while len(rows) < settings.epochs and not stopping.should_stop:
            started, epoch = time.perf_counter(), len(rows) + 1
            row = {"epoch": epoch, "lr": max(group["lr"] for group in optimizer.param_groups)}
            trained, pace = train_one_epoch(
                network, train, criterion, optimizer, scheduler, run, epoch, scaler, ema, on_step
            )
            row |= trained | validate(kept, val, run, epoch)
            rows.append(row)
            speed.append({"epoch": epoch, "seconds": time.perf_counter() - started, **pace})
            stopping(row["val_loss"])
            write_csv(run.run_dir / "history.csv", pd.DataFrame(rows))
            write_csv(run.run_dir / "seconds.csv", pd.DataFrame(speed))
            if stopping.counter == 0:
                recipe = optimizer, scheduler, epoch, row["val_loss"], config, criterion.weight
                save_checkpoint(kept, *recipe, run.run_dir / "model.pt")
            state = {name: part.state_dict() for name, part in stateful.items()}
            state |= {"rows": rows, "speed": speed, "config": config}
            state |= {"random": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}
            save_tensors(run.run_dir / "last.pt", state)
            for callback in on_epoch:
                callback(row | speed[-1])
    return Fit(pd.DataFrame(rows), pd.DataFrame(speed))


def _resume(
    stateful: Mapping[str, Any], run: RunParams
) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """Take up the training of `last.pt`, if any, and return its rows of history and speed."""
    path = run.run_dir / "last.pt"
    if not (path.is_file() and path.with_name("model.pt").is_file()):
        return [], []
    try:
        state = load_tensors(path, [*stateful, "rows", "speed", "config", "random", "cuda"])
    except ValueError as error:
        raise ValueError(f"{error}; delete it to train anew") from error
    run.require_own(state["config"], path)
    for name, part in stateful.items():
        part.load_state_dict(state[name])
    torch.set_rng_state(state["random"])
    torch.cuda.set_rng_state_all(state["cuda"])
    return state["rows"], state["speed"]


def train_one_epoch(
    network: BTXRDClassifier,
    loader: DataLoader,
    criterion: nn.CrossEntropyLoss,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    run: RunParams,
    epoch: int,
    scaler: torch.amp.GradScaler,
    ema: ModelEmaV3 | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, float], dict[str, float]]:
    """Train a network on every batch of an epoch, as `fit` says of its arguments.

    A batch is images, uint8 (B, S, S), labels, int64 (B,) and, where the run `needs_masks`, their
    lesion masks, uint8 (B, S, S). In the place of images there may be a list of their `stage_maps`:
    then only the head of a network with attention is trained. Returns the training's columns of
    `Fit.history`, and images_per_second and waiting of `Fit.speed`.
    """
    settings, device = run.training, next(network.parameters()).device
    weight = settings.cam_weight if network.attention is None else settings.attention_weight
    loader.sampler.epoch = epoch
    network.train()
    if ema:
        ema.module.train()  # what some networks keep in eval mode would be of old weights
    seen, waited = [], 0.0
    started = asked = time.perf_counter()
    for step, (given, labels, *masks) in enumerate(loader, start=1):
        waited += time.perf_counter() - asked
        place = f"at epoch {epoch}, step {step}"
        with memory_advice(place, settings.batch_size):
            inputs, labels = network_inputs(network, given), labels.to(device, non_blocking=True)
            lesions = masks[0].to(device, non_blocking=True) if run.needs_masks else None
            with autocast(device):
                logits, guides = _logits_and_guides(network, inputs, labels, lesions)
                loss = criterion(logits, labels)
                total = loss + weight * guides.sum() / max(1, len(guides))
            _require_finite(total.item(), f"training loss {place}", run)
            # Gradients that stay where they are leave the memory beside them whole.
            optimizer.zero_grad(set_to_none=False)
            scaler.scale(total).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(network.parameters(), settings.grad_clip)
            scaler.step(optimizer)
            scaler.update()
            scheduler.step()
        if ema:
            ema.update(network, (epoch - 1) * len(loader) + step)
        if on_step is not None:
            on_step(step, len(loader))
        seen.append((loss.detach() * len(labels), logits.detach().float(), labels, guides.detach()))
        asked = time.perf_counter()
    seconds = time.perf_counter() - started
    losses, *outcome, guides = zip(*seen, strict=True)
    row = epoch_metrics("train", losses, *map(torch.cat, outcome))
    if run.needs_masks:
        name = "cam" if network.attention is None else "attention"
        row[f"train_{name}_loss"] = torch.cat(guides).mean().item()
    images = sum(len(labels) for _, _, labels, _ in seen)
    return row, {"images_per_second": images / seconds, "waiting": waited / seconds}


def _logits_and_guides(
    network: BTXRDClassifier,
    inputs: torch.Tensor | list[torch.Tensor],
    labels: torch.Tensor,
    masks: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits, and the `attention_loss` or `cam_loss` of the T images that teach, (T,)."""
    if masks is None:
        return network(inputs), torch.zeros(0, device=labels.device)
    if network.attention is not None:
        logits, attention = network.logits_and_attention(inputs)
        return logits, attention_loss(attention, labels, masks)
    features, logits = features_and_logits(network, inputs)
    annotated = masks.bool().flatten(1).any(dim=1)
    head = network.model.get_classifier().weight
    return logits, cam_loss(features[annotated], head, labels[annotated], masks[annotated])


@torch.inference_mode()
def validate(
    network: BTXRDClassifier, loader: DataLoader, run: RunParams, epoch: int
) -> dict[str, float]:
    """Return the validation's columns of `Fit.history`; the network is put into eval mode."""
    device = next(network.parameters()).device
    network.eval()
    seen = []
    for given, labels in loader:
        labels = labels.to(device)
        place = f"in validation, epoch {epoch}"
        with memory_advice(place, run.training.batch_size), autocast(device):
            logits = logits_of(network, network_inputs(network, given)).float()
        seen.append((F.cross_entropy(logits, labels, reduction="sum"), logits, labels))
    losses, *outcome = zip(*seen, strict=True)
    row = epoch_metrics("val", losses, *map(torch.cat, outcome))
    _require_finite(row["val_loss"], f"validation loss after epoch {epoch}", run)
    return row


def epoch_metrics(
    part: str, losses: Sequence[torch.Tensor], logits: torch.Tensor, labels: torch.Tensor
) -> dict[str, float]:
    """Return a part's columns of `Fit.history`, of each batch's summed loss and all its samples.

    Logits are float (n, C), labels int64 (n,).
    """
    classes = logits.shape[1]
    row = {
        "loss": sum(losses) / len(labels),
        "top1": multiclass_accuracy(logits, labels, classes, average="micro"),
        "top2": multiclass_accuracy(logits, labels, classes, average="micro", top_k=2),
    }
    recalls = multiclass_recall(logits, labels, classes, average=None)
    row |= {f"recall_{name}": share for name, share in zip(CLASS_NAMES, recalls, strict=True)}
    return {f"{part}_{name}": float(value) for name, value in row.items()}


@contextmanager
def memory_advice(place: str, batch_size: int) -> Iterator[None]:
    """Raise a `MemoryError` that names a smaller batch size where memory runs out."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        on_gpu = isinstance(error, torch.OutOfMemoryError)
        # The CPU's allocator raises a bare RuntimeError.
        if not (on_gpu or isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)):
            raise
        where, further = ("CUDA is", "") if on_gpu else ("this machine is", ", or fewer --jobs")
        raise MemoryError(
            f"{where} out of memory {place}; try training.batch_size {max(2, batch_size // 2)} "
            f"instead of {batch_size}{further}"
        ) from error


def _require_finite(loss: float, name: str, run: RunParams) -> None:
    if not math.isfinite(loss):
        lower = f"try a lower training.lr than {run.training.lr:g}"
        raise FloatingPointError(f"the {name} is {loss}; {lower}")


def _require_class_maps(network: BTXRDClassifier) -> None:
    model = network.model
    pooled = getattr(getattr(model, "global_pool", None), "pool_type", None)
    width = getattr(model.get_classifier(), "in_features", None)
    if pooled != "avg" or width != network.num_features:
        raise ValueError(
            f"training.cam_weight: {type(model).__name__} does not end in global average pooling "
            "and a linear head, so it has no class activation map; set cam_weight to 0"
        )
