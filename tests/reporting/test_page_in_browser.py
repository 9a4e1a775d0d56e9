"""The page in a real browser: on a phone and a desk, light and dark, by mouse and by keyboard, without complaints."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from storage import Storage
from storage.reporting.figures import read_figures
from storage.reporting.page.document import render
from tests.databases import MASTER_KEY
from tests.reporting.browser import CHROMIUM, Browser
from tests.reporting.filled import fill

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium")

PHONE, DESK = 390, 1280

FAINT = """(() => {
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => {
    const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = channels(color).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if ((channels(color)[3] ?? 1) > 0) return color;
    }
  };
  const faint = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || ["SCRIPT", "STYLE"].includes(element.tagName)) continue;
    const style = getComputedStyle(element);
    const color = element.tagName === "text" ? style.fill : style.color;
    const [low, high] = [light(color), light(ground(element))].sort((a, b) => a - b);
    const contrast = (high + 0.05) / (low + 0.05);
    if (contrast < 4.5) faint.push([element.tagName, element.textContent.slice(0, 30), contrast]);
  }
  return faint;
})()"""
"""Texts whose contrast to what is behind them is below what WCAG 2.2 (1.4.3) asks for."""

OVERLAPPING = """(() => {
  const overlapping = [];
  for (const drawing of document.querySelectorAll(".plot > svg")) {
    const shown = [...drawing.querySelectorAll("text")].filter((text) => text.getClientRects().length);
    const boxes = shown.map((text) => [text.textContent, text.getBoundingClientRect()]);
    for (const [place, [name, box]] of boxes.entries()) {
      if (box.left < 0 || box.right > innerWidth) overlapping.push([name, "beyond the edge"]);
      for (const [other, next] of boxes.slice(place + 1)) {
        const beside = box.right <= next.left || next.right <= box.left;
        const above = box.bottom <= next.top + 2 || next.bottom <= box.top + 2;
        if (!beside && !above) overlapping.push([name, other]);
      }
    }
  }
  return overlapping;
})()"""

ROW = (
    "[...[...document.querySelectorAll('#cost-table tbody tr')].at({}).cells].map((cell) => cell.textContent).join(' ')"
)


@pytest.fixture(scope="module")
def page(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a page, in a file."""
    folder = tmp_path_factory.mktemp("page")
    database = shutil.copy(sqlite_template, folder / "storage.db")

    async def make() -> str:
        options: dict[str, Any] = {"data_dir": folder, "master_key": MASTER_KEY, "webhook_delivery": False}
        async with Storage.open(f"sqlite:///{database}", **options) as storage:
            await fill(storage)
            return render(await read_figures(storage.database))

    file = folder / "report.html"
    file.write_text(asyncio.run(make()), encoding="utf-8")
    return file.as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, 768, DESK, 1920])
def test_it_fits_can_be_read_and_complains_of_nothing(browser: Browser, page: str, width: int, dark: bool) -> None:
    browser.open(page, width=width, dark=dark)
    assert browser.complaints == []
    assert browser.requests == [page], "it asks for nothing but itself"
    assert browser.run("document.documentElement.scrollWidth") == width, "nothing goes beyond the edge"
    assert browser.run(FAINT) == []
    assert browser.run(OVERLAPPING) == []


def test_dark_is_dark_and_light_is_light(browser: Browser, page: str) -> None:
    grounds = []
    for dark in (False, True):
        browser.open(page, width=DESK, dark=dark)
        grounds.append(browser.run("getComputedStyle(document.documentElement).backgroundColor"))
    assert grounds == ["rgb(245, 246, 248)", "rgb(15, 17, 20)"]


def test_nothing_that_is_stored_runs(browser: Browser, page: str) -> None:
    browser.open(page, width=DESK)
    assert browser.run("window.broken === undefined")
    assert browser.run("document.querySelectorAll('main img, main script, bdi *:not(wbr)').length") == 0
    # Also what a script would put there does not: the policy has the last word.
    browser.run("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.broken = 4\">')")
    browser.run("new Promise((done) => setTimeout(done, 50))")
    assert browser.run("window.broken === undefined")
    assert any("Content Security Policy" in complaint for complaint in browser.complaints)


