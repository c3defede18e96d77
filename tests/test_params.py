import pytest

from btxrd import params
from btxrd.files import PROJECT_ROOT, read_yaml
from btxrd.params import EvaluateParams, ParameterError, RunParams, StudyParams

GRID = {
    "E1_b0_baseline": ("efficientnet_b0", 224, 32, 0.2, "none", None),
    "E2_b0_annotated": ("efficientnet_b0", 224, 32, 0.2, "roi_dim", None),
    "E3_b3_annotated": ("efficientnet_b3", 300, 16, 0.3, "roi_dim", None),
    "E4_resnet50_cbam": ("resnet50", 224, 16, 0.3, "roi_dim", "cbam"),
}
FLOOR = "E0_lite0_probe"
GUIDED = "E7_mask_attention"
BEST = "E8_mask_attention_finetuned"
AGAINST_SHORTCUTS = {
    "E5_b0_balanced_dim": {"data": {"annotations": "balanced_dim"}},
    "E6_b0_cam_loss": {"training": {"cam_weight": 0.5}},
}


def load(name: str) -> StudyParams:
    path = PROJECT_ROOT / "params" / f"{name}.yaml"
    return StudyParams.parse(read_yaml(path), path)


def runs_of(name: str) -> dict[str, RunParams]:
    """Return a run of each experiment of a study file."""
    return {run.experiment: run for run in load(name).runs()}


def changed(run: RunParams, name: str, **sections: dict) -> dict:
    """Return a run's parameters under another name, with some of its sections' changed."""
    values = run.model_dump() | {"experiment": name}
    return values | {key: values[key] | change for key, change in sections.items()}


def test_the_full_study_is_the_grid_of_the_specification():
    runs = runs_of("study")
    assert set(runs) == {FLOOR, *GRID, *AGAINST_SHORTCUTS, GUIDED, BEST}
    for name, (backbone, size, batch, dropout, annotations, attention) in GRID.items():
        run = runs[name]
        assert (run.model.backbone, run.data.image_size) == (backbone, size)
        assert (run.training.batch_size, run.model.dropout) == (batch, dropout)
        assert (run.data.annotations, run.model.attn_layer) == (annotations, attention)
        assert run.model.pretrained
        assert (run.training.epochs, run.training.lr, run.training.patience) == (50, 3e-4, 15)


def test_some_experiments_are_another_but_for_one_thing_and_none_shares_a_folder():
    runs = runs_of("study")
    for name, change in AGAINST_SHORTCUTS.items():
        assert runs[name].model_dump() == changed(runs["E1_b0_baseline"], name, **change)
    guided = changed(runs[FLOOR], GUIDED, model={"attention": "mask_guided"})
    assert runs[GUIDED].model_dump() == guided
    every = load("study").runs()
    assert len({run.run_dir for run in every}) == len(every) == 9 * 3 * 3


@pytest.mark.parametrize(("study", "image_size"), [("study", 256), ("demo", 64)])
def test_both_studies_begin_with_a_probe_of_weights_that_need_no_network(study, image_size):
    first = load(study).runs()[0]
    assert (first.experiment, first.training.mode) == (FLOOR, "probe")
    assert (first.model.backbone, first.model.pretrained) == ("tf_efficientnet_lite0", True)
    assert first.data.image_size == image_size


def test_the_study_of_real_radiographs_has_one_recipe_and_needs_no_network():
    assert set(load("real-256").splits) == {"stratified", "center", "grouped_cv", "center_cv"}
    runs = runs_of("real-256")
    assert {run.model.backbone for run in runs.values()} == {"tf_efficientnet_lite0"}
    guided_otherwise = {"E1_b0_baseline": 0.0, "E6_b0_cam_loss": 0.5}
    assert set(runs) == {FLOOR, GUIDED, BEST, *guided_otherwise}
    for name, weight in guided_otherwise.items():
        change = {"model": {"attention": None}, "training": {"cam_weight": weight}}
        assert runs[name].model_dump() == changed(runs[BEST], name, **change)


def test_the_larger_probe_is_in_no_grid():
    path = PROJECT_ROOT / "params" / "experiments" / "E0_dinov2_probe.yaml"
    run = RunParams.parse(read_yaml(path), path)
    assert (run.experiment, run.training.mode) == (path.stem, "probe")
    assert run.experiment not in runs_of("study") | runs_of("demo")


