"""Which parts of a stored value are secret: all of a token, but of a configuration only its keys and passwords.

Sealed JSON (the configuration of MCP servers, headers, fields of applications) also holds commands, hosts and plain
words. Masking those would spoil every file that mentions them; missing a key would be worse. The rule, by what a text
stands under:

- a name that says so (`api_key`, `token`, `password`, `authorization`, `secret`, … at the end of a name), at any depth
  below it: all of it;
- `env`, `headers` and their like, and the fields that an application declared secret: all but what is plain (a word, a
  number, a path, a host, a media type, a URL without credentials) and headers such as `Content-Type`;
- anywhere: what follows a flag (`--api-key X`, `--api-key=X`), a variable (`TOKEN=X`) or a header (`Authorization: X`)
  of such a name; the password or the only user of a URL, the values of its query that are named so or look random, and
  the parts of its path that look random.

A text is also masked without an authentication scheme before it (`Bearer X`), line by line if it has several (a
private key is printed that way; PEM's first and last lines are no secret), and by the credentials in it if it is a URL
or JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

LONGEST_BY_LINES: Final = 16 * 1024
"""Longest text, in characters, of which each line is a secret of its own: holds any private key, and keeps the patterns
few."""

_SECRET_NAME: Final = re.compile(
    r"(?i:passwords?|passwd|passphrase|apikeys?)$"
    r"|(?:^|[_\-. ])(?i:key|token|secrets?|pwd|pass|pat|credentials?|authorization|auth|bearer|cookie|signature|dsn)$"
    r"|[a-z0-9](?:Key|Token|Secrets?|Credentials?|Auth)$"
    r"|(?i:(?:api|access|private|secret)[_\-.]?keys?(?:$|[_\-.])|(?:access|auth|bearer|refresh|id|session)[_\-.]?tokens?$)"
)
_HOLDS_SECRETS: Final = frozenset({"env", "environment", "headers", "http_headers", "httpheaders"})
_HARMLESS: Final = frozenset(
    {
        "name", "command", "type", "transport", "description", "timeout", "disabled", "enabled", "version",
        "accept", "accept-encoding", "accept-language", "cache-control", "connection", "content-encoding",
        "content-length", "content-type", "host", "origin", "referer", "user-agent",
    }
)  # fmt: skip

_PLAIN: Final = re.compile(
    r"[A-Z]?[a-z]{1,15}|[A-Z]{1,16}"  # a word
    r"|[+-]?[0-9][0-9.,:_-]{0,9}|v?[0-9]+(?:\.[0-9]+){1,3}"  # a number, a date, a version
    r"|(?:[a-z0-9-]+\.)+[a-z]{2,}(?::[0-9]{1,5})?|localhost(?::[0-9]{1,5})?"  # a host
    r"|[a-z]+/[a-z0-9.+*-]+(?:;[^,]*)?(?:, *[a-z]+/[a-z0-9.+*-]+(?:;[^,]*)?)*"  # media types
)
_PATH: Final = re.compile(r"(?:~|\.{1,2})?/.*|[A-Za-z]:\\.*")
_RANDOM: Final = re.compile(r"(?=.*[0-9])(?=.*[A-Za-z])[A-Za-z0-9_.~=+-]{16,}")
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
_SCHEME: Final = re.compile(r"(?:Bearer|Basic|Token|ApiKey|Digest|Negotiate) +(\S.*)", re.IGNORECASE)
_FLAG: Final = re.compile(r"-{1,2}([A-Za-z][A-Za-z0-9_.-]*)(?:=(.+))?", re.DOTALL)
_ASSIGNMENT: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_.-]*)(?:=|: *)(.+)", re.DOTALL)
_ARMOUR: Final = re.compile(r"-----.*-----|(.)\1*")


def in_text(text: str) -> Iterator[str]:
    """What to mask of a text that is a secret as a whole: itself, its lines, and the credentials in it."""
    yield text
    if text != text.strip():
        yield text.strip()
    scheme = _SCHEME.fullmatch(text.strip())
    if scheme is not None:
        yield scheme.group(1)
    yield from _in_url(text.strip())
    structure = _structure(text)
    if structure is not None:
        yield from in_json(structure)
    elif len(text) <= LONGEST_BY_LINES:
        lines = [line.strip() for line in text.splitlines()]
        if len(lines) > 1:
            yield from (line for line in lines if line and not _ARMOUR.fullmatch(line))


def in_json(value: Any, *, declared: bool = False) -> Iterator[str]:
    """What to mask of a JSON value.

    Args:
        value: the value.
        declared: it is an object whose fields were declared secret, or headers: see the rule.
    """
    if declared and isinstance(value, Mapping):
        for key, item in value.items():
            name = str(key)
            # A text, or a list of texts, is a secret of its own, however plain it looks.
            whole = not isinstance(item, Mapping) and name.lower() not in _HARMLESS
            yield from _below(name, item, holds=True, named=whole or _is_secret_name(name))
    else:
        yield from _below("", value, holds=declared, named=False)


def _below(name: str, value: Any, *, holds: bool, named: bool) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            below = str(key)
            inside = holds or below.lower() in _HOLDS_SECRETS
            yield from _below(below, item, holds=inside, named=named or _is_secret_name(below))
    elif isinstance(value, list | tuple):
        before = ""
        for item in value:
            flag = _FLAG.fullmatch(before)
            follows = flag is not None and flag.group(2) is None and _is_secret_name(flag.group(1))
            yield from _below(name, item, holds=holds, named=named or follows)
            before = item if isinstance(item, str) else ""
    elif isinstance(value, str):
        yield from _of_leaf(name, value, holds=holds, named=named)
    elif named and isinstance(value, int | float) and not isinstance(value, bool):
        yield json.dumps(value)


def _of_leaf(name: str, text: str, *, holds: bool, named: bool) -> Iterator[str]:
    if named:
        yield from in_text(text)
        return
    yield from _in_url(text)
    assigned = _FLAG.fullmatch(text) or _ASSIGNMENT.fullmatch(text)
    if assigned is not None and assigned.group(2) is not None:
        if _is_secret_name(assigned.group(1)):
            yield from in_text(assigned.group(2))
        else:
            yield from _in_url(assigned.group(2))
    if holds and name.lower() not in _HARMLESS and not _is_plain(text):
        yield from in_text(text)
    elif (structure := _structure(text)) is not None:
        yield from in_json(structure)


def _is_secret_name(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


def _is_plain(text: str) -> bool:
    if _PATH.fullmatch(text):  # base64 may begin with a slash
        return not any(map(_RANDOM.fullmatch, re.split(r"[/\\]", text)))
    return _PLAIN.fullmatch(text) is not None or _URL.fullmatch(text) is not None


def _in_url(text: str) -> Iterator[str]:
    """The credentials in a URL, as they stand there and decoded."""
    if not _URL.fullmatch(text):
        return
    try:
        parts = urlsplit(text)
        query = parse_qsl(parts.query)
    except ValueError:
        return
    userinfo = parts.netloc.rpartition("@")[0]
    user, colon, password = userinfo.partition(":")
    found = [password if colon and password else user]
    found += [value for name, value in query if _is_secret_name(name) or _RANDOM.fullmatch(value)]
    found += [part for part in parts.path.split("/") if _RANDOM.fullmatch(part)]
    for each in found:
        if each:
            yield each
            if (decoded := unquote(each)) != each:
                yield decoded


def _structure(text: str) -> Any:
    """The object or array that a text is, None if it is none."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
