"""The figures at the top of the page: what was spent, used and stored, each with what helps to judge it."""

from __future__ import annotations

from datetime import date, timedelta

from storage.reporting.figures import Figures
from storage.reporting.page.markup import Html, element, joined
from storage.reporting.page.numbers import count, money, percent, short_count, short_money, size


def tiles(figures: Figures) -> Html:
    """A description list; a name, a figure and a note each."""
    used = figures.usage
    stored = sum(day.bytes for day in figures.storage)
    files = sum(day.files for day in figures.storage)
    cached = percent(used.cache_read_tokens, used.prompt_tokens)
    return element(
        "dl",
        _tile("Cost", short_money(used.cost_usd), _months(figures), exact=money(used.cost_usd)),
        _tile(
            "Conversations",
            short_count(used.conversations),
            _several(figures.users, "user") if figures.user_id is None else _several(len(figures.models), "model"),
            exact=count(used.conversations),
        ),
        _tile(
            "Tokens",
            short_count(used.total_tokens),
            f"{cached} of the prompts from cache" if used.prompt_tokens else "none yet",
            exact=count(used.total_tokens),
        ),
        _tile("Stored", size(stored), _several(files, "file"), exact=f"{count(stored)} bytes"),
        _tile("Web hooks", count(figures.webhook_count), _health(figures)),
        class_="tiles",
    )


def _tile(name: str, figure: str, note: Html | str, exact: str | None = None) -> Html:
    return element(
        "div",
        element("dt", name),
        element("dd", figure, class_="figure", title=exact),
        element("dd", note, class_="note"),
    )


def _several(number: int, noun: str) -> str:
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"


def _mean(figures: Figures) -> str:
    used = figures.usage
    return f"{money(used.cost_usd / used.conversations)} per conversation" if used.conversations else "none yet"


def _months(figures: Figures) -> Html | str:
    """This month and the last, if the page is about both and there was anything."""
    this = figures.read_at.date().replace(day=1)
    last = (this - timedelta(days=1)).replace(day=1)
    costs = _cost_of(figures, this), _cost_of(figures, last)
    if figures.since is not None or figures.until is not None or not any(costs):
        return _mean(figures)
    now, before = (
        element("span", f"{money(cost)} {which}", class_="whole")
        for cost, which in zip(costs, ("this month,", "last month"), strict=True)
    )
    return joined((now, " ", before))


def _cost_of(figures: Figures, month: date) -> float:
    return sum(one.usage.cost_usd for one in figures.by_day if one.day.replace(day=1) == month)


def _health(figures: Figures) -> Html | str:
    if not figures.webhook_count:
        return "none set up"
    unwell = figures.unwell_webhooks
    if unwell:
        return element("span", f"{count(unwell)} {'needs' if unwell == 1 else 'need'} a look", class_="poor")
    return element("span", "all well", class_="good")