def test_the_demo_is_the_same_grid_shrunk_and_needs_no_network():
    assert {run.split for run in load("demo").runs()} == {"stratified", "center"}
    runs = runs_of("demo")
    assert set(runs) == {FLOOR, *GRID}
    for name, run in runs.items():
        assert run.model.backbone == "tf_efficientnet_lite0" or not run.model.pretrained
        assert run.data.image_size == (96 if name == "E3_b3_annotated" else 64)
        if name != FLOOR:
            found = (run.model.dropout, run.data.annotations, run.model.attn_layer)
            assert found == GRID[name][3:]


def test_an_experiments_own_override_goes_over_the_common_one():
    values = GROWN | {
        "splits": ["center"],
        "experiments": ["E1_b0_baseline", "E2_b0_annotated"],
        "overrides": {"training": {"epochs": 5, "lr": 0.1}},
        "experiment_overrides": {"E2_b0_annotated": {"training": {"epochs": 2}}},
    }
    first, second = StudyParams.parse(values, "study.yaml").runs()
    assert (first.training.epochs, second.training.epochs) == (5, 2)
    assert first.training.lr == second.training.lr == 0.1


GROWN = {
    "name": "s",
    "dataset_root": "d",
    "splits": ["stratified", "grouped_cv"],
    "experiments": ["E1_b0_baseline"],
}


def test_every_fold_is_a_run_of_its_own():
    runs = StudyParams.parse({**GROWN, "seeds": [1, 2]}, "s").runs()
    assert [(run.split, run.seed, run.fold) for run in runs] == [
        *(("stratified", seed, None) for seed in (1, 2)),
        *(("grouped_cv", seed, fold) for seed in (1, 2) for fold in (1, 2, 3, 4, 5)),
    ]
    assert runs[0].name == "E1_b0_baseline · stratified · seed 1"
    assert runs[0].run_dir.parts[-3:] == ("E1_b0_baseline", "stratified", "seed-1")
    assert runs[-1].name == "E1_b0_baseline · grouped_cv · fold 5 · seed 2"
    assert runs[-1].run_dir.parts[-4:] == ("E1_b0_baseline", "grouped_cv", "fold-5", "seed-2")
    for distinct in ({run.name for run in runs}, {run.fingerprint() for run in runs}):
        assert len(distinct) == len(runs)


@pytest.mark.parametrize(
    ("seeds", "pools"),
    [
        ([1], {"grouped_cv/pooled/seed-1": 5}),
        (
            [1, 2],
            {
                "stratified/ensemble": 2,
                "grouped_cv/pooled/seed-1": 5,
                "grouped_cv/pooled/seed-2": 5,
                "grouped_cv/pooled/ensemble": 10,
            },
        ),
    ],
)
def test_folds_and_seeds_are_put_together(seeds, pools):
    study = StudyParams.parse({**GROWN, "seeds": seeds}, "s")
    root = study.study_dir / "runs" / "E1_b0_baseline"
    runs = study.runs()
    found = {
        str(pool.run_dir.relative_to(root)): sum(map(pool.holds, runs)) for pool in study.pools()
    }
    assert found == pools
    assert all(pool.is_pool for pool in study.pools())
    assert not any(run.is_pool for run in runs)


MASKED = {"attention": "mask_guided"}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"modle": {}}, ["modle", "did you mean model?"]),
        ({"model": {"dropot": 0.1}}, ["model.dropot", "dropout"]),
        ({"training": {"lr": "fast"}}, ["training.lr", "'fast'"]),
        ({"training": {"lr": -1}}, ["training.lr", "greater than 0"]),
        ({"training": {"cam_weight": -1}}, ["training.cam_weight", "equal to 0"]),
        ({"training": {"mode": "probe", "cam_weight": 0.5}}, ["training.cam_weight", "mode"]),
        ({"training": {"ema": 1}}, ["training.ema", "less than 1"]),
        ({"training": {"layer_decay": 0}}, ["layer_decay", "greater than 0"]),
        ({"training": {"sampling": "even"}}, ["sampling", "'balanced'"]),
        ({"data": {"augmentation": "weak"}}, ["augmentation", "'light'"]),
        (
            {"model": MASKED, "training": {"cam_weight": 0.5}},
            ["training.cam_weight", "model.attention: mask_guided"],
        ),
        (
            {"model": {"flip_at_test": True} | MASKED, "training": {"mode": "probe"}},
            ["model.flip_at_test", "training.mode: probe"],
        ),
        ({"model": {"attention": "masks"}}, ["model.attention", "mask_guided"]),
        ({"split": "centre"}, ["split", "'stratified'", "'center'"]),
        ({"data": {"annotations": "roi"}}, ["data.annotations", "roi_dim"]),
        ({"experiment": "../x"}, ["experiment", "pattern"]),
        ({"split": "grouped_cv"}, ["fold", "one of [1, 2, 3, 4, 5]", "None"]),
        ({"fold": 1}, ["fold", "one of [None] with the split stratified"]),
    ],
)
def test_a_wrong_parameter_is_named_with_its_source(values, words):
    with pytest.raises(ParameterError) as caught:
        RunParams.parse({"experiment": "x"} | values, "some.yaml")
    for word in ["some.yaml", *words]:
        assert word in str(caught.value)


