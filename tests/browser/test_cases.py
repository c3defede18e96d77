"""The case browser, as a reader uses it: what is chosen, opened, switched on and linked to."""

import json
import re
import shutil
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest

from btxrd.data import read_table
from btxrd.data.table import REGION_COLUMNS
from btxrd.extras.pages.heatmaps import write_heatmaps
from btxrd.predictions import labels, probabilities, read_predictions
from btxrd.stages import CASES_FILE, EVALUATE, GRADCAM, HEATMAPS_FILE, RUNS_SCRIPT

RUN = "runs/E4_resnet50_cbam/stratified/seed-42"
POOL = "runs/E4_resnet50_cbam/center_cv/pooled/seed-42"


@pytest.fixture(scope="module")
def run(small_study) -> Path:
    return small_study / RUN


@pytest.fixture(scope="module")
def test(small_study, phantom) -> pd.DataFrame:
    """The pool's test predictions, with what the table says of them, in its order."""
    frame = read_predictions(small_study / POOL / "predictions.csv").query("part == 'test'")
    frame = frame.assign(predicted=probabilities(frame).argmax(axis=1))
    return read_table(phantom).drop(columns=["label", "center"]).merge(frame)


def shown(page) -> list[str]:
    return page.evaluate("chosen.map((one) => one.image_id)")


CHOICES = {
    "all": ({}, lambda frame: frame),
    "malignant called normal": (
        {"true": "Malignant", "predicted": "Normal"},
        lambda frame: frame.query("label == 2 and predicted == 0"),
    ),
    "errors of a center, worst first": (
        {"outcome": "wrong", "center": "2", "order": "loss:down"},
        lambda frame: frame.query("label != predicted and center == '2'").sort_values(
            "loss", ascending=False, kind="stable"
        ),
    ),
    "a view of a region by probability": (
        {"view": "frontal", "region": REGION_COLUMNS[1], "order": "p_Malignant:up"},
        lambda frame: frame[(frame["frontal"] == 1) & (frame[REGION_COLUMNS[1]] == 1)].sort_values(
            "p_Malignant", kind="stable"
        ),
    ),
    "a part of the id, sure of it": (
        {"id": "img00000", "confidence": "50 to 70 %"},
        lambda frame: frame.query("image_id.str.contains('IMG00000') and 0.5 <= highest < 0.7"),
    ),
}


@pytest.mark.parametrize(("chosen", "expected"), CHOICES.values(), ids=list(CHOICES))
def test_a_filter_gives_what_pandas_gives_and_its_link_gives_it_again(
    small_study, open_page, test, chosen, expected
):
    p = probabilities(test)
    loss = -np.log(p[np.arange(len(test)), labels(test)])
    ids = expected(test.assign(loss=loss, highest=p.max(axis=1)))["image_id"].tolist()
    page = open_page(small_study / POOL / CASES_FILE)
    for name, value in chosen.items():
        field = page.locator(f"[name={name}]")
        field.fill(value) if name == "id" else field.select_option(value)
    cards = page.locator("#grid strong").all_text_contents()
    assert cards == [Path(name).stem for name in ids]
    assert page.locator("#count").inner_text() == f"{len(ids)} of {len(test)} images"
    again = open_page(small_study / POOL / CASES_FILE, fragment="#" + page.url.partition("#")[2])
    assert shown(again) == ids
    assert {name: again.locator(f"[name={name}]").input_value() for name in chosen} == chosen


def test_a_card_opens_its_case_and_arrows_lead_on(run, open_page):
    page = open_page(run / CASES_FILE, fragment="#?order=loss:down")
    order = shown(page)
    page.locator("#grid a").nth(1).click()
    dialog, name = page.get_by_role("dialog"), page.locator("#name")
    dialog.wait_for()
    assert name.inner_text() == Path(order[1]).stem
    for key, place in (("ArrowRight", 2), ("ArrowRight", 3), ("ArrowLeft", 2)):
        page.keyboard.press(key)
        assert name.inner_text() == Path(order[place]).stem
        assert f"#{quote(order[place])}?" in page.url
        assert page.locator("#place").inner_text() == f"{place + 1} of {len(order)}"
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert Path(order[2]).stem in page.evaluate("document.activeElement.innerText")
    assert page.url.endswith("#?order=loss%3Adown")
    page.locator("#grid a").first.press("Enter")
    dialog.wait_for()
    assert page.locator("#previous").is_disabled()
    page.get_by_role("button", name="Next case").click()
    assert name.inner_text() == Path(order[1]).stem
    page.go_back()
    dialog.wait_for(state="hidden")


