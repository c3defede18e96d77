"""Names of somebody else's, full of markup: text on every kind of page, in links and pictures."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from btxrd.data import read_table
from btxrd.files import PHANTOM_FILE, write_csv, write_json
from btxrd.runner.external import evaluate_checkpoints
from btxrd.runner.notebooks import execute_notebook
from btxrd.runner.pages import rebuild_pages
from btxrd.stages import (
    CASES_FILE,
    COMPARE,
    EDA,
    EVALUATE,
    GRADCAM,
    PROBE,
    RUN_FILE,
    SPLITS,
    STUDY_FILE,
    STUDY_STAGES,
)

ODD = "x<b id=c>1 $a$ *P*_1_ [x](javascript:y) `t` &amp; \"q\" 'r' 50%41#? u@v"
"""A name of a file, were it not for its markup."""
RUN = f"runs/{ODD}/stratified/seed-42"
PROBED = {
    "model": {"backbone": "test_resnet", "pretrained": False},
    "data": {"image_size": 64},
    "training": {"mode": "probe"},
}
PLANTED = "#c, [onerror], main a[href^='javascript'], main a[href='y'], main em:text-is('P')"


def odd_copy(phantom: Path, folder: Path) -> Path:
    """The phantom's data under an odd name, as data of somebody's."""
    folder.mkdir()
    for part in phantom.iterdir():
        if part.name != PHANTOM_FILE:
            (folder / part.name).symlink_to(part)
    return folder


@pytest.fixture(scope="module")
def odd_study(phantom, cache_dir, tmp_path_factory) -> Path:
    """A study of oddly named data, whose runs were called oddly later on; one of them failed."""
    folder = tmp_path_factory.mktemp("reports") / ODD
    places = {
        "dataset_root": str(odd_copy(phantom, tmp_path_factory.mktemp("data") / ODD)),
        "cache_dir": str(cache_dir),
        "study_dir": str(folder),
    }
    write_json(folder / STUDY_FILE, {})
    execute_notebook(EDA, folder, places | {"image_size": 64, "replicates": 20})
    execute_notebook(SPLITS, folder, places | {"image_size": 64})
    run = folder / "runs" / "odd" / "stratified" / "seed-42"
    execute_notebook(PROBE, run, places | {"experiment": "odd"} | PROBED)
    for stage in (EVALUATE, GRADCAM):
        execute_notebook(stage, run, {"run_dir": str(run), "replicates": 20})
    (folder / "runs" / "odd").rename(folder / "runs" / ODD)
    failed = shutil.copytree(folder / RUN, folder / RUN.replace("42", "43"))
    write_json(failed / RUN_FILE, {"status": "failed", "error": f"OSError: no {ODD}"})
    execute_notebook(COMPARE, folder, {"study_dir": str(folder), "replicates": 20})
    rebuild_pages(folder)
    return folder


@pytest.fixture(scope="module")
def odd_evaluation(odd_study, phantom, cache_dir, tmp_path_factory) -> Path:
    """The folder of an evaluation by `btxrd evaluate`: every name in it is odd."""
    folder = tmp_path_factory.mktemp("theirs")
    # 36 has the same bytes as 5, and an image counts once.
    rows = read_table(phantom).iloc[:41].drop(index=36)
    names = [f"{place} {ODD}.png" for place in range(len(rows))]
    for path, name in zip(rows["path"], names, strict=True):
        shutil.copy(path, folder / name)
    listed = pd.DataFrame({"path": names, "label": rows["label"]})
    listed = listed.assign(group=names, center=[f"{ODD} A"] * 26 + [f"{ODD} B"] * 14)
    write_csv(folder / f"{ODD}.csv", listed.assign(**{f"{ODD} read": 1}))
    unseen = shutil.copytree(odd_study / RUN, folder / ODD)
    (unseen / "seen.csv").unlink()
    models = [odd_study / RUN / "model.pt", unseen / "model.pt"]

    def quickly(stage, place, parameters):
        execute_notebook(stage, place, parameters | {"replicates": 20})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("btxrd.runner.external.execute_notebook", quickly)
        page = evaluate_checkpoints(
            folder / f"{ODD}.csv",
            models,
            reports_dir=folder / "out",
            cache_dir=cache_dir,
            tell=lambda line: None,
        )
    return page.parent


def test_a_study_names_its_data_runs_and_errors_as_they_are(odd_study, open_page):
    run = [f"{RUN}/{name}" for name in (PROBE.page, EVALUATE.page, GRADCAM.page, CASES_FILE)]
    for name in (*(stage.page for stage in STUDY_STAGES.values()), *run):
        page = open_page(odd_study / name)
        assert page.locator(PLANTED).count() == 0, name
        assert ODD in page.locator("main").inner_text(), name
    home = open_page(odd_study / COMPARE.page)
    assert f"{ODD}, stratified, seed 43: failed" in home.locator("main").inner_text()
    assert f"OSError: no {ODD} (error.txt)" in home.locator("main").inner_text()
    home.locator("main").get_by_role("link", name="evaluation").first.click()
    assert home.title().startswith("04")
    nav = home.get_by_role("navigation")
    assert f"{ODD} · stratified, seed 42" in nav.inner_text()
    nav.get_by_role("link", name="heat maps").click()
    assert home.title().startswith("05")


def test_an_evaluation_names_images_centers_and_files_as_they_are(odd_evaluation, open_page):
    page = open_page(odd_evaluation / EVALUATE.page)
    assert page.locator(PLANTED).count() == 0
    text = page.locator("main").inner_text()
    for said in (
        f"the images that {ODD}.csv lists",
        f"{ODD}.png): the figures are too good",
        f"Which images {odd_evaluation.parent.parent / ODD}/model.pt has been trained on",
        f"Columns that are not read: {ODD} read.",
        f"Test, center {ODD} A (n = 26",
        f"test, center {ODD} B: ",
    ):
        assert said in text
    cells = page.locator("td").all_inner_texts()
    assert f"{ODD} A" in cells


def test_a_link_leads_to_the_case_of_an_odd_name(odd_evaluation, open_page):
    page = open_page(odd_evaluation / EVALUATE.page)
    link = page.locator(f"main a[href^='{CASES_FILE}#']").first
    name = link.inner_text()
    assert name.endswith(ODD)
    link.click()
    dialog = page.get_by_role("dialog")
    dialog.wait_for()
    assert page.locator("#name").inner_text() == name
    assert page.locator(PLANTED).count() == 0
    assert f"{name}.png" in page.locator("#facts").inner_text()
    assert page.locator("#picture").evaluate("(image) => image.decode().then(() => true)")
    assert name in page.locator("#picture").get_attribute("alt")
    page.keyboard.press("Escape")
    page.locator("[name=center]").select_option(f"{ODD} B")
    assert page.locator("#count").inner_text() == "14 of 40 images"
