import pytest
from click.testing import CliRunner

from btxrd import params
from btxrd.files import PROJECT_ROOT, digest, read_yaml
from btxrd.params import EvaluateParams, ParameterError, RunParams, StudyParams
from btxrd.runner.cli import main

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


LATER = (
    {"model": {"flip_at_test": True}},
    {"model": {"frozen_stages": 2}},
    {"data": {"augmentation": "light"}},
    {"data": {"source_jitter": True}},
    {"training": {"ema": 0.99}},
    {"training": {"layer_decay": 0.9}},
    {"training": {"sampling": "balanced"}},
)
"""Of each parameter that came after studies were made, another value than its default."""


def load(name: str) -> StudyParams:
    path = PROJECT_ROOT / "params" / f"{name}.yaml"
    return StudyParams.parse(read_yaml(path), path)


def test_the_full_study_is_the_grid_of_the_specification():
    runs = {run.experiment: run for run in load("study").runs()}
    for name, (backbone, size, batch, dropout, annotations, attention) in GRID.items():
        run = runs[name]
        assert (run.model.backbone, run.data.image_size) == (backbone, size)
        assert (run.training.batch_size, run.model.dropout) == (batch, dropout)
        assert (run.data.annotations, run.model.attn_layer) == (annotations, attention)
        assert run.model.pretrained
        assert (run.training.epochs, run.training.lr, run.training.patience) == (50, 3e-4, 15)


def test_the_two_experiments_against_shortcuts_are_the_baseline_but_for_one_thing():
    runs = {run.experiment: run for run in load("study").runs()}
    assert set(runs) == {FLOOR, *GRID, *AGAINST_SHORTCUTS, GUIDED, BEST}
    for name, change in AGAINST_SHORTCUTS.items():
        expected = runs["E1_b0_baseline"].model_dump() | {"experiment": name}
        for section, values in change.items():
            expected[section] = expected[section] | values
        assert runs[name].model_dump() == expected


@pytest.mark.parametrize(("study", "image_size"), [("study", 256), ("demo", 64)])
def test_both_studies_begin_with_a_probe_of_weights_that_need_no_network(study, image_size):
    first = load(study).runs()[0]
    assert (first.experiment, first.training.mode) == (FLOOR, "probe")
    assert (first.model.backbone, first.model.pretrained) == ("tf_efficientnet_lite0", True)
    assert first.data.image_size == image_size


def test_the_guided_experiment_is_the_floor_but_for_its_attention():
    runs = {run.experiment: run for run in load("study").runs()}
    expected = runs[FLOOR].model_dump() | {"experiment": GUIDED}
    expected["model"] = expected["model"] | {"attention": "mask_guided"}
    assert runs[GUIDED].model_dump() == expected


def test_the_study_of_real_radiographs_has_one_recipe_and_needs_no_network():
    study = load("real-256")
    assert set(study.splits) == {"stratified", "center", "grouped_cv", "center_cv"}
    runs = {run.experiment: run for run in study.runs()}
    assert {run.model.backbone for run in runs.values()} == {"tf_efficientnet_lite0"}
    best = runs[BEST].model_dump()
    guided_otherwise = {
        "E1_b0_baseline": {"cam_weight": 0.0},
        "E6_b0_cam_loss": {"cam_weight": 0.5},
    }
    assert set(runs) == {FLOOR, GUIDED, BEST, *guided_otherwise}
    for name, guide in guided_otherwise.items():
        model = {key: value for key, value in best["model"].items() if key != "attention"}
        training = best["training"] | guide
        expected = best | {"experiment": name, "model": model, "training": training}
        assert runs[name].model_dump() == expected


def test_the_larger_probe_is_in_no_grid():
    path = PROJECT_ROOT / "params" / "experiments" / "E0_dinov2_probe.yaml"
    run = RunParams.parse(read_yaml(path), path)
    assert (run.experiment, run.training.mode) == (path.stem, "probe")
    assert not {run.experiment} & {r.experiment for n in ("study", "demo") for r in load(n).runs()}


def test_the_demo_is_the_same_grid_shrunk_and_needs_no_network():
    runs = load("demo").runs()
    assert {run.experiment for run in runs} == {FLOOR, *GRID}
    assert {run.split for run in runs} == {"stratified", "center"}
    for run in runs:
        assert run.model.backbone == "tf_efficientnet_lite0" or not run.model.pretrained
        larger = run.experiment == "E3_b3_annotated"
        assert run.data.image_size == (96 if larger else 64)
    for run in runs:
        if run.experiment != FLOOR:
            _, _, _, dropout, annotations, attention = GRID[run.experiment]
            assert run.model.dropout == dropout
            assert (run.data.annotations, run.model.attn_layer) == (annotations, attention)


