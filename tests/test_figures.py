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
from btxrd.evaluation import Bootstrap, classification_metrics
from btxrd.evaluation.localisation import localisation_table
from btxrd.evaluation.summary import summarise
from btxrd.predictions import labels, probabilities
from btxrd.report import figures

BOOTSTRAP = Bootstrap(20, 0.9)


@pytest.fixture
def test(predicted):
    return predicted((30, 25, 8), skill=9)


def metrics_of(frame):
    return classification_metrics(labels(frame), probabilities(frame))


def texts(axis):
    return [text.get_text() for text in axis.texts]


def test_palette_covers_the_classes():
    assert tuple(figures.CLASS_PALETTE) == CLASS_NAMES


def test_use_style_keeps_type_legible():
    with mpl.rc_context():
        figures.use_style()
        assert min(mpl.rcParams["font.size"], mpl.rcParams["xtick.labelsize"]) >= 10
        assert mpl.rcParams["figure.facecolor"] == "white"


def test_figures_do_not_change_the_style(test):
    before = dict(mpl.rcParams)
    figures.confusion_matrix_figure(metrics_of(test))
    assert dict(mpl.rcParams) == before


def test_confusion_matrix(test, drawn):
    figure = drawn(figures.confusion_matrix_figure(metrics_of(test)), 63)
    counts, shares = figure.axes
    assert texts(counts)[0] == "30"
    assert texts(shares)[0] == "100.0%"
    assert counts.get_xlabel() == "Predicted class"


def test_confusion_matrix_of_a_file_with_an_absent_class(test, drawn):
    metrics = metrics_of(test[test["label"] < 2])
    metrics["confusion_matrix"]["row_normalised"][2] = [None] * 3
    drawn(figures.confusion_matrix_figure(metrics), 55)


@pytest.mark.parametrize("classes", [3, 2])
def test_roc_and_pr(test, drawn, classes):
    frame = test[test["label"] < classes]
    intervals = summarise(frame, BOOTSTRAP)["test"]["intervals"]
    figure = drawn(figures.roc_pr_figure(frame, intervals, BOOTSTRAP), len(frame))
    assert ", 90 % bootstrap bands (" in figure.get_suptitle()
    for axis, score in zip(figure.axes, ("AUC", "AP"), strict=True):
        assert len(axis.collections) == classes  # one band a class
        named = [text.get_text() for text in axis.get_legend().get_texts()]
        assert named[1].startswith(f"Benign: {score} 1.000 (–), n = 25")
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
    columns = [f"{p}_{q}" for p in ("train", "val") for q in ("loss", "top1", "top2")]
    columns += [f"{p}_recall_{name}" for p in ("train", "val") for name in CLASS_NAMES]
    values = np.linspace(0.9, 0.5, rows)
    places = range(1, rows + 1) if step == "epoch" else np.geomspace(0.1, 1e-4, rows)
    history = pd.DataFrame({step: places, **dict.fromkeys(columns, values)})
    figure = drawn(figures.history_figure(history), rows)
    assert best in figure.get_suptitle()
    assert all(axis.get_xlabel() == label for axis in figure.axes)
    assert {axis.get_xscale() for axis in figure.axes} == {"log" if step == "C" else "linear"}


def test_forest_plot(drawn):
    table = pd.DataFrame(
        {
            "label": ["E1", "E1", "E2", "E2"],
            "split": ["stratified", "center"] * 2,
            "metric": "macro_auc",
            "estimate": [0.7, 0.6, np.nan, 0.5],
            "low": [0.6, 0.5, np.nan, 0.4],
            "high": [0.8, 0.7, np.nan, 0.6],
            "n": [564, 808] * 2,
        }
    )
    figure = figures.metric_interval_figure(
        table, BOOTSTRAP, hue="split", references={"macro_auc": 0.55}
    )
    assert "Macro AUC, 90 % intervals (" in drawn(figure, "564 to 808").get_suptitle()
    assert "Macro AUC: E1, stratified 0.700" in figure.get_label()
    assert figure.axes[0].get_xlabel() == "Macro AUC"
    assert figure.legends[0].get_texts()[1].get_text() == "center (n = 808 images)"
    plain = table.loc[[0, 3], ["label", "estimate", "low", "high"]]
    drawn(figures.metric_interval_figure(plain, BOOTSTRAP, "Macro AUC"), "2 estimates")
    with pytest.raises(ValueError, match="lacks \\['low'\\]"):
        figures.metric_interval_figure(plain.drop(columns="low"), BOOTSTRAP)


