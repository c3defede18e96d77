"""Pace, waiting, memory and reproducibility of trainings on a GPU, as one table; for `gpu.sh`."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import torch

from btxrd.data import Preprocessing, make_split, open_release
from btxrd.data.loader import make_datasets, make_loader, worker_count
from btxrd.extras.phantom import make_phantom
from btxrd.files import file_digest, project_path, read_yaml
from btxrd.models import compute_class_weights, create_model, get_device, predict_logits
from btxrd.params import RunParams
from btxrd.predictions import PARTS, predictions_frame, write_predictions
from btxrd.training import fit, parameter_groups, seed_everything, warmup_cosine

NAMES = (
    *("E1_b0_baseline", "E2_b0_annotated", "E3_b3_annotated", "E4_resnet50_cbam"),
    "E8_mask_attention_finetuned",
)
DRY = sys.argv[1:] == ["--dry-run"]
IMAGES, EPOCHS = (120, 1) if DRY else (600, 4)


def parameters(name: str, folder: Path, again: int) -> RunParams:
    """Return an experiment's own parameters, but for weights at random and a few epochs."""
    values = read_yaml(project_path(f"params/experiments/{name}.yaml"))
    values["model"]["pretrained"] = False
    values["training"] |= {"epochs": EPOCHS, "warmup_epochs": 0}
    if DRY:
        values["data"]["image_size"] = 64
        values["training"] |= {"device": "cpu", "batch_size": 8}
    return RunParams.parse(values | {"study_dir": str(folder / f"study-{again}")}, name)


def trained(run: RunParams, folder: Path) -> tuple[pd.DataFrame, str]:
    """Train as notebook 03 does; return `Fit.speed` and the SHA-256 of predictions.csv."""
    seed_everything(run.seed)
    preprocessing = Preprocessing.from_config(run.model_dump())
    release = open_release(folder / "phantom", preprocessing, folder / "cache", progress=False)
    split = make_split(release.table, run.split)
    datasets = make_datasets(release.cache, split, run.data, run.seed, masks=run.needs_masks)
    settings, device = run.training, get_device(run.training.device)
    loaders = {}
    for part, samples in datasets.items():
        train = part == "train"
        workers = worker_count(settings.workers, device) if train else 0
        loaders[part] = make_loader(samples, settings.batch_size, run.seed, train, workers)
    network = create_model(run.model_dump()).to(device)
    rates = {"lr": settings.lr, "weight_decay": settings.weight_decay}
    optimizer = torch.optim.AdamW(parameter_groups(network, settings), **rates, fused=True)
    weights = compute_class_weights(datasets["train"].labels)
    criterion = torch.nn.CrossEntropyLoss(weights, label_smoothing=settings.label_smoothing)
    schedule = warmup_cosine(optimizer, 0, EPOCHS * len(loaders["train"]))
    fitted = fit(network, loaders["train"], loaders["val"], criterion, optimizer, schedule, run)
    rows = split.merge(release.table[["image_id", "center"]], on="image_id")
    held_out = [
        predictions_frame(rows[rows["part"] == part], predict_logits(network, loaders[part]))
        for part in PARTS
    ]
    write_predictions(run.run_dir / "predictions.csv", pd.concat(held_out, ignore_index=True))
    return fitted.speed, file_digest(run.run_dir / "predictions.csv")


def row(name: str, folder: Path) -> dict[str, object]:
    """Train an experiment twice with the same seed; return its row of the table."""
    runs = [parameters(name, folder, again) for again in range(2)]
    if not DRY:
        torch.cuda.reset_peak_memory_stats()
    (speed, digest), (_, digest_again) = (trained(run, folder) for run in runs)
    warm = speed.tail(max(1, EPOCHS - 1))  # the first epoch also starts workers and libraries
    return {
        "experiment": name,
        "pixels": runs[0].data.image_size,
        "batch": runs[0].training.batch_size,
        "images/s": round(warm["images_per_second"].median(), 1),
        "waiting": f"{warm['waiting'].median():.1%}",
        "peak GB": "-" if DRY else round(torch.cuda.max_memory_allocated() / 1e9, 2),
        "same seed": "equal" if digest == digest_again else "DIFFERENT",
        "sha256": f"{digest} {digest_again}",
    }


if __name__ == "__main__":
    if not (DRY or torch.cuda.is_available()):
        sys.exit("gpu.sh: torch sees no CUDA device, so there is nothing to measure")
    with TemporaryDirectory() as place:
        make_phantom(Path(place) / "phantom", IMAGES, scale=0.1 if DRY else 0.25)
        table = pd.DataFrame([row(name, Path(place)) for name in NAMES])
    print(table.to_string(index=False))
