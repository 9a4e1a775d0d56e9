"""The page is one document: complete, escaped, and with nothing in it that asks for anything else."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, time, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest

from storage import Storage
from storage.reporting.figures import read_figures
from storage.reporting.page.document import render
from storage.reporting.page.markup import element, name, raw, text
from storage.reporting.page.numbers import axis_money, percent, short_count, short_money, size, ticks
from storage.reporting.periods import MOST, periods, span
from tests.databases import MASTER_KEY
from tests.reporting.filled import ADA, HOSTILE, HOSTILE_USER, fill
from tests.reporting.rows import conversation, file, save

VOID = {"meta", "link", "wbr"}


class Outline(HTMLParser):
    """Reads a page strictly: what is opened is closed, ids are unique; keeps the elements and texts."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["script"], ["style"]):
            self.texts.append(data)


def outline(page: str) -> Outline:
    parsed = Outline()
    parsed.feed(page)
    parsed.close()
    assert parsed.open == []
    return parsed


@pytest.fixture
async def storage(sqlite_url: str, tmp_path: Path) -> AsyncIterator[Storage]:
    options = {"data_dir": tmp_path, "master_key": MASTER_KEY, "webhook_delivery": False}
    async with Storage.open(sqlite_url, **options) as opened:
        yield opened


@pytest.fixture
async def page(storage: Storage) -> str:
    await fill(storage)
    return render(await read_figures(storage.database))


def test_everything_that_is_opened_is_closed_and_ids_are_unique(page: str) -> None:
    parsed = outline(page)
    ids = [about["id"] for _, about in parsed.elements if "id" in about]
    assert len(ids) == len(set(ids))
    for _, about in parsed.elements:
        if "aria-labelledby" in about:
            assert about["aria-labelledby"] in ids


def test_what_is_stored_is_text_and_never_markup(page: str) -> None:
    parsed = outline(page)
    assert [tag for tag, _ in parsed.elements].count("script") == 1
    assert not any(tag in ("img", "b", "iframe") and about for tag, about in parsed.elements)
    assert not any(attribute.startswith("on") for _, about in parsed.elements for attribute in about)
    whole = "".join(parsed.texts)
    assert HOSTILE in whole
    assert HOSTILE_USER in whole


def test_nothing_is_loaded_and_only_what_is_ours_may_run(page: str) -> None:
    parsed = outline(page)
    [policy] = [about["content"] for _, about in parsed.elements if about.get("http-equiv")]
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        [content] = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        assert f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'" in policy
    # An inline style would need 'unsafe-inline'; an address would need the network.
    assert not any("style" in about for _, about in parsed.elements)
    assert [about["href"] for _, about in parsed.elements if "href" in about] == ["data:,"]
    assert not any("src" in about for _, about in parsed.elements)
    assert "http" not in page.replace(text(HOSTILE), "").replace("https://<wbr>", "").replace("http-equiv", "")


def test_addresses_of_web_hooks_are_shown_without_what_may_be_secret(page: str) -> None:
    assert "ops.<wbr>example.<wbr>com" in page
    assert "canary" not in page
    assert "secret-path" not in page


def test_the_tables_of_the_charts_hold_the_figures(page: str) -> None:
    rows = re.findall(r"<tr>.*?</tr>", page.partition('id="cost-table"')[2].partition("</table>")[0])
    heads = re.sub(r"<wbr>|<bdi>|</bdi>", "", rows[0])
    assert heads.count("<th") == 1 + 5 + 1 + 1 + 1, "a period, five models, the other two, the total, conversations"
    totals = [re.findall(r"<td[^>]*>(.*?)</td>", row)[-2:] for row in rows[1:]]
    assert sum(float(total.removeprefix("$")) for total, _ in totals) == pytest.approx(0.125 * 231, abs=0.01 * 61)
    assert sum(int(number) for _, number in totals) == 21
    assert len(rows) - 1 == 61, "one line for each day from the second of March to the first of May"


async def test_one_users_page_has_nothing_of_others(storage: Storage) -> None:
    await fill(storage)
    page = render(await read_figures(storage.database, ADA))
    assert "eve&lt;" not in page
    assert "onmouseover" not in page
    assert "Usage report: ada" in page
    assert 'id="users"' not in page, "there is nobody to compare with"


async def test_a_page_of_nothing_says_so(storage: Storage) -> None:
    page = render(await read_figures(storage.database))
    outline(page)
    for said in ("nothing stored yet", "No conversations", "No tokens counted", "No files", "No web hooks"):
        assert said in page


async def test_the_page_stays_small_whatever_there_are_of_each(storage: Storage) -> None:
    many = [
        conversation(
            f"user-{number}",
            f"c{number}",
            title=f"{number} " + "long " * 100,
            llm_model=f"model-{number}",
            selected_repository=f"acme/{number}",
            trigger=f"trigger-{number}",
            accumulated_cost=float(number % 97),
        )
        for number in range(1_000)
    ]
    await save(storage, *many)
    page = render(await read_figures(storage.database))
    assert len(page) < 100_000
    for said in ("995 other models", "992 others", "The 20 most expensive of 1,000"):
        assert said in page


