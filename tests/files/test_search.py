"""Searches of files against a plain filter over a walk, and what a page costs."""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import cache
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.database.cursor import pack
from storage.database.database import Database
from storage.database.statement import Statement
from storage.errors import InvalidInput
from storage.files.backends.memory import MemoryFileStore
from storage.files.catalog import FileCatalog
from storage.files.glob_pattern import parse_glob
from storage.files.search import SHAPES_KEPT, checked_query, page_statement, search_shapes
from storage.files.store import FileStat
from tests.reading_costs import reading_cost

SORTS = ("path", "size", "updated_at")
EXAMPLES = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])

# Neighbours of "/" in byte order, what is special to LIKE or to a pattern, both cases, and longer characters.
NAME = st.text(st.sampled_from("aAb-.0%_!*[]é😀"), min_size=1, max_size=4).filter(lambda name: name.strip("."))
FOLDER = st.sampled_from(["a", "b", "A"])
PATH = st.builds(lambda folders, name: "/".join([*folders, name]), st.lists(FOLDER, max_size=3), NAME)
FILE = st.tuples(st.one_of(PATH, PATH.map("{}.json".format), PATH.map("{}.png".format)), st.integers(0, 4))

LITERAL = st.sampled_from(["a", "b", "A", ".", "-", "é", "😀", "%", "_", "!", "[*]", "[[]", "]", ".json"])
WILDCARD = st.sampled_from(["*", "?", "[ab]", "[!a]", "[a-c]", "[!]]", "[]a]", "[.-0]", "[a-]"])
SEGMENT = st.lists(st.one_of(LITERAL, WILDCARD), min_size=1, max_size=4).map("".join)
GLOB = (
    st.lists(st.one_of(st.just("**"), st.just("*"), FOLDER, SEGMENT), min_size=1, max_size=4)
    .map("/".join)
    .filter(lambda glob: all(part == "**" or ("**" not in part and part.strip(".")) for part in glob.split("/")))
)


def fits(pattern: str, path: str) -> bool:
    """What a pattern means, tried in every way, one character after the other."""

    @cache
    def segments(wanted: tuple[str, ...], given: tuple[str, ...]) -> bool:
        if not wanted:
            return not given
        if wanted[0] == "**":
            if len(wanted) == 1:
                return bool(given)
            return any(segments(wanted[1:], given[skipped:]) for skipped in range(len(given) + 1))
        return bool(given) and characters(wanted[0], given[0]) and segments(wanted[1:], given[1:])

    @cache
    def characters(wanted: str, given: str) -> bool:
        if not wanted:
            return not given
        if wanted[0] == "*":
            return any(characters(wanted[1:], given[skipped:]) for skipped in range(len(given) + 1))
        if wanted[0] != "[":
            return bool(given) and wanted[0] in ("?", given[0]) and characters(wanted[1:], given[1:])
        start = 2 if wanted[1] == "!" else 1
        end = wanted.index("]", start + 1)
        return (
            bool(given)
            and (wanted[1] == "!") != one_of(wanted[start:end], given[0])
            and characters(wanted[end + 1 :], given[1:])
        )

    def one_of(members: str, sign: str) -> bool:
        if len(members) > 2 and members[1] == "-":
            return members[0] <= sign <= members[2] or one_of(members[3:], sign)
        return bool(members) and (members[0] == sign or one_of(members[1:], sign))

    return segments(tuple(pattern.split("/")), tuple(path.split("/")))


def passes(stat: FileStat, filters: dict[str, Any]) -> bool:
    media = filters.get("media_type")
    return (
        stat.path.startswith(filters.get("prefix", ""))
        and ("glob" not in filters or fits(filters["glob"], stat.path))
        and (media is None or re.fullmatch(media.replace("*", ".*"), stat.media_type or "") is not None)
        and stat.size >= filters.get("min_size", 0)
        and stat.size <= filters.get("max_size", stat.size)
        and stat.updated_at >= filters.get("updated_after", stat.updated_at)
        and ("updated_before" not in filters or stat.updated_at < filters["updated_before"])
    )


def position(stat: FileStat, sort: str) -> tuple[Any, bytes]:
    return (None if sort == "path" else getattr(stat, sort)), stat.path.encode()


