"""A real Chromium, where the system has one, and pages for it to show."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
SIDES = (40, 24)
"""Width and height of the pictures."""


@pytest.fixture(scope="session")
def chromium() -> "Iterator[Browser]":
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"there is no Chromium: none of {', '.join(NAMES)}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """Two lists: one of three images with two views each, black before and white after; and one of a single image."""
    from nullspace_cli.engine.report import parts
    from nullspace_cli.engine.report.gallery import Gallery
    from nullspace_cli.engine.report.page import write_page
    from nullspace_cli.engine.report.pictures import compared, encoded, thumbnail

    black = np.zeros((SIDES[1], SIDES[0], 3), np.uint8)
    view, _ = compared("Picture", ("before", black), ("after", black + 255))
    noise = view._replace(title="Noise", pictures=(encoded("noise", black + 128),))

    def images(names: str) -> parts.Images:
        gallery = Gallery(tmp_path, 10**6)
        for badness, name in enumerate(reversed(names)):
            gallery.add(name, (badness,), thumbnail(black), [view, noise])
        rows = [parts.Row(name, (str(badness),)) for badness, name in enumerate(names)]
        return parts.Images(("Badness",), rows, gallery, "worst first")

    sections = [parts.Section("Many", images=images("abc")), parts.Section("One", images=images("d"))]
    return write_page(tmp_path / "report.html", parts.Page("test", "A page", sections=sections))


@pytest.fixture
def opened(chromium: "Browser", report: Path) -> "Iterator[Callable[..., Page]]":
    """Open the page; at the end it is seen that nothing went wrong in it, and that nothing was asked for elsewhere."""
    said, asked, contexts = list[str](), list[str](), []

    def opened(**options: Any) -> "Page":
        context = chromium.new_context(**{"viewport": {"width": 1000, "height": 800}, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(report.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert said == []
    assert [address for address in asked if not address.startswith("data:")] == [report.as_uri()] * len(contexts)
