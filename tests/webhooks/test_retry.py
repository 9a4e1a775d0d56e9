"""What answers mean, how long is waited, and what a receiver may ask for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from random import Random

import pytest

from storage.webhooks.message import Answer
from storage.webhooks.queue.retry import (
    BASE_SECONDS,
    CAP_SECONDS,
    FAILURES_TO_OPEN,
    PAUSE_CAP_SECONDS,
    RETRY_AFTER_CAP_SECONDS,
    Verdict,
    breaker_pause,
    parse_retry_after,
    verdict,
)

NOW = datetime(1994, 11, 6, 8, 49, 30, tzinfo=UTC)
ALMOST_ONE = 1 - 2**-53


def judged(status: int | None, attempts: int = 1, retry_after: float | None = None, chance: float = 0.5) -> Verdict:
    return verdict(Answer(status, "", retry_after), attempts, max_attempts=12, random=lambda: chance)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 226, 299])
def test_any_2xx_is_success_even_at_the_last_attempt(status: int) -> None:
    assert judged(status, 12) == Verdict("delivered")


def test_410_ends_the_endpoint_even_at_the_last_attempt() -> None:
    assert judged(410, 12) == Verdict("gone")


@pytest.mark.parametrize(
    "status", [400, 401, 403, 404, 405, 406, 409, 411, 413, 415, 418, 422, 426, 428, 431, 451, 499]
)
def test_a_refusal_is_final_at_once(status: int) -> None:
    assert judged(status) == Verdict("dead")


@pytest.mark.parametrize(
    "status", [None, 101, 300, 301, 302, 303, 304, 307, 308, 408, 425, 429, 500, 502, 503, 504, 599]
)
def test_what_may_pass_is_tried_again(status: int | None) -> None:
    assert judged(status).kind == "retry"
    assert judged(status, 11).kind == "retry"


@pytest.mark.parametrize("status", [None, 302, 408, 425, 429, 500, 503])
def test_what_did_not_pass_in_so_many_attempts_is_dead(status: int | None) -> None:
    assert judged(status, 12).kind == "dead"
    assert judged(status, 13).kind == "dead"


def test_waits_grow_fourfold_up_to_six_hours_and_are_wholly_random() -> None:
    most = [judged(500, attempts, chance=1.0).after for attempts in range(1, 12)]
    assert most == [5, 20, 80, 320, 1280, 5120, 20480, *[CAP_SECONDS] * 4]
    assert [judged(500, attempts, chance=0.0).after for attempts in range(1, 12)] == [0.0] * 11
    assert judged(None, 3, chance=0.25).after == 20.0


@pytest.mark.parametrize("attempts", [0, 1, 1_000_000])
def test_no_number_of_attempts_is_too_much_for_the_schedule(attempts: int) -> None:
    found = verdict(Answer(500, ""), attempts, max_attempts=2_000_000, random=lambda: ALMOST_ONE)
    assert 0 < found.after <= CAP_SECONDS


def test_a_receivers_wish_is_the_least_to_wait() -> None:
    assert judged(500, retry_after=2.0).after == 2.5
    assert judged(500, retry_after=60.0).after == 60.0
    assert judged(500, retry_after=0.0, chance=0.0).after == 0.0


@pytest.mark.parametrize("wish", [RETRY_AFTER_CAP_SECONDS + 1, float("inf")])
def test_a_receivers_wish_ends_after_a_day(wish: float) -> None:
    found = judged(429, retry_after=wish)
    assert found == Verdict("retry", RETRY_AFTER_CAP_SECONDS, RETRY_AFTER_CAP_SECONDS)


@pytest.mark.parametrize("status", [429, 503])
def test_too_many_requests_hold_the_whole_endpoint(status: int) -> None:
    assert judged(status, retry_after=30.0) == Verdict("retry", 30.0, 30.0)
    assert judged(status, 12, retry_after=30.0) == Verdict("dead", hold=30.0)
    assert judged(status).hold is None


@pytest.mark.parametrize("status", [301, 408, 500, 404])
def test_another_answer_holds_nothing_but_its_event(status: int) -> None:
    assert judged(status, retry_after=30.0).hold is None


def test_a_pause_begins_after_five_failures_and_doubles_up_to_ten_minutes() -> None:
    assert [breaker_pause(failures, lambda: 0.0) for failures in range(FAILURES_TO_OPEN)] == [None] * FAILURES_TO_OPEN
    opened = range(FAILURES_TO_OPEN, FAILURES_TO_OPEN + 8)
    assert [breaker_pause(failures, lambda: 0.0) for failures in opened] == [5, 10, 20, 40, 80, 160, 300, 300]
    assert [breaker_pause(failures, lambda: 1.0) for failures in opened] == [10, 20, 40, 80, 160, 320, 600, 600]
    assert breaker_pause(10**9, lambda: ALMOST_ONE) == pytest.approx(PAUSE_CAP_SECONDS)


def test_waits_of_many_events_are_spread() -> None:
    random = Random(1).random
    waits = [verdict(Answer(500, ""), 1, max_attempts=12, random=random).after for _ in range(1000)]
    assert min(waits) < 0.1 < BASE_SECONDS - 0.1 < max(waits) < BASE_SECONDS
    assert sum(waits) / 1000 == pytest.approx(BASE_SECONDS / 2, rel=0.1)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        ("0", 0.0),
        (" 7 ", 7.0),
        ("-5", 0.0),
        ("9" * 5000, RETRY_AFTER_CAP_SECONDS),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 7.0),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 7.0),
        ("Sun Nov  6 08:49:37 1994", 7.0),
        ("Sun, 06 Nov 1994 08:49:29 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", RETRY_AFTER_CAP_SECONDS),
        ("Sun, 06 Nov 1994 09:49:37 +0100", 7.0),
    ],
    ids=lambda value: str(value)[:40],
)
def test_retry_after_is_understood_in_both_forms(value: str, seconds: float) -> None:
    assert parse_retry_after(value, NOW) == seconds


def test_a_date_is_compared_whatever_zone_now_is_in() -> None:
    now = NOW.astimezone(timezone(timedelta(hours=-8)))
    assert parse_retry_after("Sun, 06 Nov 1994 08:49:37 GMT", now) == 7.0


@pytest.mark.parametrize(
    "value",
    [
        *("", "soon", "1.5", "1e3", "+5", "0x10", "٣", "nan", "inf", "5 seconds", "1994-11-06T08:49:37Z"),
        *("Sun, 99 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 99999 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:37 +9999999"),
    ],
    ids=ascii,
)
def test_what_is_neither_form_of_retry_after_is_nothing(value: str) -> None:
    assert parse_retry_after(value, NOW) is None


def test_no_text_breaks_retry_after() -> None:
    random = Random(2)
    pieces = [
        "Sun",
        "06",
        "Nov",
        "1994",
        "08:49:37",
        "GMT",
        "+9999",
        "-",
        ",",
        " ",
        "\x00",
        "é",
        "9" * 30,
        ":",
        "(",
        "AD",
    ]
    for _ in range(5000):
        seconds = parse_retry_after("".join(random.choices(pieces, k=random.randint(0, 9))), NOW)
        assert seconds is None or 0 <= seconds <= RETRY_AFTER_CAP_SECONDS