async def test_numbers_that_no_sum_can_hold_break_nothing(storage: Storage) -> None:
    huge = {"total_tokens": 2**63 - 1, "prompt_tokens": 2**63 - 1, "completion_tokens": 2**63 - 1}
    costs = (1.7e308, 1.7e308, float("inf"), -5.0)
    rows = [
        conversation(ADA, f"c{number}", accumulated_cost=cost, llm_model=f"m{number % 2}", **huge)
        for number, cost in enumerate(costs)
    ]
    days = (date(1, 1, 1), date(9999, 12, 31))
    ends = [conversation(ADA, f"d{day.year}", created_at=datetime.combine(day, time(12), UTC)) for day in days]
    await save(storage, *rows, *ends, file(ADA, "f", 2**63 - 1), file(ADA, "g", 2**63 - 1))
    page = render(await read_figures(storage.database))
    outline(page)
    assert "1 Jan 1 – 31 Dec 9999" in page  # noqa: RUF001 - an en dash
    assert "nan" not in page


# ---- numbers, periods, markup


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (9_999, "9,999"),
        (10_000, "10k"),
        (12_345, "12.3k"),
        (999_999, "1M"),
        (4_567_890, "4.57M"),
        (1e9, "1B"),
    ],
)
def test_counts_are_short_where_there_is_little_room(value: float, shown: str) -> None:
    assert short_count(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "$0"), (0.001, "<$0.01"), (0.02, "$0.02"), (45.6, "$45.60"), (1234.4, "$1,234"), (12_345, "$12.3k")],
)
def test_money_is_short_where_there_is_little_room(value: float, shown: str) -> None:
    assert short_money(value) == shown


def test_an_axis_of_tiny_amounts_tells_its_lines_apart() -> None:
    lines = [axis_money(line) for line in ticks(0.0031, whole=False)]
    assert lines == ["$0", "$0.001", "$0.002", "$0.003", "$0.004"]


def test_sizes_are_in_units_of_a_thousand() -> None:
    assert [size(value) for value in (0, 999, 1_000, 1_234_567, 999_999_999)] == [
        "0 B",
        "999 B",
        "1 kB",
        "1.23 MB",
        "1 GB",
    ]


def test_a_share_is_all_only_of_all() -> None:
    assert [percent(*pair) for pair in ((1, 0), (0, 5), (1, 1000), (999, 1000), (5, 5))] == [
        "0%",
        "0%",
        "<1%",
        "99%",
        "100%",
    ]


@pytest.mark.parametrize("highest", [1e-9, 0.003, 0.9, 1, 3, 4, 7, 99, 100, 101, 1234, 2**63])
def test_an_axis_is_round_covers_all_and_has_few_lines(highest: float) -> None:
    lines = ticks(highest, whole=False)
    assert lines[0] == 0
    assert lines[-1] >= highest * (1 - 1e-9)
    assert 2 <= len(lines) <= 5


def test_what_is_counted_has_no_halves_on_its_axis() -> None:
    assert ticks(1, whole=True) == [0, 1]
    assert ticks(2, whole=True) == [0, 1, 2]


@pytest.mark.parametrize(
    ("days", "unit"),
    [(1, "day"), (62, "day"), (63, "week"), (400, "week"), (1_000, "month"), (3_000, "quarter"), (20_000, "year")],
)
def test_days_are_put_together_until_bars_can_be_told_apart(days: int, unit: str) -> None:
    first = date(2020, 2, 29)
    found = periods(first, first + timedelta(days - 1))
    assert found.unit == unit
    assert len(found.starts) <= MOST
    for number in range(0, days, 7):
        day = first + timedelta(number)
        index = found.index(day)
        assert found.starts[index] <= day
        assert index + 1 == len(found.starts) or day < found.starts[index + 1]


def test_all_days_that_there_are_have_a_place() -> None:
    found = periods(date.min, date.max)
    assert found.index(date.min) == 0
    assert found.index(date.max) == len(found.starts) - 1


def test_a_span_names_months_and_years_once() -> None:
    assert span(date(2026, 3, 2), date(2026, 3, 2)) == "2 Mar 2026"
    assert span(date(2026, 3, 2), date(2026, 3, 9)) == "2\N{EN DASH}9 Mar 2026"
    assert span(date(2026, 3, 2), date(2026, 4, 9)) == "2 Mar \N{EN DASH} 9 Apr 2026"
    assert span(date(2025, 3, 2), date(2026, 4, 9)) == "2 Mar 2025 \N{EN DASH} 9 Apr 2026"


def test_control_characters_and_halves_of_pairs_are_replaced() -> None:
    assert text("a\x00b\x1b[2J\ud800") == "a\ufffdb\ufffd[2J\ufffd"
    element("p", "\ud800").encode()


def test_names_break_after_separators_and_nowhere_else() -> None:
    assert name("acme/a.b") == "<bdi>acme/<wbr>a.<wbr>b</bdi>"
    assert name("https://x") == "<bdi>https://<wbr>x</bdi>"
    assert name("&/<") == "<bdi>&amp;/<wbr>&lt;</bdi>"


def test_an_own_script_that_would_end_early_is_a_bug() -> None:
    with pytest.raises(ValueError, match="end early"):
        raw("script", "'</script>'")
