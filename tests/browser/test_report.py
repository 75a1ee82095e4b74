"""A report in a real browser, by pointer and by keyboard: what is seen, read from the screen's pixels."""

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.browser.conftest import SIDES

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = pytest.mark.browser

Opened = Callable[..., "Page"]


def stage(page: "Page", gallery: int = 1) -> "Locator":
    return page.locator(f"#gallery-{gallery} .image.open .view.open .stage")


def seen(page: "Page", gallery: int = 1) -> NDArray[np.uint8]:
    """The middle row of the picture as it is on the screen, in grey."""
    shot = stage(page, gallery).locator(".sheet").screenshot()
    pixels = np.asarray(Image.open(io.BytesIO(shot)).convert("L"))
    return pixels[len(pixels) // 2]


def share_of_black(page: "Page") -> float:
    """How much of the picture is the one before."""
    return float((seen(page) < 60).mean())


def heading(page: "Page", gallery: int = 1) -> str:
    return page.locator(f"#gallery-{gallery} .image.open h3").inner_text()


def test_the_divider_follows_pointer_range_and_keys(opened: Opened) -> None:
    page = opened()
    assert share_of_black(page) == pytest.approx(0.5, abs=0.02)
    box = stage(page).locator(".sheet").bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + 20, steps=3)
    page.mouse.up()
    assert share_of_black(page) == pytest.approx(0.25, abs=0.02)
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert share_of_black(page) == pytest.approx(0.35, abs=0.02)
    divider = page.locator("#gallery-1 .image.open input[type=range]")
    assert divider.input_value() == "350"
    divider.fill("800")
    assert share_of_black(page) == pytest.approx(0.8, abs=0.02)
    divider.focus()
    page.keyboard.press("Shift+ArrowLeft")
    assert share_of_black(page) == pytest.approx(0.7, abs=0.02)


def test_space_flickers_between_the_two(opened: Opened) -> None:
    page = opened()
    page.clock.install(time=0)
    page.clock.pause_at(10)  # on a busy machine it would flicker on meanwhile
    page.keyboard.press(" ")
    for value in (0, 255, 0):
        assert set(seen(page)) == {value}
        page.clock.run_for(600)
    button = page.get_by_role("button", name="Flicker").first
    assert button.get_attribute("aria-pressed") == "true"
    page.keyboard.press(" ")
    assert button.get_attribute("aria-pressed") == "false"
    assert share_of_black(page) == pytest.approx(0.5, abs=0.02)


def test_whoever_wants_little_motion_changes_it_by_hand(opened: Opened) -> None:
    page = opened(reduced_motion="reduce")
    page.clock.install()
    for value in (0, 255, 0):
        page.keyboard.press(" ")
        page.clock.run_for(5000)
        assert set(seen(page)) == {value}


def test_zoom_is_to_pixels(opened: Opened) -> None:
    page = opened()
    width, _ = SIDES

    def shown() -> float:
        return page.locator("#gallery-1 .image.open .view.open img").first.evaluate(
            "e => e.getBoundingClientRect().width"
        )

    fitting = shown()
    assert fitting % width == 0
    page.keyboard.press("+")
    assert shown() > fitting
    assert page.locator("#gallery-1 .zoom").inner_text() == f"{shown() / width:.0%}"
    page.keyboard.press("0")
    assert shown() == fitting
    for _ in range(20):
        page.keyboard.press("-")
    assert shown() == width / 4
    style = page.locator("#gallery-1 .image.open .view.open img").first.evaluate(
        "e => getComputedStyle(e).imageRendering"
    )
    page.get_by_role("button", name="Larger").first.click(click_count=2)
    assert (style, shown()) == ("auto", width)  # smaller than it is, it is smoothed
    style = page.locator("#gallery-1 .image.open .view.open img").first.evaluate(
        "e => getComputedStyle(e).imageRendering"
    )
    assert style == "pixelated"


def test_images_change_by_keys_buttons_and_list(opened: Opened) -> None:
    page = opened()
    assert heading(page) == "a"
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("j")  # there is no fourth
    assert heading(page) == "c"
    page.keyboard.press("k")
    assert heading(page) == "b"
    page.get_by_role("button", name="Next image").first.click()
    assert heading(page) == "c"
    page.get_by_role("link", name="a", exact=True).click()
    assert heading(page) == "a"
    assert page.locator("#gallery-1 tr[aria-current]").inner_text().split() == ["a", "0"]
    assert page.locator("#gallery-1 .place").inner_text() == "1 of 3"


def test_views_change_and_stay_from_image_to_image(opened: Opened) -> None:
    page = opened()
    page.get_by_role("button", name="Noise").first.click()
    assert set(seen(page)) == {128}
    page.keyboard.press("j")
    assert set(seen(page)) == {128}
    assert page.get_by_role("button", name="Flicker").first.is_disabled()
    page.keyboard.press("1")
    assert share_of_black(page) == pytest.approx(0.5, abs=0.02)


def test_keys_are_for_the_list_in_which_the_focus_is(opened: Opened) -> None:
    page = opened()
    stage(page, 2).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("2")
    assert set(seen(page, 2)) == {128}
    assert share_of_black(page) == pytest.approx(0.5, abs=0.02)


def test_an_address_names_an_image(opened: Opened) -> None:
    page = opened()
    page.evaluate("location.hash = 'image-1-2'")
    page.wait_for_function("document.querySelector('#image-1-2').classList.contains('open')")
    assert heading(page) == "b"


@pytest.mark.parametrize("options", [{}, {"java_script_enabled": False}], ids=["printed", "without scripts"])
def test_both_pictures_are_side_by_side(opened: Opened, options: dict[str, bool]) -> None:
    page = opened(**options)
    if not options:
        page.emulate_media(media="print")
    boxes = [
        [image.bounding_box() for image in article.locator(".view.pair img").all()]
        for article in page.locator("article.image").all()
    ]
    assert len(boxes) == 4  # all images, not only those that are open
    for before, after in boxes:
        assert before
        assert after
        assert before["y"] == after["y"]
        assert before["x"] + before["width"] <= after["x"]
    assert not page.locator(".bar").first.is_visible()


@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_is_wider_than_the_screen(opened: Opened, width: int) -> None:
    page = opened(viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(opened: Opened, scheme: str) -> None:
    """By the contrast of WCAG 2.2: 4.5 for text, on the ground that it has, in either scheme."""
    page = opened(color_scheme=scheme)
    for name, least in (("h1", 7), (".order", 4.5), (".view.open figcaption", 4.5), (".tabs button", 4.5)):
        ink, ground = page.locator(name).first.evaluate(
            """element => {
                let ground = element;
                while (getComputedStyle(ground).backgroundColor === "rgba(0, 0, 0, 0)") ground = ground.parentElement;
                return [getComputedStyle(element).color, getComputedStyle(ground).backgroundColor];
            }"""
        )
        assert contrast(ink, ground) >= least, (name, ink, ground)


def contrast(*colours: str) -> float:
    low, high = sorted(map(luminance, colours))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_everything_that_can_be_used_has_a_name(opened: Opened) -> None:
    page = opened()
    for kind in ("button", "input", "[tabindex]", "[role]"):
        for element in page.locator(kind).all():
            name = element.get_attribute("aria-label") or element.inner_text()
            assert name.strip(), element.evaluate("e => e.outerHTML")