def test_a_missing_parameter_is_named():
    with pytest.raises(ParameterError, match=r"some\.yaml.*\n.*experiment: missing"):
        RunParams.parse({}, "some.yaml")


def test_yaml_reads_1e_4_as_text_and_it_is_taken_as_a_number():
    run = RunParams.parse({"experiment": "x", "training": {"lr": "1e-4"}}, "some.yaml")
    assert run.training.lr == 1e-4


def test_a_notebook_refuses_what_papermill_only_warns_of_and_may_have_other_names():
    own = {"run_dir": "x", "table": 3, "In": ["", "table = 3"]}
    assert EvaluateParams.from_notebook(own).run_dir == "x"
    injected = '# Parameters\nrun_dir = "x"\nlevl = 0.9'
    namespace = {"run_dir": "x", "levl": 0.9, "In": ["", "import os", injected]}
    with pytest.raises(ParameterError, match=r"levl.*did you mean level\?"):
        EvaluateParams.from_notebook(namespace)


NUMBERS = (
    {"seed": 1},
    {"split": "center"},
    {"model": {"dropout": 0.3}},
    {"model": {"flip_at_test": True}},
    {"model": {"frozen_stages": 2}},
    {"model": MASKED},
    {"data": {"contrast": "none"}},
    {"data": {"annotations": "balanced_dim"}},
    {"data": {"augmentation": "light"}},
    {"data": {"source_jitter": True}},
    {"training": {"lr": 1e-3}},
    {"training": {"cam_weight": 0.5}},
    {"training": {"ema": 0.99}},
    {"training": {"layer_decay": 0.9}},
    {"training": {"sampling": "balanced"}},
    {"training": {"mode": "probe"}},
    {"training": {"mode": "probe", "C": [1]}},
    {"model": MASKED, "training": {"mode": "probe"}},
    {"model": MASKED, "training": {"mode": "probe", "attention_weight": 2}},
)


def test_every_parameter_that_changes_numbers_changes_the_fingerprint():
    runs = [RunParams.parse({"experiment": "x", **change}, "test") for change in ({}, *NUMBERS)]
    assert len({run.fingerprint() for run in runs}) == len(runs)
    for run in runs:
        assert RunParams.parse(run.model_dump(), "test") == run
    elsewhere = {"dataset_root": "/elsewhere", "training": {"workers": 4}}
    elsewhere = RunParams.parse({"experiment": "x", **elsewhere}, "test")
    assert elsewhere.fingerprint() == runs[0].fingerprint()


@pytest.mark.parametrize(
    ("model", "mode", "expected"),
    [({}, "finetune", ("epoch", 50)), ({}, "probe", ("C", 13)), (MASKED, "probe", ("epoch", 50))],
)
def test_a_linear_probe_tries_penalties_and_all_else_has_epochs(model, mode, expected):
    values = {"experiment": "x", "model": model, "training": {"mode": mode}}
    run = RunParams.parse(values, "test")
    assert (run.step, run.steps) == expected
    assert run.needs_masks == bool(model)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"experiments": ["a", "a"]}, "experiments.*twice"),
        ({"experiment_overrides": {"E9": {}}}, "experiment_overrides.*E9"),
        # A map that looks at no class.
        ({"gradcam": "eigencam"}, r"'hirescam' or 'gradcam\+\+'; got 'eigencam'"),
    ],
)
def test_a_wrong_parameter_of_a_study_is_named(values, words):
    with pytest.raises(ParameterError, match=words):
        StudyParams.parse(GROWN | values, "study.yaml")


def test_an_experiment_without_a_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"E9_none\.yaml"):
        StudyParams.parse(GROWN | {"experiments": ["E9_none"]}, "study.yaml").runs()


def test_every_parameter_is_listed_with_its_meaning(btxrd):
    output = btxrd("parameters").output
    sections = (value for value in vars(params).values() if isinstance(value, type))
    for section in (s for s in sections if issubclass(s, params.BaseModel)):
        for name, field in section.model_fields.items():
            is_section = name in ("model", "data", "training")
            assert is_section or (field.description and f"  {name} " in output), name