async def pages(files: FileCatalog, limit: int, **query: Any) -> AsyncIterator[list[str]]:
    cursor = None
    while True:
        page = await files.search(limit=limit, cursor=cursor, **query)
        yield [stat.path for stat in page.results]
        cursor = page.next_cursor
        if cursor is None:
            return


@EXAMPLES
@given(
    st.lists(st.lists(FILE, max_size=6), min_size=1, max_size=3),
    st.fixed_dictionaries(
        {},
        optional={
            "prefix": st.one_of(PATH, st.sampled_from(["a/", "a", "b/a/", "a/."])),
            "glob": GLOB,
            "media_type": st.sampled_from(["application/json", "image/*", "application/*", "image/png"]),
            "min_size": st.integers(0, 4),
            "max_size": st.integers(0, 4),
            "updated_after": st.integers(0, 2),
            "updated_before": st.integers(0, 2),
        },
    ),
    st.tuples(st.sampled_from(SORTS), st.booleans(), st.integers(1, 5)),
)
async def test_pages_together_are_what_a_filter_over_a_walk_finds(
    database: Database,
    batches: list[list[tuple[str, int]]],
    filters: dict[str, Any],
    page: tuple[str, bool, int],
) -> None:
    sort, descending, limit = page
    files = FileCatalog(database, MemoryFileStore(), uuid.uuid4().hex)
    times = []
    for batch in batches:
        times.append(datetime.now(UTC))
        await files.write_many({path: b"." * size for path, size in batch}.items())
    for name in {"updated_after", "updated_before"} & filters.keys():
        filters = {**filters, name: times[min(filters[name], len(times) - 1)]}
    wanted = [stat async for stat in files.walk() if passes(stat, filters)]
    wanted.sort(key=lambda stat: position(stat, sort), reverse=descending)
    found = [each async for each in pages(files, limit, sort=sort, descending=descending, **filters)]
    assert [path for each in found for path in each] == [stat.path for stat in wanted]
    assert all(len(each) == limit for each in found[:-1])
    assert found[-1] or not wanted


@settings(max_examples=500, deadline=None)
@given(GLOB, PATH)
def test_a_pattern_names_what_trying_every_way_finds(pattern: str, path: str) -> None:
    assert bool(parse_glob(pattern).expression.fullmatch(path)) == fits(pattern, path)


@pytest.mark.parametrize(
    ("pattern", "named", "others"),
    [
        ("a/*", ["a/b", "a/.b"], ["a", "a/b/c", "b/a", "A/b"]),
        ("a/**", ["a/b", "a/b/c"], ["a", "ab"]),
        ("**", ["a", "a/b"], []),
        ("**/b", ["b", "a/b", "a/c/b"], ["ab", "b/a"]),
        ("a/**/b", ["a/b", "a/c/b", "a/c/d/b", "a/b/b"], ["ab", "a/bb", "a/b/c"]),
        ("a?", ["ab", "aé", "a😀"], ["a", "a/", "abc", "a/b"]),
        ("[a-c]x[!0-9]", ["axy", "cx-"], ["dxy", "ax1"]),
        ("[+-9]", ["0", "+"], ["/"]),
        ("e[*]", ["e*"], ["ex"]),
        ("/./a".removeprefix("/"), ["a"], ["b"]),
        ("/a", ["a"], ["b"]),
        ("e\u0301", ["é"], ["e"]),
        ("x%_!", ["x%_!"], ["xab!"]),
        ("x%/b", ["x%/b"], ["x%b"]),
        ("x%*", ["x%y"], ["xy"]),
    ],
)
async def test_patterns_by_example(
    database: Database, user_id: str, pattern: str, named: list[str], others: list[str]
) -> None:
    files = FileCatalog(database, MemoryFileStore(), user_id)
    stored = [path for path in [*named, *others] if not path.endswith("/")]
    await files.write_many((path, b"") for path in stored)
    page = await files.search(glob=pattern)
    assert [stat.path for stat in page.results] == sorted(named)


