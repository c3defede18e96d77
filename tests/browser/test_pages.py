"""Every page of a small study in a browser."""

import pytest

WIDTHS = (1400, 800, 390)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_page_is_no_wider_than_its_window(small_study, open_page, width):
    for file in sorted(small_study.rglob("*.html")):
        page = open_page(file, width)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, file.name
        page.context.close()
