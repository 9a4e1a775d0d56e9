"""What a run leaves behind, collected by kind, and a search in it for a marker in every form that it could have taken.

Beside the secret there is a control: a text that is no secret and takes the same ways. A kind of evidence in which the
control cannot be found proves nothing about the secret.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import dataclasses
import gc
import json
import logging
import pickle
import pprint
import traceback
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from pydantic import BaseModel, Secret, TypeAdapter
from pydantic_core import to_jsonable_python
from rich.pretty import pretty_repr

from storage.encryption.envelope import SealContext
from storage.encryption.keyset import KeySet

FEWEST_BYTES = 16
"""A form that is shorter would be found by chance."""


def forms(marker: str | bytes) -> dict[str, bytes]:
    """A marker as it would look in files and texts, by name; each a part that does not depend on what surrounds it."""
    raw = marker.encode() if isinstance(marker, str) else marker
    found = {
        "raw": raw,
        "hex": raw.hex().encode(),
        "HEX": raw.hex().upper().encode(),
        "bytes as numbers": repr(list(raw))[1:-1].encode(),
        "repr": repr(raw)[2:-1].encode(),
        "percent-encoded": quote(raw).encode(),
        "every byte percent-encoded": "".join(f"%{byte:02X}" for byte in raw).encode(),
        "octal": "".join(f"\\{byte:03o}" for byte in raw).encode(),
        "JSON escapes": "".join(f"\\u{byte:04x}" for byte in raw).encode(),
        "JSON of latin-1": json.dumps(raw.decode("latin-1"))[1:-1].encode(),
        "UTF-16": raw.decode("latin-1").encode("utf-16-le"),
        "UTF-16, big-endian": raw.decode("latin-1").encode("utf-16-be"),
        "reversed": raw[::-1],
    }
    for offset in range(3):
        # Three bytes make four letters: what is around decides about the letters at both ends, which are cut off.
        encoded = base64.b64encode(bytes(offset) + raw)
        inner = encoded[4 if offset else 0 : -4]
        found[f"base64, offset {offset}"] = inner
        found[f"base64url, offset {offset}"] = inner.replace(b"+", b"-").replace(b"/", b"_")
    assert all(len(form) >= FEWEST_BYTES for form in found.values())
    return found


class Evidence:
    """Texts and bytes by kind: `the database file`, `tracebacks`."""

    def __init__(self) -> None:
        self.pieces: defaultdict[str, dict[bytes, None]] = defaultdict(dict)  # each once, in the order they came

    def add(self, kind: str, *pieces: str | bytes | None) -> None:
        self.pieces[kind].update((_bytes(piece), None) for piece in pieces if piece)

    def add_files(self, kind: str, paths: Iterable[Path]) -> None:
        for path in paths:
            if path.is_file():
                self.add(kind, str(path), path.read_bytes())

    def kinds_with(self, marker: str | bytes) -> dict[str, list[str]]:
        """By kind, the forms in which the marker is there; kinds without are left out."""
        wanted = forms(marker)
        found = {}
        for kind, pieces in self.pieces.items():
            there = [name for name, form in wanted.items() if any(form in piece for piece in pieces)]
            if there:
                found[kind] = there
        return found

    def around(self, marker: str | bytes) -> list[tuple[str, bytes]]:
        """Where a marker is, with what is around it, to see how it got there."""
        places = []
        for kind, pieces in self.pieces.items():
            for piece in pieces:
                for form in forms(marker).values():
                    at = piece.find(form)
                    if at >= 0:
                        places.append((kind, piece[max(0, at - 200) : at + len(form) + 100]))
                        break
        return places[:20]

    # ---- objects

    def add_services(self, *things: Any) -> None:
        """Every way in which a store, a key ring or a provider is turned into text or pickled."""
        for thing in things:
            for show in _SHOWN:
                self._add_outcome("objects as text", show, thing)
            self._add_outcome("pickles and copies", pickle.dumps, thing)

    def add_objects(self, *things: Any) -> None:
        """The same for values, which are copied too, and for models, which are dumped without asking for secrets."""
        self.add_services(*things)
        for thing in things:
            for dump in _COPIED:
                self._add_outcome("pickles and copies", dump, thing)
            if isinstance(thing, BaseModel):
                for dump in _DUMPED:
                    self._add_outcome("dumps", dump, thing)

    def _add_outcome(self, kind: str, call: Callable[[Any], str | bytes], thing: Any) -> None:
        try:
            self.add(kind, call(thing))
        except Exception as error:  # noqa: BLE001 - to refuse is an answer, and its text is evidence too
            self.add_error(error)

    def add_error(self, error: BaseException) -> None:
        """A traceback as it is printed and logged, and everything that an error and its causes carry."""
        self.add("tracebacks", "".join(traceback.format_exception(error)))
        seen: BaseException | None = error
        while seen is not None:
            self.add("errors", f"{seen} {seen!r} {seen.args!r} {vars(seen)!r} {getattr(seen, '__notes__', '')}")
            try:
                self.add("errors", pickle.dumps(seen))
            except (TypeError, AttributeError, pickle.PicklingError) as refused:
                self.add("errors", str(refused))
            seen = seen.__cause__ or seen.__context__

    def add_live_objects(self) -> None:
        """`repr` of every object of this library that exists right now, on its way to the database or back."""
        for thing in gc.get_objects():
            if str(type(thing).__module__).startswith("storage."):
                try:
                    self.add("live objects", repr(thing))
                except Exception as error:  # noqa: BLE001 - half made: pydantic fills an object before it is one
                    self.add("live objects", repr(error))


class _Everything(logging.Handler):
    """Every record of every logger, as formatted and as it is."""

    def __init__(self, evidence: Evidence) -> None:
        super().__init__(logging.DEBUG)
        self.evidence = evidence
        self.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        kind = "SQL echo" if record.name.startswith("sqlalchemy.engine") else "application logs"
        self.evidence.add(kind, self.format(record), repr(record.args))


@asynccontextmanager
async def watched(evidence: Evidence, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """All loggers at DEBUG, asyncio's with every callback, and a look at live objects whenever a value is sealed."""
    handler, root, loop = _Everything(evidence), logging.getLogger(), asyncio.get_running_loop()
    level, handlers, slow = root.level, list(root.handlers), loop.slow_callback_duration
    root.handlers[:] = [handler]  # alone: pytest would print ten thousand lines with a failure
    root.setLevel(logging.DEBUG)
    echo = logging.getLogger("sqlalchemy")
    echoed = echo.level
    echo.setLevel(logging.DEBUG)  # statements and the rows that they return
    loop.set_debug(True)
    loop.slow_callback_duration = 0.0
    seal = KeySet.seal

    def looked_at(self: KeySet, context: SealContext, plaintext: bytes) -> bytes:
        evidence.add_live_objects()
        return seal(self, context, plaintext)

    monkeypatch.setattr(KeySet, "seal", looked_at)
    gc.collect()
    gc.freeze()  # what other tests have left behind is not looked at: there may be millions
    try:
        yield
    finally:
        gc.unfreeze()
        monkeypatch.undo()
        loop.set_debug(False)
        loop.slow_callback_duration = slow
        echo.setLevel(echoed)
        root.setLevel(level)
        root.handlers[:] = handlers


