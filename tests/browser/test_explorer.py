"""The threshold explorer in a browser: its numbers are those of `operating_points.csv`."""

import json

import pandas as pd
import pytest

from btxrd.evaluation import Bootstrap
from btxrd.evaluation.operating_points import operating_points
from btxrd.extras.pages.explorer import threshold_explorer
from btxrd.extras.pages.thresholds import threshold_table
from btxrd.report.tables import format_interval
from btxrd.stages import EVALUATE

EXPLORER = ".btxrd-explorer"


@pytest.fixture(scope="module")
def run_dir(small_study):
    return next(small_study.glob("runs/E0*/stratified/seed-*"))


def shown(page, name, explorer=0):
    texts = page.locator(EXPLORER).nth(explorer).locator(f"[data-show={name}]").all_inner_texts()
    assert len(set(texts)) == 1
    return texts[0]


def move(page, name, place):
    """Move a slider by the keyboard alone."""
    page.locator(f"[name={name}]").first.focus()
    page.keyboard.press("Home")
    for _ in range(place):
        page.keyboard.press("ArrowRight")


def test_a_chosen_threshold_shows_what_the_file_says(run_dir, open_page):
    points = pd.read_csv(run_dir / "operating_points.csv")
    page = open_page(run_dir / EVALUATE.page)
    data = json.loads(page.locator(f"{EXPLORER} [type='application/json']").inner_text())
    shares = {entry["share"]: place for place, entry in enumerate(data["prevalences"])}
    for _, point in points.iterrows():
        move(page, "threshold", data["threshold"].index(f"{point['threshold']:.3f}"))
        page.locator("[data-prevalence]").click()
        suffixes = {"": None, "@0.01": shares[0.01], "@0.05": shares[0.05]}
        for suffix, place in suffixes.items():
            if place is not None:
                move(page, "prevalence", place)
            for name in ("sensitivity", "specificity", f"ppv{suffix}", f"npv{suffix}"):
                expected = format_interval(*point[[name, f"{name}_low", f"{name}_high"]])
                assert shown(page, name.partition("@")[0]) == expected
        spoken = page.locator("[name=threshold]").get_attribute("aria-valuetext")
        assert spoken == f"{point['threshold']:.3f}: sensitivity {shown(page, 'sensitivity')}"
        found = round(point["sensitivity"] * point["test_malignant_n"])
        assert shown(page, "tp") == str(found)
        assert shown(page, "fn") == str(int(point["test_malignant_n"] - found))


def test_a_button_goes_back_to_what_was_chosen(run_dir, open_page):
    page = open_page(run_dir / EVALUATE.page)
    button, before = page.locator("button[data-threshold]").first, shown(page, "threshold")
    assert button.get_attribute("aria-pressed") == "true"
    move(page, "threshold", 0)
    assert shown(page, "threshold") != before
    assert button.get_attribute("aria-pressed") == "false"
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
    assert page.locator("button[data-threshold]").count() == 0
    assert "Each fold has its own" in page.locator(EXPLORER).inner_text()


def test_outputs_of_jupyterlab_work_each_for_itself(predicted, open_page, tmp_path):
    """JupyterLab sets the HTML of an output, then runs its scripts again."""
    val, test = predicted(seed=1, part="val"), predicted(seed=2)
    points = operating_points(val, test, Bootstrap(20))
    table = threshold_table(test, points, Bootstrap(20))
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
        page.evaluate(output, threshold_explorer(table, points, Bootstrap(20)).data)
    move(page, "threshold", 0)
    assert shown(page, "threshold") == f"{table['threshold'][0]:.3f}"
    assert shown(page, "tp") == str(table["tp"][0])
    assert shown(page, "threshold", 1) == f"{points['threshold'][0]:.3f}"


def test_what_is_not_defined_has_a_dash_and_no_bar(predicted, open_page, tmp_path):
    """Where no image is called malignant, there is no PPV."""
    test = predicted(seed=2, skill=0)
    points = operating_points(test, test, Bootstrap(20))
    table = threshold_table(test, points, Bootstrap(20))
    assert table["ppv"].isna().iloc[-1]
    html = threshold_explorer(table, points, Bootstrap(20)).data
    (tmp_path / "page.html").write_text(f"<meta charset='utf-8'>{html}")
    page = open_page(tmp_path / "page.html")
    bar, marker = page.locator("[data-bar=ppv]"), page.locator("[data-y=ppv] .marker")
    assert bar.is_visible()
    move(page, "threshold", len(table) - 1)
    assert shown(page, "ppv") == "–"
    assert not bar.is_visible()
    assert marker.get_attribute("d") == ""


def test_without_scripts_it_shows_the_chosen_point(run_dir, chromium):
    point = pd.read_csv(run_dir / "operating_points.csv").iloc[0]
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((run_dir / EVALUATE.page).resolve().as_uri())
    assert shown(page, "threshold") == f"{point['threshold']:.3f}"
    assert not page.locator("[name=threshold]").is_visible()
    context.close()
