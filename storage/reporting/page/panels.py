"""The page's charts: what each is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import date
from itertools import accumulate
from operator import attrgetter
from typing import Final, TypeVar

from storage.reporting.figures import Figures, Webhook
from storage.reporting.page.charts import Chart, Series, area, share_bar, stacked_bars
from storage.reporting.page.markup import Html, element, name
from storage.reporting.page.numbers import COUNT, MONEY, SIZE, count, money
from storage.reporting.page.rankings import name_or_none, quiet
from storage.reporting.periods import Periods, periods

T = TypeVar("T")

COLOURS: Final = 5
"""Models with a colour of their own; more than that nobody tells apart. The rest are one, in grey."""

_GREY: Final = "s5"

_TRIGGERS: Final = 8
"""Lines of the panel at most; the rest are one."""


def panels(figures: Figures) -> list[Html]:
    """The charts, each in a section."""
    drawn = (_cost, _tokens, _triggers, _storage, _deliveries, _endpoints)
    return [section for section in (draw(figures) for draw in drawn) if section is not None]


def _cost(figures: Figures) -> Html:
    title = "Cost over time, by model"
    if not figures.by_day:
        return _empty("cost", title, "No conversations", wide=True)
    covered = _covered([one.day for one in figures.by_day])
    named = [line.name for line in figures.models[:COLOURS]]
    # One that is left over is better named than called others.
    others = figures.models[COLOURS:]
    if len(others) == 1:
        named.append(others[0].name)
    colours = {model: f"s{place}" for place, model in enumerate(named)}
    series = [
        Series(
            model or "no model",
            colours[model],
            _summed(covered, (one for one in figures.by_day if one.model == model), lambda one: one.usage.cost_usd),
        )
        for model in named
    ]
    if len(others) > 1:
        rest = (one for one in figures.by_day if one.model not in colours)
        series.append(
            Series(f"{len(others):,} other models", _GREY, _summed(covered, rest, lambda one: one.usage.cost_usd))
        )
    conversations = _summed(covered, figures.by_day, lambda one: one.usage.conversations)
    chart = Chart(
        key="cost",
        title=title,
        about=f"US dollars by {covered.unit}",
        series=series,
        periods=covered,
        measure=MONEY,
        total="Total" if len(series) > 1 else None,
        further=((Series("Conversations", "", conversations), COUNT),),
        wide=True,
    )
    return stacked_bars(chart)


def _tokens(figures: Figures) -> Html:
    title = "Tokens over time"
    if not figures.usage.prompt_tokens and not figures.usage.completion_tokens:
        return _empty("tokens", title, "No tokens counted")
    covered = _covered([one.day for one in figures.by_day])
    used = figures.by_day
    prompt = _summed(covered, used, lambda one: one.usage.prompt_tokens)
    # Cached tokens are among the prompt's; some providers count them apart, and then there is nothing besides.
    cached = [
        min(pair) for pair in zip(_summed(covered, used, lambda one: one.usage.cache_read_tokens), prompt, strict=True)
    ]
    chart = Chart(
        key="tokens",
        title=title,
        about=f"Sent to models and written by them, by {covered.unit}",
        series=(
            Series("Prompt, from cache", "s0", cached),
            Series("Prompt, other", "s1", [all_ - part for all_, part in zip(prompt, cached, strict=True)]),
            Series("Completion", "s2", _summed(covered, used, lambda one: one.usage.completion_tokens)),
        ),
        periods=covered,
        measure=COUNT,
        total="Total",
    )
    return stacked_bars(chart)


def _triggers(figures: Figures) -> Html:
    title = "Conversations by trigger"
    if not figures.triggers:
        return _empty("triggers", title, "No conversations")
    lines = [(line.name, line.usage) for line in figures.triggers[:_TRIGGERS]]
    rest = figures.triggers[_TRIGGERS:]
    most = max(used.conversations for _, used in lines)
    rows = [
        element(
            "tr",
            element("th", name_or_none(trigger), scope="row"),
            element("td", share_bar((("s0", used.conversations),), most), class_="bar"),
            element("td", count(used.conversations), class_="n"),
            element("td", money(used.cost_usd), class_="n"),
        )
        for trigger, used in lines
    ]
    if rest:
        number = sum(line.usage.conversations for line in rest)
        rows.append(
            element(
                "tr",
                element("th", f"{len(rest):,} others", scope="row"),
                element("td", share_bar(((_GREY, min(number, most)),), most), class_="bar"),
                element("td", count(number), class_="n"),
                element("td", money(sum(line.usage.cost_usd for line in rest)), class_="n"),
            )
        )
    head = _head("Trigger", "", "Conversations", "Cost")
    return _section("triggers", title, "What began them", _scroll(title, head, rows))


def _storage(figures: Figures) -> Html:
    title = "Storage growth"
    if not figures.storage:
        return _empty("storage", title, "No files")
    covered = _covered([one.day for one in figures.storage])
    total = list(accumulate(_summed(covered, figures.storage, lambda one: one.bytes)))
    files = list(accumulate(_summed(covered, figures.storage, lambda one: one.files)))
    chart = Chart(
        key="storage",
        title=title,
        about=f"All files stored now, by the {covered.unit} they were first written",
        series=(Series("Bytes", "s0", total),),
        periods=covered,
        measure=SIZE,
        further=((Series("Files", "", files), COUNT),),
    )
    return area(chart)


def _deliveries(figures: Figures) -> Html:
    title = "Web hook deliveries"
    if not figures.webhook_count:
        return _empty("deliveries", title, "No web hooks")
    if not figures.deliveries:
        return _empty("deliveries", title, "Nothing to deliver yet")
    covered = _covered([day.day for day in figures.deliveries])
    chart = Chart(
        key="deliveries",
        title=title,
        about=f"Events that are still kept, by {covered.unit}",
        series=[
            Series(named, colour, _summed(covered, figures.deliveries, attrgetter(state)))
            for state, named, colour in _STATES
        ],
        periods=covered,
        measure=COUNT,
        total="Total",
    )
    return stacked_bars(chart)


def _endpoints(figures: Figures) -> Html | None:
    if not figures.webhook_count:
        return None
    title = "Web hooks"
    about = f"All {count(figures.webhook_count)}"
    if figures.webhook_count > len(figures.webhooks):
        about = f"The {count(len(figures.webhooks))} with the most dead and waiting events of {figures.webhook_count:,}"
    rows = [_endpoint_row(hook) for hook in figures.webhooks]
    head = _head("Endpoint", "", "Delivered", "Waiting", "Dead", "State", "Of", "Last delivered")
    return _section("endpoints", title, about, _scroll(title, head, rows), wide=True)


_STATES: Final = (("delivered", "Delivered", "s2"), ("pending", "Waiting", "s4"), ("dead", "Dead", "bad"))


def _endpoint_row(hook: Webhook) -> Html:
    parts = [(colour, float(getattr(hook, state))) for state, _, colour in _STATES]
    well = hook.state == "active" and not hook.dead
    last = hook.last_delivered_at
    when = element("time", f"{last:%Y-%m-%d %H:%M}", datetime=last.isoformat()) if last else quiet("never")
    return element(
        "tr",
        element("th", name(hook.origin), scope="row"),
        element("td", share_bar(parts, sum(value for _, value in parts)), class_="bar"),
        *(element("td", count(value), class_="n") for _, value in parts),
        element("td", hook.state, class_=None if well else "poor"),
        element("td", quiet("operator") if hook.user_id is None else name(hook.user_id)),
        element("td", when),
    )


def _covered(days: Sequence[date]) -> Periods:
    return periods(min(days), max(days))


def _summed(covered: Periods, rows: Iterable[T], value: Callable[[T], float]) -> list[float]:
    """The sum of each period's rows, which have a day."""
    sums: list[float] = [0] * len(covered.starts)
    for row in rows:
        day: date = row.day  # type: ignore[attr-defined]
        sums[covered.index(day)] += value(row)
    return sums


_NUMBERS: Final = ("Conversations", "Cost", *(named for _, named, _ in _STATES))


def _head(*titles: str) -> Html:
    first, *rest = titles
    cells = [element("th", first, scope="col")]
    for title in rest:
        if title:
            cells.append(element("th", title, scope="col", class_="n" if title in _NUMBERS else None))
        else:
            cells.append(element("td", class_="bar"))
    return element("thead", element("tr", *cells))


def _scroll(title: str, head: Html, rows: Sequence[Html]) -> Html:
    table = element("table", head, element("tbody", *rows), class_="bars")
    return element("div", table, class_="scroll", tabindex=0, role="region", aria_label=title)


def _section(key: str, title: str, about: str, *content: Html, wide: bool = False) -> Html:
    return element(
        "section",
        element("h2", title, id=f"{key}-title"),
        element("p", about, class_="about"),
        *content,
        class_="panel wide" if wide else "panel",
        aria_labelledby=f"{key}-title",
        id=key,
    )


def _empty(key: str, title: str, what: str, *, wide: bool = False) -> Html:
    return _section(key, title, "", element("p", what, class_="empty"), wide=wide)
