"""The linear probe: features computed once, a head folded into an ordinary checkpoint."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from btxrd.data.loader import BatchRequest, make_datasets, make_loader
from btxrd.extras import probe
from btxrd.models import (
    BTXRDClassifier,
    compute_class_weights,
    load_checkpoint,
    model_from_checkpoint,
    predict_logits,
)
from btxrd.models.inference import head_inputs
from btxrd.params import RunParams
from btxrd.session import StopRequested

PENALTIES = [1e-3, 1e-2, 1e-1, 1.0]
assert_near = partial(np.testing.assert_allclose, atol=1e-4, rtol=0)


def make_run(folder, **data):
    values = {
        "experiment": "probe",
        "cache_dir": str(folder / "cache"),
        "study_dir": str(folder / "study"),
        "model": {"backbone": "test_resnet", "pretrained": False},
        "data": {"image_size": 64, **data},
        "training": {"mode": "probe", "C": PENALTIES},
    }
    return RunParams.parse(values, "test")


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return BTXRDClassifier("test_resnet", pretrained=False)


@pytest.fixture
def opened(monkeypatch):
    """Open features, and count the batches that went through the network."""
    batches = []

    def counted(network, images):
        batches.append(len(images))
        return head_inputs(network, images)

    monkeypatch.setattr("btxrd.extras.probe.head_inputs", counted)

    def open_and_count(*arguments):
        batches.clear()
        return probe.open_features(*arguments), len(batches)

    return open_and_count


@pytest.fixture
def datasets(cache, split, run):
    return make_datasets(cache, split, run.data, run.seed, augment=False)


@pytest.fixture
def features(network, datasets, run):
    return probe.open_features(network, datasets, run)


@pytest.fixture
def fitted(network, features, datasets, run):
    return fit(network, features, datasets, run)


def fit(network, features, datasets, run, on_step=()):
    labels = {part: samples.labels for part, samples in datasets.items()}
    weights = compute_class_weights(labels["train"])
    return probe.fit_head(network, features, labels, weights, run, on_step)


def logits_of(network, samples):
    loader = make_loader(samples, 32, 0, shuffle=False)
    return predict_logits(network, loader)


def test_features_are_what_the_head_reads(network, features, datasets):
    for part, samples in datasets.items():
        assert_near(probe.head_logits(network, features[part]), logits_of(network, samples))


def test_with_mirror_images_the_head_reads_the_mean_features(network, datasets, run, opened):
    plain, batches = opened(network, datasets, run)
    network.flip_at_test = True
    features, again = opened(network, datasets, run)
    assert batches == again > 0
    assert not np.allclose(features["val"][:], plain["val"][:])
    found = probe.head_logits(network, features["val"])
    assert_near(found, logits_of(network, datasets["val"]))


def test_features_are_computed_once_for_a_network(network, cache, split, datasets, run, opened):
    whole = -(-len(cache.images) // run.training.batch_size)
    first, batches = opened(network, datasets, run)
    assert batches == whole
    again, batches = opened(network, datasets, run.model_copy(update={"study_dir": "elsewhere"}))
    assert batches == 0
    np.testing.assert_array_equal(again["train"][:], first["train"][:])
    torch.nn.init.zeros_(network.model.fc.weight)
    assert opened(network, datasets, run)[1] == 0
    with torch.no_grad():
        next(network.parameters()).mul_(1.5)
    assert opened(network, datasets, run)[1] == whole
    shuffled = run.data.model_copy(update={"shuffle_labels": True})
    datasets = make_datasets(cache, split, shuffled, run.seed, augment=False)
    assert opened(network, datasets, run)[1] == 0


def test_an_interrupted_computation_goes_on_to_the_same_features(
    network, datasets, run, opened, tmp_path, monkeypatch
):
    expected, whole = opened(network, datasets, make_run(tmp_path / "other"))
    asked = iter([None, None, StopRequested("stopped on request")])

    def stop(_):
        if (error := next(asked)) is not None:
            raise error

    monkeypatch.setattr("btxrd.extras.probe.check_stop", stop)
    with pytest.raises(StopRequested):
        probe.open_features(network, datasets, run)
    (unfinished,) = tmp_path.rglob("*.unfinished")
    unfinished.write_bytes(unfinished.read_bytes() + b"a part of a batch")
    monkeypatch.setattr("btxrd.extras.probe.check_stop", lambda _: None)
    features, batches = opened(network, datasets, run)
    assert batches == whole - 2
    np.testing.assert_array_equal(features["val"][:], expected["val"][:])
    assert not list(tmp_path.rglob("*unfinished*"))


@pytest.mark.parametrize("annotations", ["roi_dim", "balanced_dim"])
def test_dimmed_copies_have_features_of_their_own(
    network, cache, split, tmp_path, opened, annotations
):
    run = make_run(tmp_path, annotations=annotations)
    regions = pd.Series("arm", index=split["image_id"])
    datasets = make_datasets(cache, split, run.data, 42, regions, augment=False)
    train, plain = datasets["train"], int((split["part"] == "train").sum())
    assert len(train) > plain
    features, _ = opened(network, datasets, run)
    images, _ = train[BatchRequest(np.arange(plain, plain + 4), 0)]
    np.testing.assert_allclose(
        features["train"][plain : plain + 4], head_inputs(network, images), atol=1e-5
    )
    assert opened(network, datasets, run)[1] == 0


def test_the_head_is_the_best_regression_on_standardised_features(
    fitted, features, network, datasets
):
    labels = datasets["train"].labels
    weights = dict(enumerate(compute_class_weights(labels).tolist()))
    regression = LogisticRegression(C=fitted.best["C"], class_weight=weights, max_iter=1000)
    pipeline = make_pipeline(StandardScaler(), regression).fit(features["train"][:], labels)
    found = softmax(probe.head_logits(network, features["test"]), axis=1)
    np.testing.assert_allclose(found, pipeline.predict_proba(features["test"][:]), atol=2e-3)


def test_the_checkpoint_is_an_ordinary_one(fitted, features, datasets, run):
    checkpoint = load_checkpoint(run.run_dir / "model.pt")
    assert checkpoint["epoch"] == 0
    assert checkpoint["val_loss"] == fitted.history["val_loss"].min()
    assert checkpoint["config"] == run.model_dump()
    network = model_from_checkpoint(checkpoint)
    found = logits_of(network, datasets["test"])
    assert_near(found, probe.head_logits(network, features["test"]))


def test_the_history_has_a_row_a_penalty_with_every_metric(fitted, datasets, run):
    history = pd.read_csv(run.run_dir / "history.csv")
    pd.testing.assert_frame_equal(history, fitted.history)
    assert history["C"].tolist() == PENALTIES
    assert history["train_loss"].is_monotonic_decreasing
    best = history["val_loss"].idxmin()
    assert fitted.best["C"] == history["C"][best]
    recalls = [history[f"val_recall_{name}"][best] for name in ("Normal", "Benign", "Malignant")]
    shares = np.bincount(datasets["val"].labels) / len(datasets["val"])
    assert np.dot(recalls, shares) == pytest.approx(history["val_top1"][best])
    assert pd.read_csv(run.run_dir / "seconds.csv").equals(fitted.speed)


def test_every_callback_follows_the_saved_row(network, features, datasets, run):
    seen = []

    def look(row):
        history = pd.read_csv(run.run_dir / "history.csv")
        seen.append((len(history), history["val_loss"].iloc[-1] == row["val_loss"]))

    fit(network, features, datasets, run, [look])
    assert seen == [(n, True) for n in range(1, len(PENALTIES) + 1)]


def test_a_finished_probe_is_not_fitted_again(fitted, features, datasets, run, capsys):
    torch.manual_seed(1)
    fresh = BTXRDClassifier("test_resnet", pretrained=False)
    again = fit(fresh, features, datasets, run, [pytest.fail])
    assert "already trained: " in capsys.readouterr().out
    pd.testing.assert_frame_equal(again.history, fitted.history)
    checkpoint = load_checkpoint(run.run_dir / "model.pt")
    assert torch.equal(fresh.model.fc.weight, checkpoint["model_state_dict"]["model.fc.weight"])
    other = run.model_copy(update={"split_seed": 7})
    with pytest.raises(ValueError, match=r"model\.pt belongs to other parameters"):
        fit(fresh, features, datasets, other)


def test_shuffled_labels_teach_another_head_and_the_seed_changes_nothing(
    network, features, datasets, cache, split, fitted, tmp_path
):
    other = make_run(tmp_path / "other").model_copy(update={"seed": 7})
    again = fit(network, features, datasets, other)
    pd.testing.assert_frame_equal(again.history, fitted.history)
    control = make_run(tmp_path / "control", shuffle_labels=True)
    mixed = make_datasets(cache, split, control.data, control.seed, augment=False)
    result = fit(network, features, mixed, control)
    assert not np.allclose(result.history["train_loss"], fitted.history["train_loss"])


def test_networks_without_a_linear_head_and_features_that_are_no_numbers_are_refused(
    network, datasets, run
):
    headless = BTXRDClassifier("levit_128s", pretrained=False)
    with pytest.raises(ValueError, match="levit_128s does not end in one linear layer"):
        probe.open_features(headless, datasets, run)
    torch.nn.init.constant_(next(network.parameters()), torch.nan)
    with pytest.raises(FloatingPointError, match="test_resnet gives features that are no finite"):
        probe.open_features(network, datasets, run)


def test_without_room_no_features_are_left(network, datasets, run, tmp_path, no_file_above):
    with no_file_above(10_000), pytest.raises(OSError, match=r"no room to write .*features-"):
        probe.open_features(network, datasets, run)
    assert not list(tmp_path.rglob("*.raw"))