@pytest.mark.parametrize(
    ("pattern", "advice"),
    [
        ("a/", r"write 'a/\*\*'"),
        ("", "name a file"),
        ("a//b", "name every folder"),
        ("../*", "relative to the root"),
        ("a\\*", "backslash"),
        ("a**", r"'a/\*\*/b'"),
        ("[ab", r"a bracket is '\[\[\]'"),
        ("[]", r"a bracket is '\[\[\]'"),
        ("[!]", r"a bracket is '\[\[\]'"),
        ("[b-a]", "smaller character first"),
        (7, "must be a str"),
    ],
)
def test_a_pattern_that_cannot_be_read_is_refused_with_advice(pattern: Any, advice: str) -> None:
    with pytest.raises(InvalidInput, match=advice):
        parse_glob(pattern)


def test_a_pattern_of_many_stars_is_compared_at_once() -> None:
    """With an expression that tries every way, these would still run when the universe ends."""
    path = "/".join(["a" * 100] * 9)
    assert not parse_glob("*a" * 100 + "b/" + "**/*a*a*a*/" * 20 + "c").expression.fullmatch(path)
    assert parse_glob("**/" + "*a" * 100 + "/**/" + "*a" * 20 + "*/**").expression.fullmatch(path)


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ({"limit": 0}, "from 1 to 1000"),
        ({"limit": 1001}, "from 1 to 1000"),
        ({"limit": True}, "from 1 to 1000"),
        ({"sort": "name"}, "path, size, updated_at"),
        ({"prefix": "a//b"}, "name every folder"),
        ({"prefix": "../a"}, "relative to the root"),
        ({"prefix": "a\\b"}, "backslash"),
        ({"prefix": "ab/" * 400}, "no path has more than 1024"),
        ({"prefix": None}, "prefix must be a str"),
        ({"min_size": -1}, "min_size must be a whole number"),
        ({"max_size": 2**63}, "max_size must be a whole number"),
        ({"min_size": "1"}, "min_size must be a whole number"),
        ({"updated_after": datetime(2026, 1, 1)}, "attach a timezone"),  # noqa: DTZ001 - what is refused
        ({"updated_before": "2026-01-01"}, "must be a datetime"),
        ({"media_type": "*/*"}, "None for any"),
        ({"media_type": "image/p*"}, "'image/\\*'"),
        ({"media_type": ""}, "None for any"),
        ({"media_type": 1}, "media_type must be a str"),
        ({"cursor": "?"}, "not a cursor"),
        ({"cursor": "x" * 2_000_000}, "not a cursor"),
        ({"cursor": 3}, "not a cursor"),
        ({"cursor": pack([2, "", None, "a"])}, "not a cursor of this release"),
        ({"cursor": pack([1, "", None, "a"])}, "None to start over"),
    ],
)
async def test_an_argument_that_cannot_be_used_is_refused_with_advice(arguments: dict[str, Any], advice: str) -> None:
    files = FileCatalog(cast("Database", "nothing is read"), MemoryFileStore(), None)
    with pytest.raises(InvalidInput, match=advice):
        await files.search(**arguments)


async def test_a_cursor_serves_the_search_it_came_from_and_no_other(database: Database, user_id: str) -> None:
    files = FileCatalog(database, MemoryFileStore(), user_id)
    await files.write_many((f"a/{number}", b"") for number in range(5))
    cursor = (await files.search(limit=2, prefix="a/")).next_cursor
    rest = await files.search(limit=1000, prefix="/a/", cursor=cursor)
    assert [stat.path for stat in rest.results] == ["a/2", "a/3", "a/4"]
    for other in ({}, {"prefix": "a"}, {"prefix": "a/", "descending": True}, {"prefix": "a/", "sort": "size"}):
        with pytest.raises(InvalidInput, match="belongs to a search for something else"):
            await files.search(cursor=cursor, **other)


@pytest.mark.parametrize(("value", "path"), [("1", "a"), (1.5, "a"), (2**70, "a"), (1, "../a"), (1, 2), (None, "a")])
@pytest.mark.parametrize("sort", ["size", "updated_at"])
async def test_a_cursor_that_was_tampered_with_is_refused(sort: Any, value: Any, path: Any) -> None:
    files = FileCatalog(cast("Database", "nothing is read"), MemoryFileStore(), None)
    forged = pack([1, checked_query(sort=sort).fingerprint, value, path])
    with pytest.raises(InvalidInput, match="damaged"):
        await files.search(sort=sort, cursor=forged)


