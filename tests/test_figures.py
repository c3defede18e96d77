"""Figures: they draw what they are given, say n, and leave pyplot as it was."""

from base64 import b64decode
from io import BytesIO
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell
from PIL import Image

from btxrd import CLASS_NAMES
from btxrd.evaluation import Bootstrap
from btxrd.evaluation.curves import bootstrap_curves
from btxrd.evaluation.metrics import classification_metrics
from btxrd.evaluation.summary import summarise
from btxrd.predictions import labels, probabilities
from btxrd.report import decision_figures, figures


@pytest.fixture
def test(predicted):
    return predicted((30, 25, 8), skill=9)


def metrics_of(frame):
    return classification_metrics(labels(frame), probabilities(frame))


def test_use_style_keeps_type_legible():
    with mpl.rc_context():
        figures.use_style()
        assert min(mpl.rcParams["font.size"], mpl.rcParams["xtick.labelsize"]) >= 10
        assert mpl.rcParams["figure.facecolor"] == "white"


def test_classes_differ_in_grey_print_too():
    assert tuple(figures.CLASS_PALETTE) == CLASS_NAMES
    for marks in (figures.CLASS_LINES, figures.CLASS_MARKERS):
        assert list(marks) == list(CLASS_NAMES)
        assert len(set(marks.values())) == len(CLASS_NAMES)


def test_confusion_matrix(test, drawn):
    before = dict(mpl.rcParams)
    figure = drawn(decision_figures.confusion_matrix_figure(metrics_of(test)), 63)
    counts, shares = figure.axes
    assert counts.texts[0].get_text() == "30"
    assert shares.texts[0].get_text() == "100.0%"
    assert counts.get_xlabel() == "Predicted class"
    assert dict(mpl.rcParams) == before


def test_confusion_matrix_of_a_file_with_an_absent_class(test, drawn):
    metrics = metrics_of(test[test["label"] < 2])
    metrics["confusion_matrix"]["row_normalised"][2] = [None] * 3
    drawn(decision_figures.confusion_matrix_figure(metrics), 55)


@pytest.mark.parametrize("classes", [3, 2])
def test_roc_and_pr(test, drawn, classes):
    frame, bootstrap = test[test["label"] < classes], Bootstrap(20, 0.9)
    intervals = summarise(frame, bootstrap)["test"]["intervals"]
    bands = bootstrap_curves(labels(frame), probabilities(frame), frame["group"], bootstrap)
    figure = drawn(decision_figures.roc_pr_figure(frame, intervals, bands, 0.9), len(frame))
    assert ", 90 % bootstrap bands (" in figure.get_suptitle()
    for axis, score in zip(figure.axes, ("AUC", "AP"), strict=True):
        assert len(axis.collections) == classes  # one band a class
        named = [text.get_text() for text in axis.get_legend().get_texts()]
        assert named[classes - 2].startswith(f"Benign: {score} 1.000 (–), n = 25")
        assert len(named) == classes + 1


@pytest.mark.parametrize(
    ("step", "rows", "best", "label"),
    [
        ("epoch", 1, "epoch 1)", "Epoch"),
        ("epoch", 30, "epoch 30)", "Epoch"),
        ("C", 4, "C 0.0001)", "C (inverse penalty)"),
    ],
)
def test_history(drawn, step, rows, best, label):
    columns = [f"{p}_{q}" for p in ("train", "val") for q in ("loss", "top1")]
    columns += [f"{p}_recall_{name}" for p in ("train", "val") for name in CLASS_NAMES]
    values = np.linspace(0.9, 0.5, rows)
    places = range(1, rows + 1) if step == "epoch" else np.geomspace(0.1, 1e-4, rows)
    history = pd.DataFrame({step: places, **dict.fromkeys(columns, values)})
    figure = drawn(figures.history_figure(history), rows)
    assert best in figure.get_suptitle()
    assert all(axis.get_xlabel() == label for axis in figure.axes)
    assert {axis.get_xscale() for axis in figure.axes} == {"log" if step == "C" else "linear"}


def forest(rows, **columns):
    values = np.linspace(0.9, 0.5, rows)
    names = {"label": [f"E{i}" for i in range(rows)], "estimate": values}
    return pd.DataFrame(names | {"low": values - 0.1, "high": values + 0.05} | columns)