def test_an_experiments_own_override_goes_over_the_common_one():
    values = {"name": "s", "dataset_root": "d", "splits": ["center"]}
    values |= {"experiments": ["E1_b0_baseline", "E2_b0_annotated"]}
    values |= {"overrides": {"training": {"epochs": 5, "lr": 0.1}}}
    own = {"experiment_overrides": {"E2_b0_annotated": {"training": {"epochs": 2}}}}
    first, second = StudyParams.parse({**values, **own}, "study.yaml").runs()
    assert (first.training.epochs, second.training.epochs) == (5, 2)
    assert first.training.lr == second.training.lr == 0.1
    with pytest.raises(ParameterError, match="names no experiment of the study"):
        StudyParams.parse({**values, "experiment_overrides": {"E9": {}}}, "study.yaml")


def test_no_two_runs_share_a_folder():
    runs = load("study").runs()
    assert len({run.run_dir for run in runs}) == len(runs) == 9 * 3 * 3


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
    assert runs[-1].name == "E1_b0_baseline · grouped_cv · fold 5 · seed 2"
    assert runs[-1].run_dir.parts[-4:] == ("E1_b0_baseline", "grouped_cv", "fold-5", "seed-2")
    for distinct in ({run.name for run in runs}, {run.fingerprint() for run in runs}):
        assert len(distinct) == len(runs)


def test_a_run_without_folds_is_named_and_counted_as_ever():
    run = RunParams(experiment="x", split="center")
    assert (run.name, run.run_dir.parts[-3:]) == (
        "x · center · seed 42",
        ("x", "center", "seed-42"),
    )
    left_out = {"fold": True, "dataset_root": True, "cache_dir": True, "study_dir": True}
    assert run.fingerprint() == digest(run.model_dump(exclude=left_out | {"training": {"workers"}}))


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


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"experiment": "x", "modle": {}}, ["modle", "did you mean model?"]),
        ({"experiment": "x", "model": {"dropot": 0.1}}, ["model.dropot", "dropout"]),
        ({"experiment": "x", "training": {"lr": "fast"}}, ["training.lr", "'fast'"]),
        ({"experiment": "x", "training": {"lr": -1}}, ["training.lr", "greater than 0"]),
        (
            {"experiment": "x", "training": {"cam_weight": -1}},
            ["training.cam_weight", "equal to 0"],
        ),
        (
            {"experiment": "x", "training": {"mode": "probe", "cam_weight": 0.5}},
            ["training: ", "cam_weight must be 0"],
        ),
        ({"experiment": "x", "training": {"ema": 1}}, ["training.ema", "less than 1"]),
        ({"experiment": "x", "training": {"layer_decay": 0}}, ["layer_decay", "greater than 0"]),
        ({"experiment": "x", "training": {"sampling": "even"}}, ["sampling", "'balanced'"]),
        ({"experiment": "x", "data": {"augmentation": "weak"}}, ["augmentation", "'light'"]),
        (
            {
                "experiment": "x",
                "model": {"attention": "mask_guided"},
                "training": {"cam_weight": 0.5},
            },
            ["model.attention: mask_guided", "training.cam_weight must be 0"],
        ),
        (
            {
                "experiment": "x",
                "model": {"attention": "mask_guided", "flip_at_test": True},
                "training": {"mode": "probe"},
            },
            ["model.flip_at_test", "keeps no maps of mirror images"],
        ),
        ({"experiment": "x", "model": {"attention": "masks"}}, ["model.attention", "mask_guided"]),
        ({"experiment": "x", "split": "centre"}, ["split", "'stratified'", "'center'"]),
        ({"experiment": "x", "data": {"annotations": "roi"}}, ["data.annotations", "roi_dim"]),
        ({"experiment": "../x"}, ["experiment", "pattern"]),
        ({}, ["experiment: missing"]),
        ({"experiment": "x", "split": "grouped_cv"}, ["fold", "one of [1, 2, 3, 4, 5]", "None"]),
        ({"experiment": "x", "fold": 1}, ["fold", "one of [None] with the split stratified"]),
    ],
)
def test_a_wrong_parameter_is_named_with_its_source(values, words):
    with pytest.raises(ParameterError) as caught:
        RunParams.parse(values, "some.yaml")
    for word in ["some.yaml", *words]:
        assert word in str(caught.value)


def test_a_study_cannot_ask_for_a_map_that_looks_at_no_class():
    values = read_yaml(PROJECT_ROOT / "params" / "demo.yaml") | {"gradcam": "eigencam"}
    with pytest.raises(ParameterError, match=r"'hirescam' or 'gradcam\+\+'; got 'eigencam'"):
        StudyParams.parse(values, "some.yaml")


