"""Log records as JSON: one line each, whatever is in them."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from storage.logs import JSONFormatter


def formatted(message: str, *arguments: object, **given: object) -> dict[str, object]:
    record = logging.LogRecord("storage.files", logging.WARNING, __file__, 1, message, arguments, None)
    vars(record).update(given)
    text = JSONFormatter().format(record)
    assert "\n" not in text
    found: dict[str, object] = json.loads(text)
    return found


def test_a_record_is_an_object_on_one_line() -> None:
    found = formatted("%d bytes are free\non %s", 5, "ünï")
    time = str(found.pop("time"))
    assert time.endswith("+00:00")
    assert found == {"level": "warning", "logger": "storage.files", "message": "5 bytes are free\non ünï"}


def test_extra_fields_are_kept_in_their_types() -> None:
    found = formatted("x", bytes=5, path="a", odd=object)
    assert (found["bytes"], found["path"], found["odd"]) == (5, "a", "<class 'object'>")


def test_an_error_comes_with_its_traceback() -> None:
    try:
        raise ValueError("what was wrong")
    except ValueError:
        record = logging.LogRecord("storage", logging.ERROR, __file__, 1, "failed", (), sys.exc_info())
    found = json.loads(JSONFormatter().format(record))
    assert found["error"].endswith("ValueError: what was wrong")


def test_it_is_a_formatter_for_any_handler(capsys: pytest.CaptureFixture[str]) -> None:
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JSONFormatter())
    log = logging.getLogger("storage.of_this_test")
    log.addHandler(handler)
    try:
        log.error("one %s", "line")
    finally:
        log.removeHandler(handler)
    assert json.loads(capsys.readouterr().out)["message"] == "one line"