@pytest.mark.parametrize("by", ["source", "part"])
def test_localisation_scores_have_a_panel_each(drawn, by):
    scores = pd.DataFrame({"iou": [0.2, 0.4], "iou_chance": 0.1, "energy": 0.3, "label": 1})
    scores["group"] = ["a", "b"]
    table = localisation_table(scores, BOOTSTRAP).query("reference == ''")
    figure = figures.score_interval_figure(table, BOOTSTRAP, by, "Maps", hue="source")
    assert drawn(figure, 2).get_suptitle() == "Maps, 90 % intervals (n = 2 images)"
    assert [axis.get_xlabel() for axis in figure.axes] == ["IoU at 0.5", "Energy in lesion"]
    assert all(axis.get_xlim()[1] == pytest.approx(0.42) for axis in figure.axes)
    ticks = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert ticks == list(dict.fromkeys(table[by]))


@pytest.mark.parametrize("categories", [3, 9])
def test_class_counts(drawn, categories):
    numbers = pd.Series([0, 1, 0, 2, 1, 0, 0, 0, 0, 0] * 10)
    table = pd.DataFrame({"label": numbers, "center": np.arange(100) % categories})
    axis = drawn(figures.class_counts_figure(table, "center"), 100).axes[0]
    assert sum(int(text) for text in texts(axis)) == 100


def test_class_counts_refuses_unknown_labels():
    with pytest.raises(ValueError, match="not 'Cyst'"):
        figures.class_counts_figure(pd.DataFrame({"label": ["Cyst"], "split": ["val"]}), "split")
    with pytest.raises(ValueError, match="lacks the columns center"):
        figures.class_counts_figure(pd.DataFrame({"label": [0]}), "center")


def test_gallery_draws_outlines_and_heat(drawn):
    images = np.zeros((3, 16, 16), dtype=np.uint8)
    mask = np.zeros((16, 16), dtype=bool)
    mask[4:8, 4:8] = True
    figure = figures.gallery_figure(
        images,
        ["a", "b", "c"],
        np.stack([mask, mask & False, mask & False]),
        np.full((3, 16, 16), 0.5),
        columns=2,
    )
    drawn(figure, 3)
    assert [len(axis.collections) for axis in figure.axes[:4]] == [1, 0, 0, 0]
    assert [len(axis.images) for axis in figure.axes[:4]] == [2, 2, 2, 0]
    assert figure.axes[0].get_xlim() == (-0.5, 15.5)


def test_an_empty_gallery_says_so(drawn):
    drawn(figures.gallery_figure(np.empty((0, 16, 16)), []), 0)


def test_gallery_refuses_uneven_parts():
    with pytest.raises(ValueError, match="titles must be 2"):
        figures.gallery_figure(np.zeros((2, 8, 8)), ["a"])
    with pytest.raises(ValueError, match=r"\(N, H, W\)"):
        figures.gallery_figure(np.zeros((8, 8)), ["a"] * 8)


def forest(rows, **columns):
    values = np.linspace(0.9, 0.5, rows)
    names = {"label": [f"E{i}" for i in range(rows)], "estimate": values}
    return pd.DataFrame(names | {"low": values - 0.1, "high": values + 0.05} | columns)


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (
            lambda test: figures.confusion_matrix_figure(metrics_of(test)),
            ["n = 63", "8 Malignant: 0 Normal, 0 Benign, 8 Malignant."],
        ),
        (
            lambda test: figures.roc_pr_figure(
                test, summarise(test, BOOTSTRAP)["test"]["intervals"], BOOTSTRAP
            ),
            ["n = 63", "Malignant, n = 8: AUC 1.000 (–), AP 1.000 (–)."],
        ),
        (
            lambda _: figures.metric_interval_figure(forest(3), BOOTSTRAP, "AUC"),
            ["AUC: E0 0.900 (0.800–0.950); E1 0.700 (0.600–0.750); E2 0.500 (0.400–0.550)."],
        ),
        (
            lambda _: figures.metric_interval_figure(
                forest(9, split="grouped"), BOOTSTRAP, "AUC", hue="split"
            ),
            ["AUC, 9 rows: from E8, grouped 0.500 (0.400–0.550) to E0, grouped 0.900 (0.800–"],
        ),
        (
            lambda test: figures.class_counts_figure(test, "center"),
            ["n = 63", "1: 30 Normal, 25 Benign, 8 Malignant."],
        ),
        (
            lambda _: figures.gallery_figure(np.zeros((2, 8, 8)), ["IMG1", "IMG2"]),
            ["n = 2", "IMG1; IMG2."],
        ),
    ],
    ids=["confusion", "curves", "forest", "long forest", "counts", "gallery"],
)
def test_figures_say_in_words_what_they_show(test, draw, words):
    text = draw(test).get_label()
    assert [said for said in words if said not in text] == []
    assert len(text) <= 300


