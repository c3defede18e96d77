"""Every parameter of the study, and the one place where parameters are validated."""

import ast
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from btxrd.files import digest, project_path, read_yaml
from btxrd.strategies import SPLITS

__all__ = [
    "ENSEMBLE",
    "POOLED",
    "CompareParams",
    "DataParams",
    "EdaParams",
    "EvaluateParams",
    "GradcamParams",
    "ModelParams",
    "ParameterError",
    "PhantomParams",
    "ResultParams",
    "RunParams",
    "RunPlace",
    "SplitsParams",
    "StudyParams",
    "TrainingParams",
    "parameter_rows",
    "run_at",
]

SplitName = Literal[tuple(SPLITS)]
POOLED, ENSEMBLE = "pooled", "ensemble"
"""The fold of a pool of folds, and the seed of a pool of seeds."""
CamMethod = Literal["gradcam", "hirescam", "gradcam++"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
DataFolder = Annotated[str, Field(description="The data set, in the release's layout.")]
CacheFolder = Annotated[str, Field(description="The folder in which decoded images are kept.")]
StudyFolder = Annotated[str, Field(description="The study's folder.")]
RunFolder = Annotated[str, Field(description="The run's folder.")]
Prevalences = list[Annotated[float, Field(gt=0, lt=1)]]
ImageSize = Annotated[int, Field(ge=64, le=2048)]
"""Pixels. Below 64 the backbones' last feature maps have a single place: no activation map."""

RUN_PATH = re.compile(r"runs/([^/]+)/([^/]+)/(?:(fold-\d+|pooled)/)?(seed-\d+|ensemble)")
"""The folder of a run or pool in its study's, as `RunPlace.path` writes it."""

BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
"""Keys of a JSON schema → the signs that `btxrd parameters` prints."""


class ParameterError(ValueError):
    """A parameter is unknown, of the wrong type or impossible; the message names the key."""


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @classmethod
    def parse(cls, values: Mapping[str, Any], source: str | Path) -> Self:
        """Validate `values`; `source` is the file or notebook that an error names.

        Raises:
            ParameterError: names the source, each wrong key and what would be right.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            lines = [f"  {_explain(detail, cls)}" for detail in error.errors()]
            raise ParameterError("\n".join([f"wrong parameters in {source}:", *lines])) from None

    @classmethod
    def from_notebook(cls, namespace: Mapping[str, Any]) -> Self:
        """Validate the parameters in a notebook's `globals()`.

        papermill only warns of a parameter that the notebook does not have; here it is an error.

        Raises:
            ParameterError: names each wrong key and what would be right.
        """
        names = set(cls.model_fields) & set(namespace)
        for source in namespace.get("In", []):
            if source.startswith("# Parameters\n"):
                names |= _assigned_names(source)
        return cls.parse({name: namespace[name] for name in names}, "the notebook's parameters")


def _assigned_names(source: str) -> set[str]:
    """Return the names that a cell of plain assignments binds."""
    nodes = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name))
    return {node.id for node in nodes if isinstance(node.ctx, ast.Store)}


def _explain(detail: Mapping[str, Any], model: type[BaseModel]) -> str:
    key = ".".join(map(str, detail["loc"]))
    if detail["type"] == "extra_forbidden":
        allowed = _fields_at(model, detail["loc"][:-1])
        close = difflib.get_close_matches(str(detail["loc"][-1]), allowed, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        return f"{key}: unknown key; {hint}allowed: {', '.join(allowed)}"
    if detail["type"] == "missing":
        return f"{key}: missing"
    what = detail["msg"].removeprefix("Value error, ")
    return f"{key}: {what}; got {detail['input']!r}" if key else what


def _fields_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    for part in location:
        annotation = model.model_fields[str(part)].annotation
        candidates = annotation, *get_args(annotation)
        model = next(c for c in candidates if hasattr(c, "model_fields"))
    return list(model.model_fields)


@dataclass(frozen=True)
class RunPlace:
    """One run, or a pool of several, in its study, and the folder that it lives in.

    Attributes:
        experiment: its name.
        split: a key of `SPLITS`.
        seed: its number, or `ENSEMBLE`: several seeds, whose probabilities are averaged.
        fold: of a split with several its number, or `POOLED`: the test images of all folds.
    """

    experiment: str
    split: str
    seed: int | str
    fold: int | str | None = None

    @property
    def path(self) -> Path:
        """Its folder, relative to the study's."""
        return Path("runs", self.experiment, self.split, *self._fold_and_seed("-"))

    @property
    def name(self) -> str:
        """The run or pool in a few words: `E1_b0_baseline · center · seed 42`."""
        return " · ".join((self.experiment, self.split, *self._fold_and_seed(" ")))

    @property
    def where(self) -> str:
        """All but the experiment, in words: `center_cv, fold 3, seed 42`."""
        return ", ".join((self.split, *self._fold_and_seed(" ")))

    @property
    def is_pool(self) -> bool:
        """True for several runs put together: folds, seeds or both."""
        return self.fold == POOLED or self.seed == ENSEMBLE

    def _fold_and_seed(self, joint: str) -> list[str]:
        numbers = {"fold": self.fold, "seed": self.seed}
        return [
            number if isinstance(number, str) else f"{name}{joint}{number}"
            for name, number in numbers.items()
            if number is not None
        ]


def run_at(path: Path) -> RunPlace | None:
    """Return the run or pool that lives at a path, relative to its study's; None at another path.

    >>> run_at(Path("runs/E1/center_cv/fold-3/seed-42"))
    RunPlace(experiment='E1', split='center_cv', seed=42, fold=3)
    >>> run_at(Path("runs/E1/center/seed-42.old-20260101"))
    """
    found = RUN_PATH.fullmatch(path.as_posix())
    if found is None or found[2] not in SPLITS:
        return None
    experiment, split, fold, seed = found.groups()
    return RunPlace(experiment, split, _number(seed), fold and _number(fold))


def _number(name: str) -> int | str:
    """Return the number of `fold-3` or `seed-42`; what has none as it is."""
    number = name.rpartition("-")[2]
    return int(number) if number.isdigit() else name


class ModelParams(_Section):
    """The network: a timm backbone and its classifier."""

    backbone: str = "efficientnet_b0"
    """The name of an image classifier that timm knows."""
    num_classes: Literal[3] = 3
    """The classes are Normal, Benign and Malignant."""
    pretrained: bool = True
    """Training starts from published weights, else from random ones."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """The probability with which a feature is dropped before the head."""
    attn_layer: str | None = None
    """The attention that timm builds into a ResNet's blocks, such as `cbam`."""
    attention: Literal["mask_guided"] | None = None
    """`mask_guided` lets the classifier also read where an attention, taught by the lesion masks,
    sees a lesion."""
    weights: str | None = None
    """A local file of weights to start from, in the place of the published ones."""
    flip_at_test: bool = False
    """Logits of validation, test and prediction, and heat maps, are the mean of those of an image
    and of its mirror image."""
    frozen_stages: int = Field(default=0, ge=0)
    """Training leaves so many stages of the backbone as they are; the stem is the first."""


class DataParams(_Section):
    """The network's input: preprocessing, and what annotations add to the training set."""

    IN_COMMON: ClassVar = ("contrast", "resize", "shuffle_labels")
    """The parameters in which two experiments must agree to be compared."""

    image_size: ImageSize = 224
    """The side of the square image in pixels."""
    contrast: Literal["clahe", "none"] = "clahe"
    """The contrast enhancement is the same in training, test and prediction."""
    resize: Literal["letterbox", "stretch"] = "letterbox"
    """An image becomes square with a black border (`letterbox`), or by `stretch` out of
    proportion."""
    annotations: Literal["none", "roi_dim", "balanced_dim"] = "none"
    """`roi_dim` adds a dimmed copy of each annotated image, `balanced_dim` one of every image, so
    that dimming tells nothing about the class."""
    dim_factor: float = Field(default=0.5, ge=0, le=1)
    """Pixels outside the lesion are multiplied by this in a dimmed copy."""
    shuffle_labels: bool = False
    """A control experiment permutes the training labels, so that nothing can be learnt."""
    augmentation: Literal["none", "light", "standard", "strong"] = "standard"
    """Training images are changed at random: `light` half as far as `standard`, `strong` twice."""
    source_jitter: bool = False
    """Training images are also changed in what tells hospitals apart: their sharpness, their
    borders and which of black and white is dense."""


class TrainingParams(_Section):
    """The training: its mode, its optimiser, its schedule and when it stops."""

    IN_COMMON: ClassVar = (
        *("epochs", "lr", "weight_decay", "warmup_epochs", "label_smoothing", "grad_clip"),
        *("patience", "device"),
    )
    """The parameters in which two experiments must agree to be compared."""

    mode: Literal["finetune", "probe"] = "finetune"
    """`finetune` trains the network. `probe` leaves it as it is and fits its head on features that
    are computed once: of the other parameters only `batch_size` and `device` count then, and `C`
    for a linear head; for one with attention all others do but `C` and `workers`."""
    C: list[Annotated[float, Field(gt=0)]] = Field(
        default=[1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0],
        min_length=1,
    )
    """Inverse penalties that a linear probe tries."""
    epochs: int = Field(default=50, ge=1)
    """Training passes over its images at most this often."""
    batch_size: int = Field(default=32, ge=2)
    """Each training step takes this many images."""
    lr: float = Field(default=3e-4, gt=0)
    """The learning rate of AdamW rises to this value in the warm-up."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """The weight decay of AdamW."""
    warmup_epochs: int = Field(default=3, ge=0)
    """The learning rate rises for this many epochs, then falls along a cosine."""
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    """The labels are smoothed by this in the training loss, not in that of validation."""
    grad_clip: float = Field(default=1.0, gt=0)
    """The gradient is scaled down to this norm where it is larger."""
    cam_weight: float = Field(default=0.0, ge=0)
    """The weight of the loss that pulls class activation maps into the lesion masks."""
    attention_weight: float = Field(default=1.0, ge=0)
    """The weight of the loss that teaches a `model.attention` the lesion masks."""
    patience: int = Field(default=15, ge=1)
    """Training stops after this many epochs without a lower validation loss."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """The decay of the moving average of the weights that is validated and kept; 0 keeps the
    weights themselves."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """The learning rate is multiplied by this from each layer to the one before it."""
    sampling: Literal["shuffled", "balanced"] = "shuffled"
    """`balanced` gives an epoch as many samples of each class, in the place of class weights."""
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    """This many processes load training batches; `auto` takes none on a CPU, up to 8 for a GPU."""
    device: str = "auto"
    """`auto` takes a GPU where there is one; other values are torch's names: `cpu`, `cuda:1`."""


class ResultParams(_Section):
    """A result that predictions belong to: one run, or a pool of several."""

    experiment: Name
    """The run's name in the report, and its folder."""
    split: SplitName = "stratified"
    """The split that says which images train, validate and test."""
    fold: int | Literal["pooled"] | None = None
    """The number of the fold, of a split with several."""
    seed: Seed | Literal["ensemble"] = 42
    """The seed of every random choice of the training."""
    split_seed: Seed = 42
    """The seed of the splits."""
    dataset_root: DataFolder = "data/phantom"
    cache_dir: CacheFolder = "data/cache"
    study_dir: StudyFolder = "reports/notebooks"
    model: ModelParams = ModelParams()
    data: DataParams = DataParams()
    training: TrainingParams = TrainingParams()

    @model_validator(mode="after")
    def _options_agree(self) -> Self:
        attention, probe = self.model.attention, self.training.mode == "probe"
        if self.training.cam_weight and (attention or probe):
            other = f"model.attention: {attention}" if attention else "training.mode: probe"
            raise ValueError(f"training.cam_weight must be 0 with {other}, which has its own loss")
        if attention and probe and self.model.flip_at_test:
            raise ValueError(
                "model.flip_at_test must be false with an attention and training.mode: probe, "
                "which keeps no maps of mirror images"
            )
        return self

    @property
    def step(self) -> Literal["C", "epoch"]:
        """A row of the history: a linear probe tries penalties, all else has epochs."""
        linear = self.training.mode == "probe" and self.model.attention is None
        return "C" if linear else "epoch"

    @property
    def steps(self) -> int:
        """The most rows that the history can have."""
        return len(self.training.C) if self.step == "C" else self.training.epochs

    @property
    def weighs_classes(self) -> bool:
        """True where the loss weighs the classes, false where each epoch is balanced instead."""
        return self.step == "C" or self.training.sampling == "shuffled"

    @property
    def needs_masks(self) -> bool:
        """True where lesion masks teach the network, so that training batches must hold them."""
        return self.model.attention is not None or self.training.cam_weight > 0

    @property
    def name(self) -> str:
        """The run or pool in a few words: `E1_b0_baseline · center · seed 42`."""
        return self.place.name

    @property
    def place(self) -> RunPlace:
        """The place of the run or pool in its study."""
        return RunPlace(self.experiment, self.split, self.seed, self.fold)

    @property
    def run_dir(self) -> Path:
        """The folder of this run or pool alone, inside its study."""
        return project_path(self.study_dir) / self.place.path

    @property
    def is_pool(self) -> bool:
        """True for several runs put together: folds, seeds or both."""
        return self.place.is_pool

    def holds(self, run: "RunParams") -> bool:
        """Return whether a run of the same study is part of this pool."""
        same = (run.experiment, run.split) == (self.experiment, self.split)
        return same and self.seed in (run.seed, ENSEMBLE)

    def fingerprint(self) -> str:
        """Return 16 hex digits of everything that can change the run's numbers.

        Paths and the number of loader workers are left out: the same run elsewhere is the same.

        >>> run = RunParams(experiment="E1")
        >>> run.fingerprint() == run.model_copy(update={"study_dir": "elsewhere"}).fingerprint()
        True
        """
        places: dict[str, Any] = dict.fromkeys(("dataset_root", "cache_dir", "study_dir"), True)
        return digest(self.model_dump(exclude=places | {"training": {"workers"}}))


class RunParams(ResultParams):
    """One training run: an experiment on one fold of a split, with one seed. For notebook 03."""

    fold: int | None = Field(default=None, validate_default=True)
    """The number of the fold: 1 to 5 of grouped_cv, 1 to 3 of center_cv (the center tested on)."""
    seed: Seed = 42
    """The seed of every random choice of the training."""

    @field_validator("fold")
    @classmethod
    def _is_of_the_split(cls, fold: int | None, others: ValidationInfo) -> int | None:
        split = others.data.get("split")
        allowed = (split and SPLITS[split].folds) or (None,)
        if fold not in allowed:
            raise ValueError(f"must be one of {list(allowed)} with the split {split}")
        return fold

    def require_own(self, config: Mapping[str, Any], path: Path) -> None:
        """Raise ValueError, which says what to do, for a file made with other parameters."""
        if config != self.model_dump():
            raise ValueError(
                f"{path} belongs to other parameters: give this run another `experiment` name, or "
                f"move {path.parent} aside"
            )


class PhantomParams(_Section):
    """The phantom that a study makes where its dataset root does not exist yet."""

    n_images: int = Field(ge=1)
    """The number of images that are drawn."""
    seed: Seed = 42
    """The seed of every random choice of the drawing."""
    scale: float = Field(default=0.25, gt=0, le=1)
    """The size of images is this share of the release's."""


class _Intervals(_Section):
    replicates: int = Field(default=2000, ge=10)
    """The number of draws of the bootstrap."""
    level: float = Field(default=0.95, gt=0, lt=1)
    """The coverage of the intervals."""


class EvaluateParams(_Intervals):
    """Notebook 04: which run."""

    run_dir: RunFolder
    prevalences: Prevalences = [0.01, 0.05]
    """Predictive values are also given for these shares of malignant images."""


class GradcamParams(_Intervals):
    """Notebook 05: which run, which class activation map, and of how many images."""

    run_dir: RunFolder
    method: CamMethod = "gradcam"
    """The kind of class activation map."""
    stride: Literal[4, 8, 16] | None = None
    """The stride in pixels of the feature map that maps are made of; by default the last map's."""
    normals: int = Field(default=50, ge=0)
    """This many Normal test images are explained beside the tumours."""
    gallery: int = Field(default=3, ge=1, le=12)
    """The gallery shows this many images of each kind of case."""


class _DataSet(_Section):
    dataset_root: DataFolder = "data/phantom"
    cache_dir: CacheFolder = "data/cache"
    study_dir: StudyFolder = "reports/notebooks"
    image_size: ImageSize = 224
    """The side in pixels of the images whose cache is opened."""


class EdaParams(_Intervals, _DataSet):
    """Notebook 01: which data set."""


class SplitsParams(_DataSet):
    """Notebook 02: which data set, and the seed of its splits."""

    split_seed: Seed = 42
    """The seed of the splits."""


class CompareParams(_Intervals):
    """Notebook 06: which study."""

    study_dir: StudyFolder = "reports/notebooks"


Overrides = dict[Literal["model", "data", "training"], dict[str, Any]]


class StudyParams(_Intervals):
    """A study file: the data, the grid and what is laid over its experiments.

    `overrides` go over every experiment, `experiment_overrides` over single ones after that.
    """

    name: Name
    """The name of the study, and of its folder in `reports_dir`."""
    dataset_root: DataFolder
    phantom: PhantomParams | None = None
    """The phantom that is drawn where `dataset_root` does not exist yet."""
    cache_dir: CacheFolder = "data/cache"
    reports_dir: str = "reports"
    """The folder that holds the folders of studies."""
    splits: list[SplitName] = Field(min_length=1)
    """Every experiment is run on each of these splits."""
    split_seed: Seed = 42
    """The seed of the splits."""
    seeds: list[Seed] = Field(default=[42], min_length=1)
    """Every experiment is run with each of these seeds on each split."""
    experiments: list[Name] = Field(min_length=1)
    """The names of files in `params/experiments`."""
    overrides: Overrides = {}
    """These parameters of `model`, `data` and `training` go over every experiment."""
    experiment_overrides: dict[Name, Overrides] = {}
    """These go over single experiments, after `overrides`."""
    prevalences: Prevalences = [0.01, 0.05]
    """Predictive values are also given for these shares of malignant images."""
    gradcam: CamMethod = "gradcam"
    """The kind of class activation map."""

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        unknown = set(self.experiment_overrides) - set(self.experiments)
        if unknown:
            raise ValueError(f"experiment_overrides names no experiment of the study: {unknown}")
        for key in ("splits", "seeds", "experiments"):
            values = getattr(self, key)
            if len(set(values)) < len(values):
                raise ValueError(f"{key} names something twice: {values}")
        return self

    @property
    def study_dir(self) -> Path:
        """The folder of the study's artefacts."""
        return project_path(self.reports_dir) / self.name

    def runs(self) -> list[RunParams]:
        """Return the grid: every experiment × split × fold × seed, with the overrides over it.

        Raises:
            FileNotFoundError: an experiment has no file in `params/experiments`.
            ParameterError: an experiment's file, or an override, is wrong.
        """
        return [
            self._run(experiment, split, fold, seed)
            for experiment in self.experiments
            for split in self.splits
            for seed in self.seeds
            for fold in SPLITS[split].folds or (None,)
        ]

    def pools(self) -> list[ResultParams]:
        """Return what runs are put together: the folds of each seed; and the seeds, all folds."""
        ensemble = [ENSEMBLE] if len(self.seeds) > 1 else []
        firsts: dict[tuple[str, str], RunParams] = {}
        for run in self.runs():
            firsts.setdefault((run.experiment, run.split), run)
        return [
            ResultParams.model_validate(run.model_dump() | {"fold": fold, "seed": seed})
            for run in firsts.values()
            for fold, seeds in [(POOLED, self.seeds) if SPLITS[run.split].folds else (None, [])]
            for seed in [*seeds, *ensemble]
        ]

    def _run(self, experiment: str, split: str, fold: int | None, seed: int) -> RunParams:
        source = project_path(f"params/experiments/{experiment}.yaml")
        values = read_yaml(source)
        if values.get("experiment") != experiment:
            raise ParameterError(f"{source}: `experiment` must be {experiment}, as the file's name")
        for overrides in (self.overrides, self.experiment_overrides.get(experiment, {})):
            for section, override in overrides.items():
                values[section] = {**(values.get(section) or {}), **override}
        values |= self.model_dump(include={"dataset_root", "cache_dir", "split_seed"})
        values |= {"study_dir": str(self.study_dir), "split": split, "fold": fold, "seed": seed}
        return RunParams.parse(values, f"{source} with the overrides")


def parameter_rows(section: type[BaseModel]) -> list[tuple[str, str]]:
    """Return each parameter of a section but sections: its name; meaning, values and default.

    >>> parameter_rows(PhantomParams)[0]
    ('n_images', 'The number of images that are drawn. [≥ 1; must be given]')
    >>> print(dict(parameter_rows(TrainingParams))["weight_decay"])
    The weight decay of AdamW. [≥ 0; default 0.0001]
    """
    properties = section.model_json_schema()["properties"]
    return [
        (name, f"{' '.join(schema['description'].split())} [{_values(schema)}]")
        for name, schema in properties.items()
        if "description" in schema
    ]


def _values(schema: Mapping[str, Any]) -> str:
    """Say what a parameter may be, and its default."""
    of_each = schema.get("items", schema)
    allowed = " | ".join(map(str, of_each.get("enum", ())))
    bounds = ", ".join(f"{sign} {of_each[key]}" for key, sign in BOUNDS.items() if key in of_each)
    several = "a list; " if "items" in schema else ""
    default = f"default {schema['default']}" if "default" in schema else "must be given"
    return several + "; ".join(part for part in (allowed, bounds, default) if part)
