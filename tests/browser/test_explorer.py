"""The threshold explorer in a browser: its numbers are those of `operating_points.csv`."""

import json

import numpy as np
import pandas as pd
import pytest

from btxrd.evaluation import Bootstrap
from btxrd.evaluation.operating_points import operating_points
from btxrd.extras.pages.explorer import threshold_explorer
from btxrd.report.tables import format_interval
from btxrd.stages import EVALUATE

EXPLORER = ".btxrd-explorer"


@pytest.fixture(scope="module")
def run_dir(small_study):
    return next(small_study.glob("runs/E0*/stratified/seed-*"))


def explorer(test):
    points = operating_points(test, test, Bootstrap(20))
    return threshold_explorer(test, points, Bootstrap(20)).data


def open_alone(test, open_page, folder):
    (folder / "page.html").write_text(f"<meta charset='utf-8'>{explorer(test)}")
    return open_page(folder / "page.html")


def given(page):
    return json.loads(page.locator(f"{EXPLORER} [type='application/json']").first.inner_text())


def shown(page, name, place=0):
    texts = page.locator(EXPLORER).nth(place).locator(f"[data-show={name}]").all_inner_texts()
    assert len(set(texts)) == 1
    return texts[0]


def move(page, name, place):
    """Move a slider by the keyboard alone."""
    page.locator(f"[name={name}]").first.focus()
    page.keyboard.press("Home")
    for _ in range(place):
        page.keyboard.press("ArrowRight")


def test_a_chosen_threshold_shows_what_the_file_says(run_dir, open_page):
    """Also where the script computes predictive values at another prevalence."""
    points = pd.read_csv(run_dir / "operating_points.csv")
    page = open_page(run_dir / EVALUATE.page)
    data = given(page)
    shares = data["prevalences"]
    for _, point in points.iterrows():
        place = np.argmin([abs(row["threshold"] - point["threshold"]) for row in data["rows"]])
        move(page, "threshold", int(place))
        for suffix, share in {"": data["own"], "@0.01": 0.01, "@0.05": 0.05}.items():
            move(page, "prevalence", shares.index(share))
            for name in ("sensitivity", "specificity", f"ppv{suffix}", f"npv{suffix}"):
                expected = format_interval(*point[[name, f"{name}_low", f"{name}_high"]])
                assert shown(page, name.partition("@")[0]) == expected
        spoken = page.locator("[name=threshold]").get_attribute("aria-valuetext")
        assert spoken == f"{point['threshold']:.3f}: sensitivity {shown(page, 'sensitivity')}"
        missed = (1 - point["sensitivity"]) * point["test_malignant_n"]
        assert shown(page, "missed") == str(round(missed))


def test_net_benefit_and_the_dots_are_those_of_the_threshold(predicted, open_page, tmp_path):
    test = predicted(seed=2)
    page = open_alone(test, open_page, tmp_path)
    data = given(page)
    row, share = data["rows"][20], data["own"]
    move(page, "threshold", 20)
    odds = row["threshold"] / (1 - row["threshold"])
    benefit = (row["tp"] - odds * row["fp"]) / len(test)
    assert shown(page, "benefit").startswith(f"{100 * benefit:+.1f} (")
    assert shown(page, "alarms") == f"{100 * (row['tp'] + row['fp']) / len(test):.1f}"
    for panel, place in {
        "roc": (1 - row["specificity"][0], row["sensitivity"][0]),
        "pr": (row["sensitivity"][0], row["ppv"][0]),
        "decision": (row["threshold"], benefit / share),
    }.items():
        dot = page.locator(f"{EXPLORER} .{panel} .marker").get_attribute("d")
        assert dot == "M{:.4f} {:.4f}h0".format(*place)


def test_a_button_goes_back_to_what_was_chosen(run_dir, open_page):
    page = open_page(run_dir / EVALUATE.page)
    button, before = page.locator("[data-of=threshold]").first, shown(page, "threshold")
    move(page, "threshold", 0)
    assert shown(page, "threshold") != before
    button.press("Enter")
    assert shown(page, "threshold") == before


@pytest.mark.parametrize("width", [1400, 800, 390])
def test_nothing_is_cut(run_dir, open_page, width):
    page = open_page(run_dir / EVALUATE.page, width)
    sizes = "all => all.map(e => [e.scrollWidth - e.clientWidth, e.className])"
    parts = page.locator(f"{EXPLORER}, {EXPLORER} :is(div, table, figure)")
    assert all(more <= 0 for more, _ in parts.evaluate_all(sizes))


def test_pages_of_pools_have_one_too(small_study, open_page):
    folder = next(small_study.glob("runs/*/*/pooled/seed-*"))
    page = open_page(folder / EVALUATE.page)
    move(page, "threshold", 3)
    assert page.locator("[data-of=threshold]").count() == 0
    assert "Each fold has its own" in page.locator(EXPLORER).inner_text()


def test_outputs_of_jupyterlab_work_each_for_itself(predicted, open_page, tmp_path):
    """JupyterLab sets the HTML of an output, then runs its scripts again."""
    (tmp_path / "lab.html").write_text("<title>JupyterLab</title>")
    page = open_page(tmp_path / "lab.html")
    output = """html => {
      const output = document.body.appendChild(document.createElement("div"));
      output.innerHTML = html;
      for (const old of output.querySelectorAll("script")) {
        const script = document.createElement("script");
        for (const {name, value} of old.attributes) script.setAttribute(name, value);
        script.textContent = old.textContent;
        old.replaceWith(script);
      }
    }"""
    for _ in range(2):
        page.evaluate(output, explorer(predicted(seed=2)))
    before = shown(page, "threshold", 1)
    move(page, "threshold", 0)
    assert shown(page, "threshold") == f"{given(page)['rows'][0]['threshold']:.3f}"
    assert shown(page, "threshold", 1) == before != shown(page, "threshold")


def test_what_is_not_defined_has_a_dash_and_no_dot(predicted, open_page, tmp_path):
    """Where no image is called malignant, there is no PPV."""
    page = open_alone(predicted(seed=2, skill=0), open_page, tmp_path)
    marker = page.locator(f"{EXPLORER} .pr .marker")
    assert marker.get_attribute("d")
    move(page, "threshold", len(given(page)["rows"]) - 1)
    assert shown(page, "ppv") == "–"
    assert marker.get_attribute("d") == ""


def test_without_scripts_it_says_where_the_figures_stand(run_dir, chromium):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((run_dir / EVALUATE.page).resolve().as_uri())
    assert "The tables below have the figures" in page.locator(EXPLORER).inner_text()
    assert not page.locator("[name=threshold]").is_visible()
    context.close()
