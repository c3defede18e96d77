"""Pools: what several runs predict, put together."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score

from btxrd.evaluation.pools import fold_table, pool_runs, write_pool
from btxrd.files import read_json, write_csv, write_json
from btxrd.params import ResultParams, RunParams
from btxrd.predictions import (
    LOGIT_COLUMNS,
    PARTS,
    labels,
    predictions_frame,
    probabilities,
    read_predictions,
    write_predictions,
)


@pytest.fixture
def runs(tmp_path, predicted):
    """Make finished runs: fold and seed → folder. Folds test images of their own."""

    def make(split, folds, seeds, **training):
        folders = {}
        for fold in folds:
            for seed in seeds:
                run = RunParams(
                    experiment="E1",
                    split=split,
                    fold=fold,
                    seed=seed,
                    study_dir=str(tmp_path),
                    training=training,
                )
                parts = [predicted((6, 5, 4), [fold or 0, seed], 1.0, part) for part in PARTS]
                frame = pd.concat(parts, ignore_index=True)
                tested = frame["part"] == "test"
                frame["image_id"] = frame["image_id"].mask(tested, f"{fold}-" + frame["image_id"])
                write_predictions(run.run_dir / "predictions.csv", frame)
                facts = {"parameters": run.model_dump(), "device": "cpu", "seconds": 10.0}
                facts["weights"] = "theirs.pth (SHA-256 0123)"
                write_json(run.run_dir / "training.json", facts)
                maps = pd.DataFrame({"image_id": frame.loc[tested, "image_id"], "iou": 0.5})
                write_csv(run.run_dir / "gradcam.csv", maps)
                folders[fold, seed] = run.run_dir
        return folders

    return make


def predictions_of(folder):
    return read_predictions(folder / "predictions.csv")


def test_folds_follow_each_other_and_keep_their_val(runs, tmp_path):
    folders = runs("center_cv", (1, 2, 3), (42,))
    write_pool(tmp_path / "pool", list(folders.values()))
    pooled = predictions_of(tmp_path / "pool")
    for (fold, _), folder in folders.items():
        own = pooled[pooled["fold"] == fold].drop(columns="fold").reset_index(drop=True)
        pd.testing.assert_frame_equal(own, predictions_of(folder))
    tested = pooled.loc[pooled["part"] == "test", "image_id"]
    assert tested.is_unique
    assert len(tested) == 3 * 15
    facts = read_json(tmp_path / "pool" / "training.json")
    run = ResultParams.parse(facts["parameters"], "test")
    assert (run.fold, run.seed, facts["runs"], facts["seconds"]) == ("pooled", 42, 3, 30.0)
    assert facts["weights"] == "theirs.pth (SHA-256 0123)"
    maps = pd.read_csv(tmp_path / "pool" / "gradcam.csv")
    assert set(maps["image_id"]) == set(tested)


@pytest.mark.parametrize("split", ["stratified", "random"])
def test_an_ensemble_averages_the_seeds_in_each_part(runs, split):
    folders = runs(split, (None,), (1, 2, 3))
    if split == "random":  # val and test are the same images
        for folder in folders.values():
            frame = predictions_of(folder)
            names = frame["image_id"].str.rpartition("-")[2]
            write_predictions(folder / "predictions.csv", frame.assign(image_id=names))
    files = pool_runs(list(folders.values()))
    assert set(files) == {"predictions.csv", "training.json"}
    assert "fold" not in files["predictions.csv"]
    single = [predictions_of(folder) for folder in folders.values()]
    mean = np.mean([probabilities(frame) for frame in single], axis=0)
    np.testing.assert_allclose(probabilities(files["predictions.csv"]), mean)
    assert labels(files["predictions.csv"]).tolist() == labels(single[0]).tolist()
    assert files["training.json"]["parameters"]["seed"] == "ensemble"
    assert files["training.json"]["parameters"]["fold"] is None


def test_seeds_of_folds_are_averaged_within_each_fold(runs):
    folders = runs("center_cv", (1, 2, 3), (1, 2))
    files = pool_runs(list(folders.values()))
    for fold, rows in files["predictions.csv"].groupby("fold"):
        single = [predictions_of(folders[fold, seed]) for seed in (1, 2)]
        mean = np.mean([probabilities(frame) for frame in single], axis=0)
        np.testing.assert_allclose(probabilities(rows), mean)
    parameters = files["training.json"]["parameters"]
    assert (parameters["fold"], parameters["seed"]) == ("pooled", "ensemble")
    assert "gradcam.csv" not in files


def test_runs_that_differ_in_more_are_not_put_together(runs):
    folders = [*runs("center_cv", (1,), (42,)).values()]
    folders += runs("center_cv", (2,), (42,), epochs=9).values()
    with pytest.raises(ValueError, match=r"training\.epochs is 50 and 9; only fold, seed may"):
        pool_runs(folders)


def test_an_image_that_two_folds_test_is_refused(runs, tmp_path):
    first, second = runs("center_cv", (1, 2), (42,)).values()
    write_predictions(second / "predictions.csv", predictions_of(first))
    with pytest.raises(ValueError, match="1-test-0000 stands more than once in part 'test'"):
        write_pool(tmp_path / "pool", [first, second])


def test_each_fold_is_judged_by_itself_as_scikit_learn_judges_it(predicted):
    """One fold's network is far surer of malignancy: the pooled AUC suffers, the mean does not."""
    folds = {fold: predicted((60, 50, 40), fold, 1.5, fold=fold) for fold in (1, 2)}
    shifted = folds[2][list(LOGIT_COLUMNS)] + np.array([0, 0, 4])
    folds[2] = predictions_frame(folds[2].assign(image_id="b" + folds[2]["image_id"]), shifted)
    table = fold_table(pd.concat(folds.values())).set_index("fold")
    for fold, frame in folds.items():
        row = table.loc[str(fold)]
        called = probabilities(frame).argmax(axis=1)
        assert row["accuracy"] == pytest.approx(accuracy_score(labels(frame), called))
        auc = roc_auc_score(labels(frame), probabilities(frame), multi_class="ovr")
        assert row["macro_auc"] == pytest.approx(auc)
    assert table.loc["mean", "macro_auc"] == pytest.approx(table["macro_auc"].iloc[:2].mean())
    pooled = pd.concat(folds.values())
    assert table.loc["mean", "macro_auc"] > 0.05 + roc_auc_score(
        labels(pooled), probabilities(pooled), multi_class="ovr"
    )
    assert fold_table(folds[1].drop(columns="fold")).empty
