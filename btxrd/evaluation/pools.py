"""Pools: the predictions of several runs of one experiment and split, put together.

Folds follow each other: every image is tested once, by the network that did not see its group,
and keeps the val of that network (column `fold`). Seeds are averaged in probability: an ensemble.
The seeds of folds are averaged within each fold.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from btxrd.evaluation.differences import METRICS, check_comparable, ensemble_predictions
from btxrd.evaluation.metrics import metric_table
from btxrd.files import read_csv, read_json, write_csv, write_json
from btxrd.params import ENSEMBLE, POOLED
from btxrd.predictions import PARTS, labels, probabilities, read_predictions, write_predictions

__all__ = ["POOL_FILES", "fold_table", "pool_runs", "write_pool"]

POOL_FILES = ("predictions.csv", "training.json", "gradcam.csv")
"""The files that a pool is made of, by the names that they have there too."""


def pool_runs(folders: Sequence[Path]) -> dict[str, Any]:
    """Compute the files of a pool from those in the folders of its runs: name → content.

    They are `predictions.csv` (a frame) and `training.json` (a dict: the parameters, in which
    `fold` is "pooled" and `seed` "ensemble" where there are several; `runs`, how many, and
    `members`, the fold and seed of each; `weights`, `device`, `seconds`). Of several folds of one
    seed that all have a `gradcam.csv` also that, put together.

    Raises:
        FileNotFoundError: a run has no predictions.
        ValueError: the runs differ in more than fold and seed, or test other images.
    """
    trained = [read_json(folder / "training.json") for folder in folders]
    parameters = [facts["parameters"] for facts in trained]
    for other in parameters[1:]:
        check_comparable(parameters[0], other, ("fold", "seed"))
    by_fold: dict[int | None, list[pd.DataFrame]] = {}
    for folder, given in zip(folders, parameters, strict=True):
        by_fold.setdefault(given["fold"], []).append(read_predictions(folder / "predictions.csv"))
    frames = {fold: _averaged(seeds) for fold, seeds in by_fold.items()}
    if len(frames) > 1:
        frames = {fold: frame.assign(fold=fold) for fold, frame in frames.items()}
    pool = {
        "predictions.csv": pd.concat(frames.values(), ignore_index=True),
        "training.json": {
            "parameters": parameters[0]
            | ({"fold": POOLED} if len(frames) > 1 else {})
            | ({"seed": ENSEMBLE} if len(folders) > len(frames) else {}),
            "runs": len(folders),
            "members": [{key: given[key] for key in ("fold", "seed")} for given in parameters],
            "weights": "; ".join(sorted({facts.get("weights", "not said") for facts in trained})),
            "device": ", ".join(sorted({facts["device"] for facts in trained})),
            "seconds": round(sum(facts["seconds"] for facts in trained), 1),
        },
    }
    maps = [folder / "gradcam.csv" for folder in folders]
    if len(folders) == len(frames) and all(file.is_file() for file in maps):
        pool["gradcam.csv"] = pd.concat(map(read_csv, maps), ignore_index=True)
    return pool


def _averaged(seeds: list[pd.DataFrame]) -> pd.DataFrame:
    """Average the probabilities of each part; one training stays as it is, to the last digit."""
    if len(seeds) == 1:
        return seeds[0]
    parts = [ensemble_predictions([s[s["part"] == part] for s in seeds]) for part in PARTS]
    return pd.concat(parts, ignore_index=True)


def fold_table(test: pd.DataFrame) -> pd.DataFrame:
    """Return a row a fold (`fold`, text) with `n` images and each of `METRICS`; last a row `mean`.

    An AUC over all folds also ranks images of different folds against each other, whose networks
    need not be equally sure of themselves; the mean of the folds' does not (Forman and Scholz
    2010). Empty where the predictions are not those of several folds.
    """
    if "fold" not in test:
        return pd.DataFrame()
    rows = []
    for fold, frame in test.groupby("fold"):
        once = np.ones((1, len(frame)))
        table = metric_table(labels(frame), probabilities(frame), once, METRICS)
        rows.append({"fold": str(fold), "n": len(frame)} | {m: table[m][0] for m in METRICS})
    found = pd.DataFrame(rows)
    mean = found[list(METRICS)].mean().to_dict() | {"fold": "mean", "n": found["n"].sum()}
    return pd.concat([found, pd.DataFrame([mean])], ignore_index=True)


def write_pool(folder: Path, runs: Sequence[Path]) -> None:
    """Write the files that `pool_runs` computes; errors as there."""
    for name, content in pool_runs(runs).items():
        writers = {"predictions.csv": write_predictions, "training.json": write_json}
        writers.get(name, write_csv)(folder / name, content)
