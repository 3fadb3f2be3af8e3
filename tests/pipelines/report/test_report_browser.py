"""The report in a browser: opened from its file, without a network, clicked through, by keys too."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from report_world import EVIL, IMPROVED, SAMPLES, make_people, make_world

from pipelines.report import build_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = make_world(tmp_path_factory.mktemp("report"))
    return world.build(world.run, samples=2).page


@pytest.fixture
def page(chromium: Browser, report: Path) -> Iterator[Page]:
    yield from opened(chromium, report)


def opened(chromium: Browser, file: Path, **options) -> Iterator[Page]:
    """The file in a window of its own; afterwards nothing may have failed, or been asked of any other place."""
    context = chromium.new_context(accept_downloads=True, **options)
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text))
    page.on("dialog", lambda dialog: (problems.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: problems.append(request.url) if _elsewhere(request.url, file) else None)
    page.goto(file.as_uri())
    yield page
    context.close()
    assert not problems


def _elsewhere(url: str, file: Path) -> bool:
    return not url.startswith(("data:", "blob:", file.as_uri()))


def found(page: Page) -> str:
    return page.locator("#found").inner_text()


def fits(page: Page, where: str = "#cards") -> list[str]:
    return page.locator(f"{where} [data-fit]").evaluate_all("found => found.map((e) => e.dataset.fit)")


def tick(page: Page, word: str) -> None:
    page.locator("#filters label", has_text=re.compile(rf"^{re.escape(word)}\s*[\d,]*$")).locator("input").click()


def test_it_begins_with_the_random_ones(page: Page) -> None:
    assert found(page) == f"{SAMPLES} of {SAMPLES} samples"
    assert len(fits(page)) == SAMPLES
    kinds = page.evaluate("view.rows.map((row) => columns.picked[row])")
    assert kinds == sorted(kinds)
    assert kinds[:2] == [0, 0]


def test_filters_narrow_and_count(page: Page) -> None:
    tick(page, "loop")
    assert fits(page) == [f"people/{IMPROVED}"]
    tick(page, "static")
    assert found(page) == f"6 of {SAMPLES} samples"
    tick(page, "as before")
    assert sorted(fits(page)) == [f"people/{i}" for i in (0, 1, 3, 4, 5)]
    counts = page.locator("#filters label", has_text="loss of 100 px² or more").locator(".count").inner_text()
    assert counts == "1"  # what ticking it would find
    tick(page, "loss of 100 px² or more")
    assert fits(page) == ["people/3"]
    page.locator("#clear").click()
    assert found(page) == f"{SAMPLES} of {SAMPLES} samples"
    assert not page.locator("#filters input:checked").count()


def test_bounds_are_exact_and_leave_out_what_has_no_value(page: Page) -> None:
    loss = page.locator('fieldset[data-name="loss"] input')
    loss.first.fill("3")
    loss.first.press("Enter")
    loss.last.fill("8")
    loss.last.press("Enter")
    assert sorted(fits(page)) == ["people/0", "people/2", "people/4"]
    loss.first.fill("")
    loss.first.press("Enter")
    assert found(page) == f"5 of {SAMPLES} samples"


def test_dragging_over_a_histogram_chooses_a_range(page: Page) -> None:
    chart = page.locator('fieldset[data-name="loss"] svg')
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.6 * box["width"], middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"], middle)
    page.mouse.up()
    low, high = page.evaluate("(({ low, high }) => [low, high])(ranges.find((r) => r.name === 'loss'))")
    assert low == pytest.approx(300**0.6, rel=0.05)  # from 1 to 300 px², by logarithm
    assert high == pytest.approx(300, rel=0.01)
    assert fits(page) == ["people/3"]
    page.mouse.click(box["x"] + 5, middle)
    assert found(page) == f"{SAMPLES} of {SAMPLES} samples"


def test_search_takes_names_numbers_and_html_as_text(page: Page) -> None:
    page.keyboard.press("/")
    page.keyboard.type("people/4")
    assert fits(page) == ["people/4"]
    page.locator("#search").fill("<SCRIPT>alert")
    assert found(page) == f"{SAMPLES} of {SAMPLES} samples"
    page.locator("#search").fill("nothing like it")
    assert "No sample passes" in page.locator("#cards").inner_text()


def test_sorting_by_headings_and_by_the_list(page: Page) -> None:
    page.locator("#show-table").click()
    heading = page.locator('#table-head th[data-name="loss"]')
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    falling = ["people/3", "people/4", "people/0", "people/2", "people/5", "people/1", "people/6"]
    assert fits(page, "#table") == falling
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    assert fits(page, "#table") == [*falling[-2::-1], "people/6"]  # without a loss: last both ways
    page.locator("#sort").select_option("change")
    page.locator("#descending").click()
    assert fits(page, "#table")[0] == f"people/{IMPROVED}"


def test_one_fit_with_its_pictures_and_numbers(page: Page) -> None:
    page.locator(f'[data-fit="people/{IMPROVED}"]').click()
    detail = page.locator("#detail")
    assert detail.is_visible()
    numbers = page.locator("#numbers").inner_text()
    assert "40 → 3 px²" in numbers
    assert f"person {IMPROVED} {EVIL}" in numbers
    kinds = page.locator("#thumbnails button").evaluate_all("found => found.map((e) => e.dataset.kind)")
    assert kinds == ["photograph", "before", "now", "side"]
    images = page.locator("#detail img").evaluate_all("found => found.map((e) => e.naturalWidth)")
    assert len(images) == 5 and all(width > 100 for width in images)
    shown = {}
    for number, kind in enumerate(kinds, 1):
        page.keyboard.press(str(number))
        shown[kind] = page.locator("#stage img").get_attribute("src")
        assert page.locator('#thumbnails [aria-pressed="true"]').get_attribute("data-kind") == kind
    assert len(set(shown.values())) == 4
    page.keyboard.press("1")
    assert page.locator("#stage svg.over circle").first.is_visible()
    page.keyboard.press("k")
    assert not page.locator("#stage svg.over circle").first.is_visible()
    page.keyboard.press("Escape")
    assert not detail.is_visible()


def test_neighbours_follow_the_order_and_the_address_opens_a_fit(page: Page, report: Path) -> None:
    page.locator("#sort").select_option("loss")
    page.locator('[data-fit="people/3"]').click()
    page.keyboard.press("ArrowRight")
    assert page.locator("#detail-title").inner_text() == "people/4"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")  # there is none before the first
    assert page.locator("#detail-title").inner_text() == "people/3"
    assert page.url.endswith("#fit=people/3")
    page.keyboard.press("Escape")
    page.wait_for_function("!location.hash")
    page.goto(f"{report.as_uri()}#fit=people/6")
    page.wait_for_selector("#detail[open]")
    assert page.locator("#detail-title").inner_text() == "people/6"
    assert "no fit: too few joints" in page.locator("#numbers").inner_text()


def test_the_table_by_keys(page: Page) -> None:
    page.locator("#show-table").click()
    page.locator("#sort").select_option("sample")
    page.locator("#table-body tr[tabindex='0']").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.dataset.fit") == "people/2"
    page.keyboard.press("Enter")
    assert page.locator("#detail-title").inner_text() == "people/2"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.dataset.fit") == "people/3"
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.dataset.fit") == "people/6"


def test_what_is_not_pictured_is_drawn(chromium: Browser, tmp_path: Path) -> None:
    world = make_world(tmp_path)
    file = world.build(None, samples=1).page
    for page in opened(chromium, file):
        drawn = page.evaluate("titleOf(everyRow.find((row) => !columns.kinds[row] && hasFit(row)))")
        card = page.locator(f'[data-fit="{drawn}"]')
        assert card.locator("img").count() == 0
        assert card.locator("svg.drawing").count() == 4
        lines = card.locator(".panel.now .body line").count()
        assert lines == 16 == card.locator(".panel.photograph line").count()
        card.click()
        dots = page.locator("#stage .body ~ .keypoints circle").first
        assert dots.is_visible()
        page.keyboard.press("k")
        assert not dots.is_visible()
        assert page.locator("#stage .body line").count() == 16


def test_the_list_can_be_saved(page: Page, tmp_path: Path) -> None:
    tick(page, "loop")
    with page.expect_download() as download:
        page.locator("#save").click()
    download.value.save_as(tmp_path / "fits.csv")
    (row,) = csv.DictReader((tmp_path / "fits.csv").open())
    assert row["sample"] == str(IMPROVED)
    assert row["name"] == f"person {IMPROVED} {EVIL}"
    assert (float(row["loss"]), float(row["loss_before"])) == (3.0, 40.0)


@pytest.mark.parametrize("width", [360, 800, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_every_width(chromium: Browser, report: Path, width: int, scheme: str) -> None:
    options = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
    for page in opened(chromium, report, **options):
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.locator("button.fit").first.click()
        box = page.locator("#detail").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width


def test_it_prints(page: Page, tmp_path: Path) -> None:
    page.locator("#show-table").click()
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    assert len(page.pdf()) > 10_000


def test_ten_thousand_fits(chromium: Browser, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    losses = rng.gamma(2, 20, 9_999).astype(np.float32) + 4
    data = make_people(tmp_path, losses, improved=np.arange(0, 9_999, 3))
    done = build_report(data, None, datasets=None, output=tmp_path / "many.html", samples=2)
    assert done.size_bytes < 10e6
    for page in opened(chromium, done.page):
        page.wait_for_function("document.querySelectorAll('#cards [data-fit]').length === 12")
        assert found(page) == "10,000 of 10,000 samples"
        page.locator("#show-table").click()
        page.locator("#table-body tr[tabindex='0']").focus()
        page.keyboard.press("End")
        assert page.evaluate("document.activeElement.getAttribute('aria-rowindex')") == "10001"
        assert page.locator("#table-body tr").count() < 60
        tick(page, "loop")
        assert found(page) == f"{len(range(0, 9_999, 3)):,} of 10,000 samples"
