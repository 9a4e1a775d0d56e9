"""HTML that is safe by how it is made: what is not Html is escaped, and only this module makes Html of a text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from typing import Final

_VOID: Final = frozenset({"link", "meta", "wbr"})
"""Elements without an end tag."""

_SEPARATOR: Final = re.compile(r"(?<=[/._:@])(?![/._:@])")
"""Where a path, an address or a model's name may be broken; at a hyphen browsers do so themselves."""

_REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def element(name: str, /, *content: str | None, **attributes: str | float | None) -> Html:
    """An element.

    Args:
        name: such as `p`.
        content: what is in it; text is escaped, Html is not, None is left out.
        attributes: `class_` is `class`, `aria_label` is `aria-label`; None is left out. Values are escaped.
    """
    opening = "".join(
        f' {_attribute(key)}="{text(str(value))}"' for key, value in attributes.items() if value is not None
    )
    if name in _VOID:
        return Html(f"<{name}{opening}>")
    return Html(f"<{name}{opening}>{joined(content)}</{name}>")


def joined(parts: Iterable[str | None]) -> Html:
    """Texts and markup one after the other, in Html."""
    return Html("".join(part if isinstance(part, Html) else text(part) for part in parts if part is not None))


def name(value: str) -> Html:
    """A stored name: it keeps its own writing direction, and a long one is broken after a separator."""
    pieces = [text(piece) for piece in _SEPARATOR.split(value) if piece]
    return element("bdi", Html(element("wbr").join(pieces)))


def raw(name: str, content: str, **attributes: str) -> Html:
    """A `style` or `script` element of our own: nothing in it is escaped, so nothing stored may ever be."""
    if "</" in content:
        raise ValueError(f"the {name} would end early")
    return Html(f"{element(name, **attributes).removesuffix(f'</{name}>')}{content}</{name}>")


def text(value: str) -> Html:
    """A text as it looks in HTML. What no HTML document can hold (control characters) becomes a question mark."""
    if not value.isprintable():
        value = "".join(_REPLACEMENT if _is_control(sign) else sign for sign in value)
    return Html(escape(value))


def _is_control(sign: str) -> bool:
    return (sign < " " and sign not in "\t\n") or "\x7f" <= sign <= "\x9f" or "\ud800" <= sign <= "\udfff"


def _attribute(key: str) -> str:
    return key.rstrip("_").replace("_", "-")