def test_forest_plot(drawn):
    table = forest(4, metric=["macro_auc", "accuracy"] * 2, n=[564, 808] * 2)
    table = table.assign(label=["E1", "E1", "E2", "E2"], split="grouped")
    table.loc[2, ["estimate", "low", "high"]] = np.nan
    references = {"macro_auc": 0.55}
    figure = figures.metric_interval_figure(table, 0.9, hue="split", references=references)
    assert "Macro AUC, Accuracy, 90 % intervals (" in drawn(figure, "564 to 808").get_suptitle()
    assert [axis.get_xlabel() for axis in figure.axes] == ["Macro AUC", "Accuracy"]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["E1", "E2"]
    assert figure.legends[0].get_texts()[0].get_text() == "grouped (n = 564 images)"
    drawn(figures.metric_interval_figure(forest(2), 0.9, "Macro AUC"), "2 estimates")
    with pytest.raises(ValueError, match="no rows"):
        figures.metric_interval_figure(table.head(0), 0.9)


def test_levels_of_a_categorical_keep_their_order():
    splits = pd.Categorical(["center", "grouped"], ["stratified", "grouped", "center"])
    figure = figures.metric_interval_figure(forest(2, split=splits), 0.9, hue="split")
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert named == ["grouped", "center"]


def test_gallery_draws_outlines_and_heat(drawn):
    images = np.zeros((3, 16, 16), dtype=np.uint8)
    mask = np.zeros((16, 16), dtype=bool)
    mask[4:8, 4:8] = True
    masks, heat = np.stack([mask, mask & False, mask & False]), np.full((3, 16, 16), 0.5)
    figure = figures.gallery_figure(images, ["a", "b", "c"], masks, heat, columns=2)
    drawn(figure, 3)
    assert [len(axis.collections) for axis in figure.axes[:4]] == [1, 0, 0, 0]
    assert [len(axis.images) for axis in figure.axes[:4]] == [2, 2, 2, 0]
    assert figure.axes[0].get_xlim() == (-0.5, 15.5)
    drawn(figures.gallery_figure(np.empty((0, 16, 16)), []), 0)


@pytest.fixture
def shown():
    """What a notebook shows of a figure: its mime types, and their metadata."""
    shell = InteractiveShell.instance()
    with mpl.rc_context():
        figures.use_style()
        yield shell.display_formatter.format
    InteractiveShell.clear_instance()


def test_drawings_are_shown_as_text_that_can_be_reproduced(shown, test):
    drawn, same = (decision_figures.confusion_matrix_figure(metrics_of(test)) for _ in range(2))
    (data, metadata), (again, _) = shown(drawn), shown(same)
    assert set(data) == {"text/plain", "image/svg+xml"}
    assert data["image/svg+xml"] == again["image/svg+xml"]
    assert ">Predicted class</text>" in data["image/svg+xml"]
    assert metadata["image/svg+xml"]["alt"].startswith(drawn.get_suptitle())


def test_pictures_are_shown_with_twice_the_pixels(shown):
    figure = figures.gallery_figure(np.zeros((1, 64, 64)), ["a"], columns=2)
    data, metadata = shown(figure)
    assert set(data) == {"text/plain", "image/jpeg"}
    picture = Image.open(BytesIO(b64decode(data["image/jpeg"])))
    assert picture.width == 2 * metadata["image/jpeg"]["width"] == 2 * 1000
    assert metadata["image/jpeg"]["alt"] == "Gallery (n = 1 image). a"


def test_titles_and_legends_are_the_alternative_text(shown):
    figure, ((age, view),) = figures.panels(1, 2, (4, 2))
    age.set_title("Age (n = 9)")
    view.set_title("View " * 90)
    _, metadata = shown(figure)
    assert metadata["image/svg+xml"]["alt"].startswith("Age (n = 9). View View")
    assert metadata["image/svg+xml"]["alt"].endswith("View …")
    assert len(metadata["image/svg+xml"]["alt"]) <= 300
    view.set_title("")
    age.plot([1, 2], label="Malignant: AUC 0.9 (0.8–1.0)")
    age.legend()
    assert shown(figure)[1]["image/svg+xml"]["alt"] == "Age (n = 9). Malignant: AUC 0.9 (0.8–1.0)"


def test_a_name_is_no_formula_and_powers_of_ten_are_text(shown):
    odd = "x<b id=c>1 $a$ b$ &amp;"
    figure = figures.metric_interval_figure(forest(1, label=odd), 0.95, title=odd)
    figure.axes[0].set(xscale="log", xlim=(1e-4, 1e4))
    data, metadata = shown(figure)
    drawing = ElementTree.fromstring(data["image/svg+xml"])
    said = {text.text for text in drawing.iter("{http://www.w3.org/2000/svg}text")}
    assert {odd, "1e−02", "100"} <= said
    assert odd in metadata["image/svg+xml"]["alt"]