@pytest.mark.parametrize("ending", ["", ".jpeg"])
def test_a_link_names_a_case_and_says_what_is_known_of_it(run, open_page, ending):
    frame = read_predictions(run / "predictions.csv").query("part == 'test'").reset_index()
    row = frame.iloc[3]
    fragment = f"#{Path(row['image_id']).stem}{ending and Path(row['image_id']).suffix}"
    page = open_page(run / CASES_FILE, fragment=fragment)
    assert page.locator("#name").inner_text() == Path(row["image_id"]).stem
    cells = page.locator("#chances td:nth-child(2)").all_inner_texts()
    assert cells == [f"{row[f'p_{c}']:.3f}" for c in ("Normal", "Benign", "Malignant")]
    assert page.locator("#chances td:nth-child(3)").all_inner_texts() != cells
    assert page.locator("#picture").evaluate("(image) => image.naturalWidth") == 64
    assert page.locator("#facts").inner_text().count("\n") > 10


def test_what_is_not_there_is_said(run, open_page):
    page = open_page(run / CASES_FILE, fragment="#IMG999999")
    assert page.locator("#count").inner_text() == "There is no test image IMG999999 here."
    assert not page.get_by_role("dialog").is_visible()
    assert len(shown(page)) > 10


def test_siblings_stand_beside_with_the_part_they_are_in(small_study, run, open_page):
    split = pd.read_csv(small_study / "splits" / "stratified.csv").set_index("image_id")
    tested = split[split["part"] == "test"]
    trained = set(split.loc[split["part"] == "train", "group"])
    image = tested.index[tested["group"].isin(trained)][0]
    page = open_page(run / CASES_FILE, fragment=f"#{image}")
    kin = page.locator("#kin a")
    texts = kin.evaluate_all("(links) => links.map((a) => a.innerText)")
    siblings = split.index[split["group"] == split.loc[image, "group"]].drop(image)
    found = {re.search(r"IMG\d+", text)[0]: text for text in texts}
    for sibling in siblings:
        assert f"{split.loc[sibling, 'part']}: " in found[Path(sibling).stem]
    for picture in kin.locator("img").all():
        picture.scroll_into_view_if_needed()
        page.wait_for_function("(image) => image.naturalWidth > 0", arg=picture.element_handle())


def test_outline_and_heat_map_are_switched_by_hand_and_by_key(run, open_page, read_heatmaps):
    maps = read_heatmaps(run / HEATMAPS_FILE)["network"]
    frame = read_predictions(run / "predictions.csv").query("part == 'test'")
    assert set(maps) == set(frame["image_id"])
    tumour = frame.query("label > 0")["image_id"].iloc[0]
    page = open_page(run / CASES_FILE, fragment=f"#{tumour}")
    outline, heat = page.locator("#outline"), page.locator("#heat")
    assert outline.get_attribute("d").startswith("M")
    assert not heat.is_visible()
    page.keyboard.press("o")
    assert outline.get_attribute("d") == ""
    page.get_by_label("Heat map").check()
    assert heat.is_visible()
    height, width = maps[tumour].shape[:2]
    natural = heat.evaluate(
        "(image) => image.decode().then(() => [image.naturalHeight, image.naturalWidth])"
    )
    assert natural == [height, width]
    places = page.locator(".stack > *").evaluate_all(
        "(all) => all.map((e) => Object.values(e.getBoundingClientRect().toJSON()).map(Math.round))"
    )
    assert places[0] == places[1] == places[2]
    page.keyboard.press("ArrowRight")
    assert page.get_by_label("Heat map").is_checked()
    assert "gradcam, for the class that" in page.locator("#about").inner_text()
    normal = frame.query("label == 0")["image_id"].iloc[0]
    page = open_page(run / CASES_FILE, fragment=f"#{normal}")
    assert page.get_by_label("Outline").is_disabled()
    assert "No lesion is annotated." in page.locator("#about").inner_text()


