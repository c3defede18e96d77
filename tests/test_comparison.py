"""The comparison of a study: its figures, its answer, what is subtracted and what is refused."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from btxrd.evaluation import Bootstrap
from btxrd.evaluation.comparison import (
    COMPARED,
    COMPARISON_COLUMNS,
    FIGURES,
    answer,
    compare_runs,
    comparison_table,
    differences_from,
    figures_by_metric,
    figures_shown,
    map_scores,
    reviewed_pool,
    seed_figures,
    strongest_shortcut,
    subtracted_and_refused,
    success_table,
    validation_ranks,
)
from btxrd.evaluation.differences import (
    METRICS,
    compare_experiments,
    generalisation_gap,
    holm,
    seed_summary,
)
from btxrd.evaluation.review import labels_to_review
from btxrd.evaluation.runs import collect_runs
from btxrd.evaluation.summary import summarise
from btxrd.files import read_csv, write_csv, write_json
from btxrd.params import ResultParams
from btxrd.predictions import read_predictions, write_predictions
from btxrd.strategies import SPLITS

FEW = Bootstrap(200)
PAIR = ["first_experiment", "second_experiment"]
ENDS = ("", "_low", "_high")


def intervals(*values):
    return {name: [v, v - 0.1, v + 0.1] for name, v in zip(COMPARED, values, strict=True)}


def write_run(study, experiment, split, metrics, seed=42, fold=None, **training):
    place = {"experiment": experiment, "split": split, "fold": fold, "seed": seed}
    params = ResultParams(**place, study_dir=str(study), training=training)
    folder = params.run_dir
    write_json(folder / "run.json", {"status": "finished", "parameters": params.model_dump()})
    write_json(folder / "metrics.json", metrics)
    return folder


@pytest.fixture
def study(tmp_path):
    """Runs of which only the figures are known, and a failed one."""
    for experiment, split, test, val in (
        ("best_on_test", "stratified", (0.99, 0.99, 0.99), (0.70, 0.8, 0.9)),
        ("best_on_val", "stratified", (0.60, 0.70, 0.50), (0.80, 0.8, 0.5)),
        ("tied_on_val", "stratified", (0.65, 0.75, 0.60), (0.80, 0.8, 0.6)),
        ("tied_on_val", "center", (0.40, 0.55, 0.30), (0.75, 0.8, 0.6)),
    ):
        parts = {"test": intervals(*test), "val": intervals(*val)}
        metrics = {part: {"n": 60, "intervals": found} for part, found in parts.items()}
        folder = write_run(tmp_path, experiment, split, metrics)
        cams = pd.DataFrame({"label": [0, 1, 2], "iou": [np.nan, 0.1, 0.3]})
        write_csv(folder / "gradcam.csv", cams)
    broken = tmp_path / "runs" / "broken" / "stratified" / "seed-42"
    write_json(broken / "run.json", {"status": "failed", "error": "the kernel died"})
    return tmp_path


def figures_of_study(study):
    """The table `figures.csv`, with names for rows."""
    figures = seed_figures(collect_runs(study), study, FEW)
    return figures.set_index(["part", "experiment", "split"], drop=False)


def compare(study):
    runs = collect_runs(study)
    table = comparison_table(runs, seed_figures(runs, study, FEW))
    return table.set_index("Experiment ID", drop=False)


def test_the_figures_of_every_run_have_their_intervals(study):
    figures = figures_of_study(study)
    names = ("best_on_test", "best_on_val", "broken", "tied_on_val")
    in_order = [*((name, "stratified") for name in names), ("tied_on_val", "center")]
    for part in ("val", "test"):
        assert list(figures.loc[part].index) == in_order
    assert {f"{metric}{end}" for metric in FIGURES for end in (*ENDS, "_sd")} < set(figures)
    row, val = (figures.loc[(part, "tied_on_val", "center")] for part in ("test", "val"))
    assert row[["n", "macro_auc", "macro_auc_low"]].tolist() == [60, 0.55, pytest.approx(0.45)]
    assert (row["seeds"], np.isnan(row["macro_auc_sd"])) == ("1", True)
    assert row["mean_iou"] == pytest.approx(0.2)
    assert val["accuracy_high"] == pytest.approx(0.85)
    assert np.isnan(val["mean_iou"])
    broken = figures.loc[("test", "broken", "stratified")]
    assert broken.drop(["part", "experiment", "split", "seeds", "status"]).isna().all()
    assert (broken["seeds"], broken["status"]) == ("0", "failed")


def test_the_answer_has_a_star_among_the_figures(study):
    figures = figures_of_study(study)
    shown = figures_shown(figures, "test", "tied_on_val", "stratified")
    assert shown.loc[shown["experiment"] == "tied_on_val ★", "split"].tolist() == ["stratified"]
    assert shown["experiment"].str.contains("★").sum() == 1
    assert {"part", "attention_iou"} & set(shown) == set()
    validated = figures_shown(figures, "val", None, None)
    assert "mean_iou" not in validated
    assert not validated["experiment"].str.contains("★").any()


def test_heat_maps_of_an_experiment_are_means_over_its_trainings(study):
    for seed, hit in ((42, 1.0), (43, 0.0)):
        folder = study / "runs" / "best_on_val" / "stratified" / f"seed-{seed}"
        facts = {"image_id": ["a", "b"], "center": 2, "group": 1, "label": [1, 0]}
        scores = {"iou_chance": [0.1, np.nan], "pointing": [hit, np.nan]}
        write_csv(folder / "gradcam.csv", pd.DataFrame(facts | scores))
    runs = collect_runs(study)
    found = map_scores(runs, "best_on_val", "stratified")
    assert found[["image_id", "label", "pointing"]].to_numpy().tolist() == [["a", 1, 0.5]]
    assert map_scores(runs, "broken", "stratified").empty
    assert map_scores(runs, None, None).empty


def test_figures_turn_into_rows_by_metric(study, trained):
    trained("seeded", "grouped")
    trained("seeded", "grouped", seed="ensemble")
    figures = figures_of_study(study)
    table = figures_by_metric(figures)
    tested = figures[(figures["part"] == "test") & (figures["seeds"] == "1")]
    assert len(table) == len(tested) * len(COMPARED)
    assert "broken" not in set(table["label"])
    assert list(table["split"].cat.categories) == [split.title for split in SPLITS.values()]
    row = tested.loc[("test", "tied_on_val", "center")]
    for metric, own in table.groupby("metric"):
        found = own.set_index(["label", "split"]).loc[("tied_on_val", "Center-Holdout")]
        ends = [row[f"{metric}{end}"] for end in ENDS]
        assert found[["estimate", "low", "high", "n"]].tolist() == [*ends, 60]
    assert figures_by_metric(figures.head(0)).empty


def test_the_first_ten_columns_are_the_specifications(study):
    comparison = compare(study)
    assert tuple(comparison.columns[:10]) == COMPARISON_COLUMNS
    metrics = ("Accuracy", "Macro AUC", "Malignant Sensitivity")
    assert list(COMPARISON_COLUMNS[4:7]) == [f"Stratified {metric}" for metric in metrics]
    row = comparison.loc["tied_on_val"]
    assert (row["Backbone"], row["Annotations"]) == ("efficientnet_b0", "none")
    assert row["Center-Holdout Macro AUC"] == 0.55
    assert row["Center-Holdout Val Accuracy"] == 0.75
    assert row["Stratified Grad-CAM Mean IoU"] == pytest.approx(0.2)
    assert (row["Stratified Accuracy Low"], row["Stratified Accuracy High"]) == (0.55, 0.75)
    assert pd.isna(row["Errors"])
    assert comparison.loc["broken", "Errors"] == "stratified, seed 42: the kernel died"
    assert not any("Attention" in column or "Grouped" in column for column in comparison)


def test_maps_that_an_experiment_has_not_leave_a_gap(study):
    runs = study / "runs" / "tied_on_val"
    maps = pd.DataFrame({"label": [0, 1, 1], "iou_attention": [np.nan, 0.2, 0.4]})
    write_csv(runs / "stratified" / "seed-42" / "gradcam.csv", maps)
    row = compare(study).loc["tied_on_val"]
    assert np.isnan(row["Stratified Grad-CAM Mean IoU"])
    assert row["Stratified Accuracy"] == 0.65
    assert row["Stratified Attention Mean IoU"] == pytest.approx(0.3)
    assert "Center-Holdout Attention Mean IoU" not in row


def test_the_first_weights_of_an_experiment_are_named(study):
    runs = study / "runs" / "tied_on_val"
    for split, digest in (("stratified", "0123"), ("center", "4567")):
        facts = {"weights": f"theirs.pth (SHA-256 {digest})"}
        write_json(runs / split / "seed-42" / "training.json", facts)
    table = compare(study)
    both = "theirs.pth (SHA-256 0123); theirs.pth (SHA-256 4567)"
    assert table.loc["tied_on_val", "Weights"] == both
    assert pd.isna(table.loc["best_on_val", "Weights"])


def test_the_answer_is_read_on_validation(study):
    figures = figures_of_study(study)
    assert answer(figures) == ("tied_on_val", "stratified")
    ranks = {"tied_on_val": 1, "best_on_val": 2, "best_on_test": 3}
    assert validation_ranks(figures, "stratified").to_dict() == ranks
    assert compare(study)["Stratified Val Rank"].drop("broken").to_dict() == ranks
    some = figures[figures["experiment"] != "tied_on_val"]
    assert answer(some) == ("best_on_val", "stratified")
    assert answer(figures[figures["experiment"] == "broken"]) == (None, None)


@pytest.mark.parametrize(
    ("split", "fold", "answers"),
    [("grouped_cv", "pooled", True), ("grouped", None, True), ("center_cv", "pooled", False)],
)
def test_the_answer_is_read_from_the_most_honest_split(study, split, fold, answers):
    """There another experiment is the best on validation; the stratified rule stays beside it."""
    folders = []
    for experiment, accuracy in (("best_on_test", 0.9), ("tied_on_val", 0.8)):
        figures = {"n": 60, "intervals": intervals(accuracy, 0.8, 0.7)}
        folder = write_run(study, experiment, split, {"val": figures, "test": figures}, fold=fold)
        folders.append(folder)
    figures = seed_figures(collect_runs(study), study, FEW)
    usual = ("tied_on_val", "stratified")
    assert answer(figures) == (("best_on_test", split) if answers else usual)
    assert validation_ranks(figures, "stratified").index[0] == "tied_on_val"
    # A pool that failed has figures that count for nothing.
    for folder in folders:
        write_json(folder / "run.json", {"status": "failed", "error": "no room"})
    assert answer(figures_of_study(study)) == usual
    assert compare(study)["Errors"].str.contains("no room").sum() == 2


def test_success_criteria_are_checked(study):
    figures = figures_of_study(study)
    table = success_table(figures, "best_on_test")
    assert list(zip(table["split"], table["metric"], table["bound"], strict=True)) == [
        ("stratified", "accuracy", 0.75),
        ("stratified", "sensitivity/Malignant", 0.70),
        ("stratified", "mean_iou", 0.15),
        ("center", "accuracy", 0.55),
    ]
    assert table["met"].tolist() == [True, True, True, pd.NA]
    table = success_table(figures, "tied_on_val")
    assert table["reached"].tolist() == [0.65, 0.6, pytest.approx(0.2), 0.4]
    assert table["met"].tolist() == [False, False, True, False]
    assert success_table(figures, "broken")["met"].isna().all()


def test_the_strongest_shortcut_has_seen_no_lesion():
    rows = [("sites", "image", 0.9), ("file", "image", 0.6), ("border", "image", 0.7)]
    rows += [("file", "group", np.nan)]
    table = pd.DataFrame(rows, columns=["shortcut", "split", "estimate"])
    assert strongest_shortcut(table, "image")["shortcut"] == "border"
    assert strongest_shortcut(table, "group") is None


@pytest.fixture
def trained(tmp_path, predicted):
    """Add a run with predictions: of more skill, the same images for the same split.

    Splits of several folds test the same images too.
    """

    def add(experiment, split="stratified", skill=1.0, seed=42, fold=None, **training):
        frame = predicted((30, 30, 30), [len(str(seed)), int(100 * skill)], skill, views=1)
        images = "all" if SPLITS[split].folds else split
        frame["image_id"] = images + frame["image_id"]
        if fold == "pooled":
            frame["fold"] = np.arange(len(frame)) % len(SPLITS[split].folds) + 1
        metrics = summarise(frame, Bootstrap(9))
        folder = write_run(tmp_path, experiment, split, metrics, seed, fold, **training)
        both = [frame, frame.assign(part="val")]
        write_predictions(folder / "predictions.csv", pd.concat(both, ignore_index=True))
        return frame

    return add


def test_experiments_are_compared_pairwise_within_each_split(trained, tmp_path):
    for split in ("stratified", "grouped"):
        for experiment, skill in (("good", 3.0), ("fair", 1.0), ("poor", 0.5)):
            trained(experiment, split, skill)
    table = compare_runs(tmp_path, FEW)["differences.csv"]
    pairs = [("fair", "good"), ("fair", "poor"), ("good", "poor")]
    expected = [[split, *pair] for split in ("stratified", "grouped") for pair in pairs]
    assert table[["split", *PAIR]].drop_duplicates().to_numpy().tolist() == expected
    assert table["note"].isna().all()
    for _, family in table.groupby("split"):
        assert len(family) == 3 * len(METRICS)
        np.testing.assert_allclose(family["p_holm"], holm(family["p"]))


def test_runs_that_differ_in_more_are_refused_and_the_key_is_named(trained, tmp_path):
    for experiment, training in (("a", {}), ("b", {}), ("longer", {"epochs": 99})):
        trained(experiment, **training)
    trained("a", "center")
    trained("longer", "center")
    tables = compare_runs(tmp_path, Bootstrap(20))
    refused = tables["differences.csv"].dropna(subset="note")
    named = refused[["split", *PAIR]].to_numpy().tolist()
    assert named == [["stratified", "a", "longer"], ["stratified", "b", "longer"]]
    values = ["metric", "first", "second", "difference", "low", "high", "p", "p_holm"]
    assert refused[values].isna().all(axis=None)
    assert refused["note"].iloc[0] == "training.epochs is 50 and 99"
    gap = tables["gaps.csv"].set_index("experiment").loc["longer"]
    assert gap["note"] == "training.epochs is 99 and 50"
    assert gap[["inside_split", "outside_split"]].tolist() == ["stratified", "center"]
    assert gap[["metric", "inside", "outside", "difference", "low", "high"]].isna().all()
    shown, apart = subtracted_and_refused(tables["differences.csv"])
    assert shown["difference"].notna().all()
    assert list(apart) == ["split", *PAIR, "note"]
    assert len(shown) + len(apart) == len(tables["differences.csv"])


def test_refused_experiments_on_other_data_do_not_stand_in_the_way(trained, tmp_path):
    """Two pairs, each on images of its own."""
    for experiment in "abcd":
        frame = trained(experiment, **({"lr": 0.1} if experiment in "cd" else {}))
        if experiment in "cd":
            folder = tmp_path / "runs" / experiment / "stratified" / "seed-42"
            write_predictions(folder / "predictions.csv", frame.iloc[:-1])
    table = compare_runs(tmp_path, Bootstrap(20))["differences.csv"]
    compared = table[table["note"].isna()][PAIR].drop_duplicates()
    assert compared.to_numpy().tolist() == [["a", "b"], ["c", "d"]]
    assert table["note"].notna().sum() == 4


def test_the_gap_is_what_is_lost_in_the_other_center(trained, tmp_path):
    inside, outside = trained("good", skill=3.0), trained("good", "center", skill=0.5)
    trained("inside_only")
    table = compare_runs(tmp_path, FEW)["gaps.csv"]
    assert set(table["experiment"]) == {"good"}
    gap = table.set_index("metric").loc["macro_auc"]
    assert 0 < gap["low"] < gap["difference"] < gap["high"]
    figures = [summarise(f, Bootstrap(9))["test"]["macro_auc"] for f in (inside, outside)]
    assert gap[["inside", "outside"]].tolist() == pytest.approx(figures)
    assert gap["difference"] == pytest.approx(figures[0] - figures[1])


def test_the_gap_over_all_folds_is_paired_by_image(trained, tmp_path):
    pools = {
        split: trained("good", split, skill=skill, fold="pooled")
        for split, skill in (("grouped_cv", 2.0), ("center_cv", 1.5))
    }
    table = compare_runs(tmp_path, FEW)["gaps.csv"]
    splits = table[["inside_split", "outside_split"]]
    assert splits.drop_duplicates().to_numpy().tolist() == [["grouped_cv", "center_cv"]]
    frames = [[pool.drop(columns="fold")] for pool in pools.values()]
    apart = generalisation_gap(*frames, FEW)
    assert table["difference"].tolist() == pytest.approx(apart["difference"].tolist())
    paired = compare_experiments(dict(zip("ab", frames, strict=True)), FEW)
    assert table["low"].tolist() == pytest.approx((-paired["high"]).tolist())


def test_differences_are_turned_to_the_experiment_in_question(trained, tmp_path):
    for experiment, skill in (("a", 0.5), ("b", 3.0), ("c", 1.0)):
        trained(experiment, skill=skill)
    trained("odd", epochs=99)
    differences = compare_runs(tmp_path, FEW)["differences.csv"]
    turned = differences_from(differences, "b").set_index(["against", "metric"])
    given = differences.set_index([*PAIR, "metric"])
    for metric in METRICS:
        against_a, plain = turned.loc[("a", metric)], given.loc[("a", "b", metric)]
        assert (against_a.drop("split") == plain[against_a.drop("split").index])[:5].all()
        against_c, mirrored = turned.loc[("c", metric)], given.loc[("b", "c", metric)]
        assert against_c["difference"] == -mirrored["difference"] > 0
        assert (against_c["low"], against_c["high"]) == (-mirrored["high"], -mirrored["low"])
        assert (against_c["p"], against_c["p_holm"]) == (mirrored["p"], mirrored["p_holm"])
    assert turned.reset_index()["against"].unique().tolist() == ["a", "c", "odd"]
    assert turned["note"].dropna().str.contains("epochs").tolist() == [True]
    assert differences_from(differences, None).empty


def test_several_seeds_have_their_mean_spread_and_ensemble(trained, tmp_path):
    frames = [trained("good", seed=7), trained("good", seed=42, skill=1.2)]
    poor = trained("poor", skill=0.5)
    ensemble = trained("good", seed="ensemble", skill=1.5)
    tables = compare_runs(tmp_path, FEW)
    figures, differences = tables["figures.csv"].query("part == 'test'"), tables["differences.csv"]
    assert figures["experiment"].tolist() == ["good", "good", "poor"]
    assert figures["seeds"].tolist() == ["2", "ensemble", "1"]
    means, together, alone = (row for _, row in figures.iterrows())
    for metric, row in seed_summary(frames, FEW).set_index("metric").iterrows():
        if metric in COMPARED:
            ends = [means[f"{metric}{end}"] for end in (*ENDS, "_sd")]
            assert ends == pytest.approx(row[["mean", "low", "high", "sd"]].tolist())
    for row, frame in ((together, ensemble), (alone, poor)):
        expected = summarise(frame, Bootstrap(9))["test"]["intervals"]["accuracy"]
        assert [row[f"accuracy{end}"] for end in ENDS] == pytest.approx(expected)
    row = tables["comparison.csv"].set_index("Experiment ID").loc["good"]
    found = row[["Stratified Accuracy", "Stratified Accuracy Low", "Seeds"]].tolist()
    assert found == [means["accuracy"], means["accuracy_low"], 2]
    assert tables["review.csv"].empty  # without folds, no label is doubted
    # Both its seeds are compared, not the ensemble.
    expected = compare_experiments({"good": frames, "poor": [poor]}, FEW)
    pd.testing.assert_frame_equal(differences[expected.columns], expected)


def test_seeds_that_are_all_right_keep_an_interval_with_a_width(trained, tmp_path):
    """No draw of images or seeds varies: as many studies, all right."""
    frames = [trained("perfect", seed=seed, skill=99.0) for seed in (1, 2)]
    row = compare_runs(tmp_path, FEW)["figures.csv"].query("part == 'test'").iloc[0]
    ends = [row[f"accuracy{end}"] for end in ("", "_low", "_high", "_sd")]
    studies = frames[0]["group"].nunique()
    exact = binomtest(studies, studies).proportion_ci(method="exact")
    assert ends == pytest.approx([1, exact.low, 1, 0])
    # An AUC has none.
    assert [row[f"macro_auc{end}"] for end in ("", "_sd")] == [1, 0]
    assert np.isnan([row["macro_auc_low"], row["macro_auc_high"]]).all()


def test_seeds_that_differ_in_more_are_refused_by_name(trained, tmp_path):
    trained("good")
    trained("good", seed=8, epochs=99)
    with pytest.raises(ValueError, match=r"training\.epochs is 99 and 50"):
        compare_runs(tmp_path, FEW)


@pytest.fixture
def conflicts(tmp_path):
    """What notebook 02 leaves: here no image has a duplicate of another label."""
    columns = ["image_a", "class_a", "image_b", "class_b", "distance"]
    write_csv(tmp_path / "splits" / "conflicts.csv", pd.DataFrame(columns=columns))
    return read_csv(tmp_path / "splits" / "conflicts.csv")


def test_labels_are_doubted_by_the_recommended_pool(trained, tmp_path, conflicts):
    """Its ensemble where there is one; single folds and other splits have no say."""
    for fold, seed, skill in ((1, 7, 5.0), ("pooled", 7, 1.0), ("pooled", 42, 1.0)):
        trained("good", "grouped_cv", skill, seed, fold)
    trained("poor", "grouped_cv", skill=0.2, fold="pooled")
    trained("best", "stratified", skill=9.0)
    for expected in (7, "ensemble"):
        if expected == "ensemble":
            trained("good", "grouped_cv", 1.2, "ensemble", "pooled")
        tables = compare_runs(tmp_path, FEW)
        pool = reviewed_pool(collect_runs(tmp_path), tables["figures.csv"])
        assert (pool.experiment, pool.fold, pool.seed) == ("good", "pooled", expected)
        written = read_predictions(tmp_path / pool.path / "predictions.csv")
        pd.testing.assert_frame_equal(tables["review.csv"], labels_to_review(written, conflicts))
        assert len(tables["review.csv"])


def test_a_split_of_several_folds_is_its_pool(trained, tmp_path, conflicts):
    for fold in (1, 2):
        trained("good", "grouped_cv", skill=0.2, fold=fold)
    pool = trained("good", "grouped_cv", skill=2.0, fold="pooled")
    other = trained("poor", "grouped_cv", skill=0.5, fold="pooled")
    tables = compare_runs(tmp_path, FEW)
    row = tables["comparison.csv"].set_index("Experiment ID").loc["good"]
    expected = summarise(pool, Bootstrap(9))["test"]["accuracy"]
    assert row["Grouped CV Accuracy"] == pytest.approx(expected)
    assert row["Seeds"] == 1
    differences = tables["differences.csv"]
    assert set(differences["split"]) == {"grouped_cv"}
    expected = compare_experiments({"good": [pool], "poor": [other]}, FEW)
    pd.testing.assert_frame_equal(differences[expected.columns], expected)


def test_a_study_without_runs_has_empty_tables(tmp_path):
    tables = compare_runs(tmp_path, FEW)
    assert all(table.empty for table in tables.values())
    assert differences_from(tables["differences.csv"], "good").empty
    assert answer(tables["figures.csv"]) == (None, None)