def test_a_long_description_ends_with_a_whole_word():
    text = figures.describe(mpl.figure.Figure(), "figure " * 99).get_label()
    assert len(text) <= 300
    assert text.endswith("figure …")


def test_levels_of_a_categorical_keep_their_order():
    splits = pd.Categorical(["center", "grouped"], ["stratified", "grouped", "center"])
    figure = figures.metric_interval_figure(forest(2, split=splits), BOOTSTRAP, hue="split")
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert named == ["grouped", "center"]


@pytest.fixture
def shown():
    """What a notebook shows of a figure: its mime types, and their metadata."""
    shell = InteractiveShell.instance()
    with mpl.rc_context():
        figures.use_style()
        yield shell.display_formatter.format
    InteractiveShell.clear_instance()


def test_drawings_are_shown_as_text_that_can_be_reproduced(shown, test):
    drawn, same = (figures.confusion_matrix_figure(metrics_of(test)) for _ in range(2))
    (data, metadata), (again, _) = shown(drawn), shown(same)
    assert set(data) == {"text/plain", "image/svg+xml"}
    assert data["image/svg+xml"] == again["image/svg+xml"]
    assert ">Predicted class</text>" in data["image/svg+xml"]
    assert metadata["image/svg+xml"] == {"alt": drawn.get_label()}


def test_pictures_are_shown_with_twice_the_pixels(shown):
    figure = figures.gallery_figure(np.zeros((1, 64, 64)), ["a"], columns=2)
    data, metadata = shown(figure)
    assert set(data) == {"text/plain", "image/jpeg"}
    picture = Image.open(BytesIO(b64decode(data["image/jpeg"])))
    assert picture.width == 2 * metadata["image/jpeg"]["width"] == 2 * 1000
    assert metadata["image/jpeg"]["alt"] == figure.get_label()


def test_a_figure_that_nobody_described_is_named_by_its_titles(shown):
    figure, axes = figures.panels(1, 2, (4, 2))
    axes[0, 0].set_title("Age (n = 9)")
    axes[0, 1].set_title("View (n = 9)")
    _, metadata = shown(figure)
    assert metadata["image/svg+xml"] == {"alt": "Age (n = 9). View (n = 9)."}


def test_a_name_is_no_formula_and_powers_of_ten_are_text(shown):
    odd = "x<b id=c>1 $a$ b$ &amp;"
    table = pd.DataFrame({"label": [odd], "estimate": 0.5, "low": 0.4, "high": 0.6})
    figure = figures.metric_interval_figure(table, BOOTSTRAP, title=odd)
    figure.axes[0].set(xscale="log", xlim=(1e-4, 1e4))
    data, metadata = shown(figure)
    drawing = ElementTree.fromstring(data["image/svg+xml"])
    said = {text.text for text in drawing.iter("{http://www.w3.org/2000/svg}text")}
    assert {odd, "1e−02", "100"} <= said
    assert f"Estimate: {odd} 0.500" in metadata["image/svg+xml"]["alt"]


def test_classes_differ_in_grey_print():
    for marks in (figures.CLASS_LINES, figures.CLASS_MARKERS):
        assert list(marks) == list(CLASS_NAMES)
        assert len(set(marks.values())) == len(CLASS_NAMES)
    assert figures.CLASS_LINES["Malignant"] == "-"