def test_yaml_reads_1e_4_as_text_and_it_is_taken_as_a_number():
    run = RunParams.parse({"experiment": "x", "training": {"lr": "1e-4"}}, "some.yaml")
    assert run.training.lr == 1e-4


def test_a_notebook_refuses_what_papermill_only_warns_of():
    injected = '# Parameters\nrun_dir = "x"\nlevl = 0.9'
    namespace = {"run_dir": "x", "levl": 0.9, "In": ["", "import os", injected]}
    with pytest.raises(ParameterError, match=r"levl.*did you mean level\?"):
        EvaluateParams.from_notebook(namespace)


def test_other_names_of_a_notebook_are_its_own_affair():
    namespace = {"run_dir": "x", "table": 3, "In": ["", "table = 3"]}
    assert EvaluateParams.from_notebook(namespace).run_dir == "x"


def test_every_parameter_that_changes_numbers_changes_the_fingerprint():
    run = RunParams(experiment="x")
    for change in (
        {"seed": 1},
        {"split": "center"},
        {"model": {"dropout": 0.3}},
        {"data": {"contrast": "none"}},
        {"data": {"annotations": "balanced_dim"}},
        {"training": {"lr": 1e-3}},
        {"training": {"cam_weight": 0.5}},
        *LATER,
        {"training": {"mode": "probe"}},
        {"training": {"mode": "probe", "C": [1]}},
        {"model": {"attention": "mask_guided"}},
    ):
        other = RunParams.parse({"experiment": "x", **change}, "test")
        assert other.fingerprint() != run.fingerprint()
    elsewhere = RunParams.parse(
        {"experiment": "x", "dataset_root": "/elsewhere", "training": {"workers": 4}}, "test"
    )
    assert elsewhere.fingerprint() == run.fingerprint()


def test_a_run_without_a_mode_is_what_it_was_before_there_were_modes():
    run = RunParams.parse({"experiment": "x", "training": {"mode": "finetune"}}, "test")
    assert not {"mode", "C"} & run.model_dump()["training"].keys()
    assert run.fingerprint() == "7c91f5592b484751"
    probe = RunParams.parse({"experiment": "x", "training": {"mode": "probe"}}, "test")
    assert RunParams.parse(probe.model_dump(), "test") == probe
    other = RunParams.parse({"experiment": "x", "training": {"mode": "probe", "C": [1]}}, "test")
    assert other.fingerprint() != probe.fingerprint()


@pytest.mark.parametrize("change", LATER)
def test_what_came_later_is_in_no_run_that_is_as_before(change):
    ((section, ((key, value),)),) = ((name, values.items()) for name, values in change.items())
    before, run = RunParams(experiment="x"), RunParams.parse({"experiment": "x", **change}, "test")
    assert run.model_dump()[section][key] == value
    assert RunParams.parse(run.model_dump(), "test") == run
    default = {section: {key: getattr(getattr(before, section), key)}}
    same = RunParams.parse({"experiment": "x", **default}, "test")
    assert key not in same.model_dump()[section]
    assert same.fingerprint() == before.fingerprint()


def test_a_run_without_attention_is_what_it_was_before_there_was_any():
    plain = RunParams(experiment="x").model_dump()
    assert "attention" not in plain["model"]
    assert "attention_weight" not in plain["training"]
    runs = [
        RunParams.parse(
            {
                "experiment": "x",
                "model": {"attention": "mask_guided"},
                "training": {"mode": "probe", "attention_weight": weight},
            },
            "test",
        )
        for weight in (1, 2)
    ]
    assert runs[0].fingerprint() != runs[1].fingerprint()
    assert RunParams.parse(runs[1].model_dump(), "test") == runs[1]
    assert (runs[0].step, runs[0].steps, runs[0].needs_masks) == ("epoch", 50, True)


def test_a_study_that_names_something_twice_is_refused():
    values = {"name": "s", "dataset_root": "d", "splits": ["center"], "experiments": ["a", "a"]}
    with pytest.raises(ParameterError, match="experiments names something twice"):
        StudyParams.parse(values, "study.yaml")


def test_an_experiment_without_a_file_is_named():
    values = {"name": "s", "dataset_root": "d", "splits": ["center"], "experiments": ["E9_none"]}
    with pytest.raises(FileNotFoundError, match=r"E9_none\.yaml"):
        StudyParams.parse(values, "study.yaml").runs()


def test_every_parameter_is_listed_with_its_meaning():
    output = CliRunner().invoke(main, ["parameters"]).output
    sections = (value for value in vars(params).values() if isinstance(value, type))
    for section in (s for s in sections if issubclass(s, params.BaseModel)):
        for name, field in section.model_fields.items():
            is_section = name in ("model", "data", "training")
            assert is_section or (field.description and f"  {name} " in output), name