async def test_a_search_finds_only_the_users_own_files(database: Database, user_id: str) -> None:
    blobs = MemoryFileStore()
    await FileCatalog(database, blobs, user_id).write("a", b"")
    assert (await FileCatalog(database, blobs, f"{user_id}2").search()).results == []


async def test_a_search_in_a_transaction_sees_what_it_wrote(database: Database, user_id: str) -> None:
    async with database.transaction() as transaction:
        files = FileCatalog(transaction, MemoryFileStore(), user_id)
        await files.write("a", b"")
        assert [stat.path for stat in (await files.search()).results] == ["a"]


async def test_files_written_and_deleted_between_pages_neither_repeat_nor_hide_others(
    database: Database, user_id: str
) -> None:
    files = FileCatalog(database, MemoryFileStore(), user_id)
    await files.write_many((f"a{number}", b"." * number) for number in range(6))
    first = await files.search(sort="size", limit=3)
    await files.delete("a2")  # the one that the cursor names
    await files.write("b", b"")
    rest = await files.search(sort="size", limit=3, cursor=first.next_cursor)
    assert [stat.path for stat in (*first.results, *rest.results)] == [f"a{number}" for number in range(6)]


# ---- cost


class Watched:
    """A database that remembers what was read."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.reads: list[tuple[Statement, Any]] = []

    async def read(self, statement: Statement, parameters: Any, *, scan: bool = False) -> list[Any]:
        self.reads.append((statement, parameters))
        return await self.database.read(statement, parameters, scan=scan)


@pytest.fixture
async def watched(database: Database) -> Watched:
    """Where the user `many` has 3,000 files, of different sizes."""
    files = FileCatalog(database, MemoryFileStore(), "many")
    if (await files.usage()).files == 0:
        await files.write_many((f"a/{number:04}.bin", b"." * number) for number in range(3_000))
    return Watched(database)


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("descending", [False, True])
async def test_a_later_page_costs_what_the_first_one_does(watched: Watched, sort: Any, descending: bool) -> None:
    files = FileCatalog(cast("Database", watched), MemoryFileStore(), "many")
    everything: dict[str, Any] = {
        "min_size": 0,
        "max_size": 9_999,
        "updated_after": datetime(2020, 1, 1, tzinfo=UTC),
        "updated_before": datetime(2099, 1, 1, tzinfo=UTC),
    }
    for filters in ({}, everything):
        costs, cursor = [], None
        for limit in (10, 990, 10, 990, 10):
            page = await files.search(sort=sort, descending=descending, limit=limit, cursor=cursor, **filters)
            cursor = page.next_cursor
            if limit == 10:
                costs.append(await reading_cost(watched.database.url, *watched.reads[-1]))
        assert max(costs) < 2 * min(costs), (costs, filters)


async def test_a_prefix_is_a_range_and_costs_what_it_finds(watched: Watched) -> None:
    files = FileCatalog(cast("Database", watched), MemoryFileStore(), "many")
    await files.search(prefix="a/000")
    await files.search(glob="a/000*")
    few = [await reading_cost(watched.database.url, *read) for read in watched.reads]
    await files.search(prefix="a/00")
    more = await reading_cost(watched.database.url, *watched.reads[-1])
    assert max(few) * 4 < more


async def test_a_pattern_is_compared_in_batches_until_the_page_is_full(watched: Watched) -> None:
    files = FileCatalog(cast("Database", watched), MemoryFileStore(), "many")
    page = await files.search(glob="a/[02]*.bin", limit=5)
    assert (len(page.results), len(watched.reads)) == (5, 1)
    page = await files.search(glob="a/[23]*.bin", limit=5)
    assert [stat.path for stat in page.results] == [f"a/{number}.bin" for number in range(2_000, 2_005)]
    assert len(watched.reads) == 1 + 3


def test_more_shapes_than_are_kept_are_built() -> None:
    texts = {statement.compiled("sqlite").sql for statement in search_shapes()}
    assert len(texts) > SHAPES_KEPT
    assert page_statement.cache_info().currsize <= SHAPES_KEPT
