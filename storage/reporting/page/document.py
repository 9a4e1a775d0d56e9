"""The page as a whole: figures in, HTML out. Reads nothing but its own style and script."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import Final

from storage.reporting.figures import Figures
from storage.reporting.page.markup import Html, element, raw
from storage.reporting.page.panels import panels
from storage.reporting.page.rankings import rankings
from storage.reporting.page.tiles import tiles
from storage.reporting.periods import short_day, span
from storage.reporting.views import INTERFACE_VERSION

_NO_ICON: Final = "data:,"
"""Without one, a browser asks the server for its own."""


def render(figures: Figures) -> str:
    """A whole HTML document, which shows what it is given and asks nobody for anything."""
    style, script = _own("style.css"), _own("script.js")
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; img-src data:;"
        " base-uri 'none'; form-action 'none'"
    )
    whose = "all users" if figures.user_id is None else figures.user_id
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="referrer", content="no-referrer"),
        element("meta", name="robots", content="noindex"),
        element("link", rel="icon", href=_NO_ICON),
        element("title", f"Usage report: {whose}"),
        raw("style", style),
    )
    body = element(
        "body",
        _header(figures),
        tiles(figures),
        element("main", *panels(figures), *rankings(figures)),
        _footer(figures),
        raw("script", script),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _header(figures: Figures) -> Html:
    whose = element("bdi", "All users" if figures.user_id is None else figures.user_id)
    return element(
        "header",
        element("h1", "Usage report"),
        element("p", whose, " · ", _span(figures)),
        class_="page-head",
    )


def _span(figures: Figures) -> str:
    """The days that the page is about, or those on which there is anything."""
    days = [one.day for one in figures.by_day]
    first = figures.since or min(days, default=None)
    last = figures.until or max(days, default=None)
    if first is None or last is None:
        return "nothing stored yet"
    return span(first, last)


def _footer(figures: Figures) -> Html:
    made = figures.read_at
    return element(
        "footer",
        element(
            "p",
            "Made on ",
            element("time", f"{short_day(made.date(), year=True)} at {made:%H:%M} UTC", datetime=made.isoformat()),
            f" from the report views, version {INTERFACE_VERSION}. Days are UTC. A conversation counts on the day it"
            " began, with all it has cost since. Costs are as the agents reported them, in US dollars.",
        ),
    )


@cache
def _own(name: str) -> str:
    return files("storage.reporting.page").joinpath(name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"