def test_the_pointer_shows_what_the_table_says(browser: Browser, page: str) -> None:
    browser.open(page, width=DESK)
    x, y, width = browser.run(
        "(({x, y, width}) => [x, y, width])(document.querySelector('#cost .plot > svg').getBoundingClientRect())"
    )
    number = browser.run("document.querySelectorAll('#cost-table tbody tr').length")
    for index in (0, number // 2, number - 1):
        browser.point(x + width * (index + 0.5) / number, y + 40)
        shown = browser.run("document.querySelector('#cost .tip').innerText").split()
        row = browser.run(ROW.format(index)).split()
        assert shown[:3] == row[:3], "the day"
        assert row[-2] in shown, "the total"
        left, right = browser.run(
            "(({left, right}) => [left, right])(document.querySelector('#cost .tip').getBoundingClientRect())"
        )
        assert left >= 0
        assert right <= DESK
    browser.point(1, 1)
    assert browser.run("document.querySelector('#cost .tip').hidden")


def test_the_arrow_keys_go_through_a_chart(browser: Browser, page: str) -> None:
    browser.open(page, width=PHONE)
    browser.run("document.querySelector('#cost .plot').focus()")
    seen = []
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "End", "Home"):
        browser.press(key)
        seen.append(browser.run("document.querySelector('#cost .tip strong').innerText"))
    assert seen == ["2 Mar 2026", "3 Mar 2026", "2 Mar 2026", "1 May 2026", "2 Mar 2026"]
    browser.press("Escape")
    assert browser.run("document.querySelector('#cost .tip').hidden")


def test_every_control_is_reached_by_tab_and_has_a_name(browser: Browser, page: str) -> None:
    browser.open(page, width=DESK)
    reached = set()
    for _ in range(200):
        browser.press("Tab")
        what = browser.run("document.activeElement.className || document.activeElement.tagName")
        if what == "BODY":
            break
        reached.add(what)
    assert {"plot", "SUMMARY", "scroll", "BUTTON"} <= reached
    tree = browser.call("Accessibility.getFullAXTree")["nodes"]
    for node in tree:
        role = node.get("role", {}).get("value")
        if role in ("button", "region", "columnheader", "rowheader", "heading") and not node.get("ignored"):
            assert node.get("name", {}).get("value"), node
    charts = [node["name"]["value"] for node in tree if node.get("role", {}).get("value") == "group"]
    assert sum("The same figures are in the table that follows" in named for named in charts) == 4


def test_tables_are_sorted_by_a_click_and_say_so(browser: Browser, page: str) -> None:
    browser.open(page, width=DESK)
    head = "[...document.querySelectorAll('#models thead th')].find((head) => head.innerText.startsWith('{}'))"
    column = "[...document.querySelectorAll('#models tbody tr')].map((row) => row.cells[{}].innerText)"
    costs = browser.run(column.format(1))
    assert costs == sorted(costs, key=lambda cost: -float(cost.removeprefix("$")))
    browser.run(f"{head.format('Tokens')}.querySelector('button').click()")
    tokens = [int(number.replace(",", "")) for number in browser.run(column.format(4))]
    assert tokens == sorted(tokens, reverse=True)
    assert browser.run(f"{head.format('Tokens')}.ariaSort") == "descending"
    assert browser.run(f"{head.format('Cost')}.ariaSort") is None
    browser.run(f"{head.format('Tokens')}.querySelector('button').click()")
    assert [int(number.replace(",", "")) for number in browser.run(column.format(4))] == tokens[::-1]
    browser.run(f"{head.format('Model')}.querySelector('button').click()")
    names = browser.run(column.format(0))
    assert names[1:] == [f"provider/model-{number}" for number in range(6)]


def test_without_scripts_all_of_it_is_there(browser: Browser, page: str) -> None:
    browser.open(page, width=DESK, script=False)
    assert browser.complaints == []
    # Only what is ours does not run; the browser's own question is answered.
    tree = browser.call("DOM.getDocument", depth=-1)["root"]
    found = browser.call("DOM.querySelectorAll", nodeId=tree["nodeId"], selector="details table")["nodeIds"]
    assert len(found) == 4
    assert browser.call("DOM.querySelectorAll", nodeId=tree["nodeId"], selector="button, .tip")["nodeIds"] == []