def test_a_pool_shows_the_maps_of_the_fold_that_tested_the_image(small_study, open_page, test):
    page = open_page(small_study / POOL / CASES_FILE)
    for fold, rows in test.groupby("fold"):
        page.goto(page.url.partition("#")[0] + f"#{rows['image_id'].iloc[0]}")
        assert f"fold {fold} · seed 42" in page.locator("#about").inner_text()
        assert page.get_by_label("Heat map").is_enabled()


@pytest.fixture
def copied(small_study, run, tmp_path) -> Path:
    """A run by itself, in a study's layout, that may be written into."""
    shutil.copytree(small_study / "pictures", tmp_path / "pictures")
    shutil.copy(small_study / RUNS_SCRIPT, tmp_path)
    return Path(shutil.copytree(run, tmp_path / RUN))


@pytest.mark.parametrize(
    ("sources", "why", "words"),
    [
        (["network", "attention"], "", "for the class that"),
        ([], "There are no heat maps of this network: one place.", "of this network: one place."),
    ],
)
def test_there_are_several_sources_or_none(copied, open_page, sources, why, words):
    names = (
        read_predictions(copied / "predictions.csv").query("part == 'test'")["image_id"].tolist()
    )
    maps = {source: np.random.default_rng(0).random((len(names), 3, 4)) for source in sources}
    write_heatmaps(copied / HEATMAPS_FILE, names, maps, run="E4", method="gradcam", why=why)
    page = open_page(copied / CASES_FILE, fragment=f"#{names[0]}")
    assert words in page.locator("#about").inner_text()
    assert page.get_by_label("Heat map").is_enabled() == bool(sources)
    assert page.locator("#source").is_visible() == (len(sources) > 1)
    if sources:
        page.locator("#source").select_option("attention")
        page.get_by_label("Heat map").check()
        page.keyboard.press("ArrowRight")
        assert "Heat map: attention" in page.locator("#about").inner_text()


def test_pictures_are_loaded_as_they_come_near(copied, open_page):
    """Of two thousand cases, those of no more than a few screens."""
    page_file = copied / CASES_FILE
    text = page_file.read_text()
    found = re.search(r'(id="data">)(.*?)(</script>)', text, re.DOTALL)
    data = json.loads(found[2])
    few, pictures = data["cases"], copied / data["pictures"]
    for place in range(2000):
        (pictures / f"a{place}.jpeg").symlink_to(f"{few[0]['row']}.jpeg")
    many = [few[0] | {"image_id": f"{n}.jpeg", "row": f"a{n}"} for n in range(2000)]
    changed = json.dumps(data | {"cases": many}).replace("<", "\\u003c")
    page_file.write_text(text.replace(found[2], changed))
    page = open_page(page_file)
    page.wait_for_timeout(500)
    loaded = "cases.filter((one) => one.card.querySelector('img').naturalWidth).length"
    assert page.locator("#count").inner_text() == "2,000 of 2,000 images"
    assert 10 < page.evaluate(loaded) < 300


@pytest.mark.parametrize("width", [1400, 800, 390])
@pytest.mark.parametrize("fragment", ["", "#?true=Malignant", "case"])
def test_nothing_is_wider_than_the_window(run, open_page, width, fragment):
    if fragment == "case":
        frame = read_predictions(run / "predictions.csv").query("part == 'test' and label == 2")
        fragment = f"#{frame['image_id'].iloc[0]}"
    page = open_page(run / CASES_FILE, width, fragment=fragment)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    dialog = page.locator("dialog")
    assert dialog.evaluate("(d) => d.scrollWidth - d.clientWidth") <= 0


def test_worst_errors_and_gallery_lead_into_it(run, open_page):
    for stage in (EVALUATE, GRADCAM):
        page = open_page(run / stage.page)
        link = page.locator(f"main a[href^='{CASES_FILE}#']").first
        name = link.inner_text()
        link.click()
        page.get_by_role("dialog").get_by_role("heading", name=name).wait_for()


def test_the_navigation_leads_to_the_cases_of_another_run(run, open_page):
    page = open_page(run / CASES_FILE)
    nav = page.get_by_role("navigation")
    nav.get_by_text("all runs").click()
    nav.get_by_role("link", name="center_cv, fold 2, seed 42").first.click()
    assert page.url.endswith(f"E0_lite0_probe/center_cv/fold-2/seed-42/{CASES_FILE}")