def _bytes(piece: str | bytes) -> bytes:
    return piece.encode("utf-8", "surrogatepass") if isinstance(piece, str) else bytes(piece)


_SHOWN: tuple[Callable[[Any], str], ...] = (
    repr,
    str,
    lambda thing: f"{thing}",
    lambda thing: f"{thing!r:>300}",
    lambda thing: "%s %r" % (thing, thing),  # noqa: UP031 - as loggers do it
    lambda thing: repr([thing, {"a": thing}, (thing,)]),
    # What a Secret keeps there is the secret itself; whoever asks for that, asks for it.
    lambda thing: "" if isinstance(thing, Secret) else repr(getattr(thing, "__dict__", "")),
    pprint.pformat,
    pretty_repr,
    lambda thing: json.dumps(thing, default=str),
    lambda thing: json.dumps(to_jsonable_python(thing, fallback=repr)),
    lambda thing: repr(dataclasses.asdict(thing)),
)
_COPIED: tuple[Callable[[Any], str | bytes], ...] = (
    lambda thing: pickle.dumps(thing, protocol=0),
    lambda thing: repr(copy.copy(thing)),
    lambda thing: repr(copy.deepcopy(thing)),
    lambda thing: pickle.dumps(thing.__reduce_ex__(2)),
)
_DUMPED: tuple[Callable[[Any], str], ...] = (
    lambda model: repr(model.model_dump()),
    lambda model: repr(model.model_dump(mode="json")),
    lambda model: repr(model.model_dump(by_alias=True, exclude_unset=True)),
    lambda model: repr(model.model_dump(context={"expose_secrets": False})),
    lambda model: repr(model.model_dump(round_trip=True, warnings=False)),
    lambda model: str(model.model_dump_json()),
    lambda model: str(model.model_dump_json(context={"other": True}, indent=2)),
    lambda model: json.dumps(type(model).model_json_schema()),
    lambda model: repr(TypeAdapter(type(model)).dump_python(model)),
    lambda model: TypeAdapter(dict[str, Any]).dump_json({"a": [model]}).decode(),
    lambda model: repr(dict(model)),
    lambda model: repr(model.model_copy()) + repr(model.model_copy(deep=True)),
)
