"""Every parameter of the study: the one place where parameters are validated."""

import ast
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from btxrd.files import digest, project_path, read_yaml
from btxrd.strategies import SPLITS

__all__ = [
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
    "SplitsParams",
    "StudyParams",
    "TrainingParams",
    "parameter_rows",
]

SplitName = Literal[tuple(SPLITS)]
CamMethod = Literal["gradcam", "hirescam", "gradcam++"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
DataFolder = Annotated[str, Field(description="The data set, in the release's layout.")]
CacheFolder = Annotated[str, Field(description="Where decoded images are kept.")]
StudyFolder = Annotated[str, Field(description="Where the study's artefacts stand.")]
RunFolder = Annotated[str, Field(description="The run's folder.")]
Prevalences = list[Annotated[float, Field(gt=0, lt=1)]]
ImageSize = Annotated[int, Field(ge=64, le=2048)]
"""Pixels. Below 64 the backbones' last feature maps have a single place: no activation map."""

BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
"""Keys of a JSON schema, as they are read."""


def _added(default: Any, **limits: Any) -> Any:
    """Define a parameter that came after studies were made.

    At its default it is left out of what is dumped, so that their runs are still the same runs.
    """
    return Field(default=default, exclude_if=lambda value: value == default, **limits)


class ParameterError(ValueError):
    """A parameter is unknown, of the wrong type or impossible; the message names the key."""


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @classmethod
    def parse(cls, values: Mapping[str, Any], source: str | Path) -> Self:
        """Validate `values`, which came from `source` (a file or a notebook, for the message).

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
        """Validate the parameters in a notebook's `globals()`, also those that papermill injected.

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
    key = ".".join(str(part) for part in detail["loc"]) or "(all)"
    if detail["type"] == "extra_forbidden":
        allowed = _fields_at(model, detail["loc"][:-1])
        close = difflib.get_close_matches(str(detail["loc"][-1]), allowed, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        return f"{key}: unknown key; {hint}allowed: {', '.join(allowed)}"
    if detail["type"] == "missing":
        return f"{key}: missing"
    return f"{key}: {detail['msg']}; got {detail['input']!r}"


def _fields_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    for part in location:
        field = model.model_fields.get(str(part))
        candidates = [] if field is None else [field.annotation, *get_args(field.annotation)]
        sections = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not sections:
            return []
        model = sections[0]
    return list(model.model_fields)


class ModelParams(_Section):
    """The network: a timm backbone and its classifier."""

    backbone: str = "efficientnet_b0"
    """An image classifier that timm knows."""
    num_classes: Literal[3] = 3
    """Normal, Benign, Malignant."""
    pretrained: bool = True
    """Start from published weights, else from random ones."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Probability, before the head."""
    attn_layer: str | None = None
    """Attention that timm builds into a ResNet's blocks, such as `cbam`."""
    attention: Literal["mask_guided"] | None = _added(None)
    """`mask_guided`: the classifier also reads where an attention, taught by the lesion masks, sees
    a lesion."""
    weights: str | None = None
    """A local file to start from, in the place of the published weights."""
    flip_at_test: bool = _added(False)
    """Whether the logits of validation, test and prediction, and the heat maps, are the mean of
    those of an image and of its mirror image."""
    frozen_stages: int = _added(0, ge=0)
    """Stages of the backbone that training leaves as they are; its stem is the first."""


class DataParams(_Section):
    """What the network sees: preprocessing, and what annotations add to the training set."""

    image_size: ImageSize = 224
    """Pixels a side."""
    contrast: Literal["clahe", "none"] = "clahe"
    """Contrast enhancement, the same in training, test and prediction."""
    resize: Literal["letterbox", "stretch"] = "letterbox"
    """How an image becomes square: with a border, or out of proportion."""
    annotations: Literal["none", "roi_dim", "balanced_dim"] = "none"
    """`roi_dim`: a dimmed copy of each annotated image. `balanced_dim`: of every image, so that
    dimming tells nothing about the class."""
    dim_factor: float = Field(default=0.5, ge=0, le=1)
    """What pixels outside the lesion are multiplied by in a dimmed copy."""
    shuffle_labels: bool = False
    """Control experiment: permute the training labels, so that nothing can be learnt."""
    augmentation: Literal["none", "light", "standard", "strong"] = _added("standard")
    """How far training images are changed: `light` is half of `standard`, `strong` twice that."""
    source_jitter: bool = _added(False)
    """Whether training images also change in what tells hospitals apart: their sharpness, their
    borders and which of black and white is dense."""


class TrainingParams(_Section):
    """How the network is trained: which mode; the optimiser, its schedule and when to stop."""

    mode: Literal["finetune", "probe"] = "finetune"
    """`probe`: the network stays as it is, and its head is fitted on features that are computed
    once. Of the other parameters only `batch_size` and `device` count then, and `C` for a linear
    head; for one with attention all others do but `C` and `workers`."""
    C: list[Annotated[float, Field(gt=0)]] = Field(
        default=[1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0],
        min_length=1,
    )
    """Inverse penalties that a linear probe tries."""
    epochs: int = Field(default=50, ge=1)
    """Passes over the training images, at most."""
    batch_size: int = Field(default=32, ge=2)
    """Images a step."""
    lr: float = Field(default=3e-4, gt=0)
    """The highest learning rate of AdamW, reached after the warm-up."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """Of AdamW."""
    warmup_epochs: int = Field(default=3, ge=0)
    """In which the learning rate rises; after them it falls along a cosine."""
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Of the training loss; that of validation is unsmoothed."""
    grad_clip: float = Field(default=1.0, gt=0)
    """The largest norm of the gradient."""
    cam_weight: float = Field(default=0.0, ge=0)
    """Weight of the loss that pulls class activation maps into the lesion masks; 0 is without."""
    attention_weight: float = _added(1.0, ge=0)
    """Weight of the loss that teaches a `model.attention` the lesion masks."""
    patience: int = Field(default=15, ge=1)
    """Epochs without a lower validation loss, after which training stops."""
    ema: float = _added(0.0, ge=0, lt=1)
    """Decay of the moving average of the weights that is validated and kept; 0 is without."""
    layer_decay: float = _added(1.0, gt=0, le=1)
    """What the learning rate is multiplied by from each layer to the one before it."""
    sampling: Literal["shuffled", "balanced"] = _added("shuffled")
    """`balanced`: an epoch has as many samples of each class, in the place of class weights."""
    workers: int = Field(default=0, ge=0)
    """Processes that load batches; 0 loads in the training's own."""
    device: str = "auto"
    """`auto` takes a GPU where there is one; else a name of torch's: `cpu`, `cuda:1`."""

    @model_validator(mode="after")
    def _probes_have_no_maps_to_train(self) -> Self:
        if self.mode == "probe" and self.cam_weight:
            raise ValueError("mode: probe trains no activation maps, so cam_weight must be 0")
        return self

    @model_serializer(mode="wrap")
    def _as_before_probes(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out of other runs what came with probes: they are still the same runs."""
        values = dump(self)
        if self.mode == "finetune":
            values = {key: value for key, value in values.items() if key not in ("mode", "C")}
        return values


class ResultParams(_Section):
    """What predictions are of: a run, or a pool, that is, several runs put together."""

    experiment: Name
    """What the run is called in the report, and its folder."""
    split: SplitName = "stratified"
    """Which images train, validate and test."""
    fold: int | Literal["pooled"] | None = None
    """Of a split with several."""
    seed: Seed | Literal["ensemble"] = 42
    """Of every random choice of the training."""
    split_seed: Seed = 42
    """Of the splits."""
    dataset_root: DataFolder = "data/phantom"
    cache_dir: CacheFolder = "data/cache"
    study_dir: StudyFolder = "reports/notebooks"
    model: ModelParams = ModelParams()
    data: DataParams = DataParams()
    training: TrainingParams = TrainingParams()

    @model_validator(mode="after")
    def _attention_has_its_own_loss(self) -> Self:
        if self.model.attention and self.training.cam_weight:
            raise ValueError(
                f"model.attention: {self.model.attention} has a loss of its own, so "
                "training.cam_weight must be 0"
            )
        return self

    @model_validator(mode="after")
    def _features_are_of_images_as_they_are(self) -> Self:
        if self.model.attention and self.model.flip_at_test and self.training.mode == "probe":
            raise ValueError(
                "model.flip_at_test: mode: probe keeps no maps of mirror images for an attention"
            )
        return self

    @property
    def step(self) -> Literal["C", "epoch"]:
        """What the history has a row of: a linear probe tries penalties, all else has epochs."""
        linear = self.training.mode == "probe" and self.model.attention is None
        return "C" if linear else "epoch"

    @property
    def steps(self) -> int:
        """The most rows that the history can have."""
        return len(self.training.C) if self.step == "C" else self.training.epochs

    @property
    def weighs_classes(self) -> bool:
        """Whether the loss does; else each epoch has as many samples of each class."""
        return self.step == "C" or self.training.sampling == "shuffled"

    @property
    def needs_masks(self) -> bool:
        """Whether the lesion masks teach the network, so that training batches must hold them."""
        return self.model.attention is not None or self.training.cam_weight > 0

    @property
    def name(self) -> str:
        """The run or pool in a few words: `E1_b0_baseline · center · seed 42`."""
        return " · ".join((self.experiment, self.split, *_fold_and_seed(self.fold, self.seed, " ")))

    @property
    def run_dir(self) -> Path:
        """The folder that is this run's, or pool's, alone."""
        return run_directory(self.study_dir, self.experiment, self.split, self.seed, self.fold)

    @property
    def is_pool(self) -> bool:
        """Whether it is several runs put together: folds, seeds or both."""
        return self.fold == "pooled" or self.seed == "ensemble"

    def holds(self, run: "RunParams") -> bool:
        """Say whether a run of the same study is part of this pool."""
        same = (run.experiment, run.split) == (self.experiment, self.split)
        return same and self.seed in (run.seed, "ensemble")

    def fingerprint(self) -> str:
        """Return 16 hex digits of everything that can change the run's numbers.

        Paths and the number of loader workers are left out: the same run elsewhere is the same.

        >>> run = RunParams(experiment="E1")
        >>> run.fingerprint() == run.model_copy(update={"study_dir": "elsewhere"}).fingerprint()
        True
        """
        exclude: dict[str, Any] = dict.fromkeys(("dataset_root", "cache_dir", "study_dir"), True)
        if self.fold is None:
            # A run of a single fold is the same as before there were several.
            exclude["fold"] = True
        return digest(self.model_dump(exclude=exclude | {"training": {"workers"}}))


class RunParams(ResultParams):
    """One training run: an experiment on one fold of a split, with one seed. For notebook 03."""

    fold: int | None = Field(default=None, validate_default=True)
    """Of a split with several: grouped_cv 1 to 5, center_cv 1 to 3, the center tested on."""
    seed: Seed = 42
    """Of every random choice of the training."""

    @field_validator("fold")
    @classmethod
    def _is_of_the_split(cls, fold: int | None, others: ValidationInfo) -> int | None:
        split = others.data.get("split")
        allowed = (split and SPLITS[split].folds) or (None,)
        if fold not in allowed:
            raise ValueError(f"must be one of {list(allowed)} with the split {split}")
        return fold

    def require_own(self, config: Mapping[str, Any], path: Path) -> None:
        """Refuse a file in the run's folder that was made with other parameters, `config`.

        Raises:
            ValueError: names the file and what to do.
        """
        if config != self.model_dump():
            raise ValueError(
                f"{path} belongs to other parameters: give this run another `experiment` name, or "
                f"move {path.parent} aside"
            )


def run_directory(
    study_dir: str | Path,
    experiment: str,
    split: str,
    seed: int | str,
    fold: int | str | None = None,
) -> Path:
    """Return the folder of one run or pool inside its study."""
    folder = project_path(study_dir) / "runs" / experiment / split
    return folder.joinpath(*_fold_and_seed(fold, seed, "-"))


def _fold_and_seed(fold: int | str | None, seed: int | str, joint: str) -> list[str]:
    """Write what tells the runs of one experiment and split apart; pools say it in one word."""
    parts = {"fold": fold, "seed": seed}
    return [
        value if isinstance(value, str) else f"{name}{joint}{value}"
        for name, value in parts.items()
        if value is not None
    ]


class PhantomParams(_Section):
    """The phantom that a study makes where its dataset root does not exist yet."""

    n_images: int = Field(ge=1)
    """How many images are drawn."""
    seed: Seed = 42
    """Of every random choice of the drawing."""
    scale: float = Field(default=0.25, gt=0, le=1)
    """Image size relative to the release's."""


class _Intervals(_Section):
    replicates: int = Field(default=2000, ge=10)
    """Of the bootstrap."""
    level: float = Field(default=0.95, gt=0, lt=1)
    """Coverage of the intervals."""


class EvaluateParams(_Intervals):
    """Notebook 04: which run."""

    run_dir: RunFolder
    prevalences: Prevalences = [0.01, 0.05]
    """Shares of malignant images for which predictive values are also given."""


class GradcamParams(_Intervals):
    """Notebook 05: which run, which class activation map, and of how many images."""

    run_dir: RunFolder
    method: CamMethod = "gradcam"
    """Of the class activation maps."""
    stride: Literal[4, 8, 16] | None = None
    """In pixels, of the feature map that they are made of; without one the last map."""
    normals: int = Field(default=50, ge=0)
    """Normal test images that are explained beside the tumours."""
    gallery: int = Field(default=3, ge=1, le=12)
    """Images a kind of case."""


class EdaParams(_Intervals):
    """Notebook 01: which data set."""

    dataset_root: DataFolder = "data/phantom"
    cache_dir: CacheFolder = "data/cache"
    study_dir: StudyFolder = "reports/notebooks"
    image_size: ImageSize = 224
    """Pixels a side: which image cache is opened."""


class SplitsParams(_Section):
    """Notebook 02: which data set, and the seed of its splits."""

    dataset_root: DataFolder = "data/phantom"
    cache_dir: CacheFolder = "data/cache"
    study_dir: StudyFolder = "reports/notebooks"
    image_size: ImageSize = 224
    """Pixels a side: which image cache is opened."""
    split_seed: Seed = 42
    """Of the splits."""


class CompareParams(_Intervals):
    """Notebook 06: which study."""

    study_dir: StudyFolder = "reports/notebooks"


Overrides = dict[Literal["model", "data", "training"], dict[str, Any]]


class StudyParams(_Intervals):
    """A study file: the data, the grid and what is laid over its experiments.

    `overrides` go over every experiment, `experiment_overrides` over single ones after that.
    """

    name: Name
    """Of the study, and of its folder in `reports_dir`."""
    dataset_root: DataFolder
    phantom: PhantomParams | None = None
    """What to draw where `dataset_root` does not exist yet."""
    cache_dir: CacheFolder = "data/cache"
    reports_dir: str = "reports"
    """Where the folders of studies stand."""
    splits: list[SplitName] = Field(min_length=1)
    """Every experiment is run on each."""
    split_seed: Seed = 42
    """Of the splits."""
    seeds: list[Seed] = Field(default=[42], min_length=1)
    """Every experiment is run with each on each split."""
    experiments: list[Name] = Field(min_length=1)
    """Names of files in `params/experiments`."""
    overrides: Overrides = {}
    """Parameters of `model`, `data` and `training` that go over every experiment."""
    experiment_overrides: dict[Name, Overrides] = {}
    """The same for single experiments, over `overrides`."""
    prevalences: Prevalences = [0.01, 0.05]
    """Shares of malignant images for which predictive values are also given."""
    gradcam: CamMethod = "gradcam"
    """Method of the class activation maps."""

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
        """Where the study's artefacts stand."""
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
        """Return what runs are put together: the folds of each seed, and the seeds.

        Of a split with several folds the seeds are put together over all folds.
        """
        ensemble = ["ensemble"] if len(self.seeds) > 1 else []
        firsts: dict[tuple[str, str], RunParams] = {}
        for run in self.runs():
            firsts.setdefault((run.experiment, run.split), run)
        return [
            ResultParams.model_validate(run.model_dump() | {"fold": fold, "seed": seed})
            for run in firsts.values()
            for fold, seeds in [("pooled", self.seeds) if SPLITS[run.split].folds else (None, [])]
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
        places = {
            "dataset_root": self.dataset_root,
            "cache_dir": self.cache_dir,
            "study_dir": str(self.study_dir),
        }
        where = {"split": split, "fold": fold, "seed": seed, "split_seed": self.split_seed}
        return RunParams.parse({**values, **where, **places}, f"{source} with the overrides")


def parameter_rows(section: type[BaseModel]) -> list[tuple[str, str]]:
    """Return each parameter of a section: its name, and its meaning, values and default in words.

    Sections within it are left out: they have rows of their own.

    >>> parameter_rows(PhantomParams)[0]
    ('n_images', 'How many images are drawn. [≥ 1; must be given]')
    >>> print(dict(parameter_rows(DataParams))["contrast"])
    Contrast enhancement, the same in training, test and prediction. [clahe | none; default clahe]
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
