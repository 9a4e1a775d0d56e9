"""The page's tables: what was used by model, repository, user and conversation. A script lets people sort them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from storage.reporting.figures import TOP, Dearest, Figures, Named, Usage
from storage.reporting.page.markup import Html, element, name
from storage.reporting.page.numbers import count, money, percent

NOTHING: Final = "none"
"""How an absent name reads."""


@dataclass(frozen=True, slots=True)
class _Cell:
    """What is shown, and for a number what it is sorted by."""

    shown: Html | str
    number: float | None = None


@dataclass(frozen=True, slots=True)
class _Column:
    title: str
    number: bool = False
    sorted: bool = False


def rankings(figures: Figures) -> list[Html]:
    """The tables, each in a section."""
    whole = figures.usage
    sections = [
        _section(
            "models",
            "Models",
            _shown(len(figures.models[:TOP]), len(figures.models), "most expensive"),
            _usage_columns("Model"),
            [_usage_row(line, whole) for line in figures.models[:TOP]],
            wide=True,
        ),
        _section(
            "repositories",
            "Repositories",
            _shown(len(figures.repositories), figures.repository_count, "most expensive"),
            _short_columns("Repository"),
            [_short_row(line) for line in figures.repositories],
        ),
        _section(
            "users",
            "Users",
            _shown(len(figures.people), figures.users, "most expensive"),
            _short_columns("User"),
            # Of one user there is nobody to compare with.
            [_short_row(line) for line in figures.people if figures.user_id is None],
        ),
        _section(
            "conversations",
            "Most expensive conversations",
            _shown(len(figures.dearest), whole.conversations, "most expensive"),
            (
                _Column("Title"),
                _Column("Cost", number=True, sorted=True),
                _Column("Tokens", number=True),
                _Column("Began"),
                _Column("User"),
                _Column("Repository"),
                _Column("Model"),
            ),
            [_dearest_row(one) for one in figures.dearest],
            wide=True,
        ),
    ]
    return [section for section in sections if section is not None]


def name_or_none(value: str | None) -> Html:
    """A stored name; an absent one is said to be so."""
    return name(value) if value else quiet(NOTHING)


def quiet(words: str) -> Html:
    """What stands where something else could."""
    return element("span", words, class_="quiet")


def _shown(shown: int, number: int, which: str) -> str:
    return f"All {number:,}" if shown == number else f"The {shown:,} {which} of {number:,}"


def _usage_columns(title: str) -> tuple[_Column, ...]:
    return (
        _Column(title),
        _Column("Cost", number=True, sorted=True),
        _Column("Share of cost", number=True),
        _Column("Conversations", number=True),
        _Column("Tokens", number=True),
        _Column("Prompt", number=True),
        _Column("Prompt, from cache", number=True),
        _Column("Completion", number=True),
    )


def _usage_row(line: Named, whole: Usage) -> list[_Cell]:
    used = line.usage
    return [
        _Cell(name_or_none(line.name)),
        _Cell(money(used.cost_usd), used.cost_usd),
        _Cell(percent(used.cost_usd, whole.cost_usd), used.cost_usd),
        _count(used.conversations),
        _count(used.total_tokens),
        _count(used.prompt_tokens),
        _count(used.cache_read_tokens),
        _count(used.completion_tokens),
    ]


def _short_columns(title: str) -> tuple[_Column, ...]:
    return (
        _Column(title),
        _Column("Cost", number=True, sorted=True),
        _Column("Conversations", number=True),
        _Column("Tokens", number=True),
    )


def _short_row(line: Named) -> list[_Cell]:
    used = line.usage
    return [
        _Cell(name_or_none(line.name)),
        _Cell(money(used.cost_usd), used.cost_usd),
        _count(used.conversations),
        _count(used.total_tokens),
    ]


def _dearest_row(one: Dearest) -> list[_Cell]:
    title = element("bdi", one.title, title=one.conversation_id) if one.title else element("code", one.conversation_id)
    day = one.created_day.isoformat()
    return [
        _Cell(title),
        _Cell(money(one.cost_usd), one.cost_usd),
        _count(one.total_tokens),
        _Cell(element("time", day, datetime=day)),
        _Cell(name(one.user_id)),
        _Cell(name_or_none(one.repository)),
        _Cell(name_or_none(one.model)),
    ]


def _count(value: int) -> _Cell:
    return _Cell(count(value), value)


def _section(
    key: str, title: str, about: str, columns: Sequence[_Column], rows: Sequence[Sequence[_Cell]], *, wide: bool = False
) -> Html | None:
    if not rows:
        return None
    head = [
        element(
            "th",
            column.title,
            scope="col",
            class_="n" if column.number else None,
            aria_sort="descending" if column.sorted else None,
        )
        for column in columns
    ]
    body = [
        element(
            "tr",
            *(
                element("th", cell.shown, scope="row")
                if place == 0
                else element(
                    "td", cell.shown, class_="n" if columns[place].number else None, data_value=_sort_value(cell)
                )
                for place, cell in enumerate(row)
            ),
        )
        for row in rows
    ]
    table = element("table", element("thead", element("tr", *head)), element("tbody", *body), class_="sortable")
    return element(
        "section",
        element("h2", title, id=f"{key}-title"),
        element("p", about, class_="about"),
        element("div", table, class_="scroll", tabindex=0, role="region", aria_labelledby=f"{key}-title"),
        class_="panel wide" if wide else "panel",
        id=key,
    )


def _sort_value(cell: _Cell) -> str | None:
    return None if cell.number is None else repr(cell.number)
