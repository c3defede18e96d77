"""A small study, and Chromium to look at its pages.

`pytest -m browser -n 0` runs what needs them. Pages are opened from the file system, as a reader
does.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

HERE = ("file:", "data:", "blob:", "about:")
"""What a page may load: nothing of it comes through a network."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def small_study(phantom: Path, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study's folder: two experiments, two splits, the folds of one of them pooled.

    Who writes into it copies it first.
    """
    from btxrd.params import StudyParams
    from btxrd.runner.study import run_study

    values = {
        "name": "small",
        "dataset_root": str(phantom),
        "cache_dir": str(cache_dir),
        "reports_dir": str(tmp_path_factory.mktemp("reports")),
        "splits": ["stratified", "center_cv"],
        "experiments": ["E0_lite0_probe", "E4_resnet50_cbam"],
        "overrides": {
            "data": {"image_size": 64},
            "training": {"epochs": 3, "warmup_epochs": 1, "lr": 2e-3},
        },
        "experiment_overrides": {
            "E4_resnet50_cbam": {"model": {"backbone": "resnet10t", "pretrained": False}}
        },
        "replicates": 100,
    }
    study = StudyParams.parse(values, "test")
    assert not run_study(study, jobs=2).failed
    return study.study_dir


@pytest.fixture(scope="session")
def chromium() -> "Iterator[Browser]":
    """Debian's Chromium, without a window."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium")
    if program is None:
        pytest.fail("these tests need Chromium: apt-get install chromium", pytrace=False)
    with sync_playwright() as playwright:
        # Root, as in a container, has no sandbox.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: "Browser") -> "Iterator[Callable[..., Page]]":
    """Open a file in a window of its own; `scheme` is light or dark, `fragment` a `#place` in it.

    The test fails where a page wrote an error on its console, or asked for anything that is not a
    file on this machine.
    """
    contexts: list[BrowserContext] = []
    wrong: list[str] = []

    def opened(
        file: Path, width: int = 1400, height: int = 900, scheme: str = "light", fragment: str = ""
    ) -> "Page":
        context = chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, accept_downloads=True
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "request",
            lambda asked: None if asked.url.startswith(HERE) else wrong.append(f"asks {asked.url}"),
        )
        page.goto(file.resolve().as_uri() + fragment)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []
