"""Datasette gets a copy of the views and nothing else, from whoever has the token and no one else."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pydantic import SecretStr

from storage import Storage
from storage.reporting.serve.copied import CopiedViews
from storage.reporting.serve.described import QUERIES, metadata
from storage.reporting.views import VIEWS
from tests.databases import MASTER_KEY
from tests.reporting.filled import ADA, HOSTILE_USER, fill
from tests.reporting.reading import rows_of
from tests.reporting.rows import conversation, save

# Datasette looks for SQLite's features on connections that it leaves to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed database in:ResourceWarning")

CANARY = "canary-of-a-secret"
PORT = 8123


@pytest.fixture(scope="module", autouse=True)
def collected() -> Iterator[None]:
    """Here, where it is expected: a connection that is collected later would be laid at another test's door."""
    yield
    gc.collect()


@pytest.fixture
async def storage(database_url: str, tmp_path: Path) -> AsyncIterator[Storage]:
    options: dict[str, Any] = {"data_dir": tmp_path, "master_key": MASTER_KEY, "webhook_delivery": False}
    async with Storage.open(database_url, **options) as opened:
        await fill(opened)
        user = opened.user(ADA)
        await user.settings.update(llm_api_key=SecretStr(CANARY))
        await user.secrets.set_custom_secret("NAME", CANARY)
        yield opened


def rows_in(path: Path, name: str) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(path)) as copy:
        copy.row_factory = sqlite3.Row
        return [dict(row) for row in copy.execute(f"SELECT * FROM {name}")]


# ---- the copy


@pytest.mark.parametrize("user_id", [None, ADA])
async def test_the_copy_has_the_rows_of_the_views(storage: Storage, tmp_path: Path, user_id: str | None) -> None:
    copied = CopiedViews(storage.database, user_id, tmp_path / "copy.db")
    await copied.renew()
    for view in VIEWS:
        found = rows_in(copied.path, view.name)
        wanted = await rows_of(storage, view.name, user_id)
        assert len(found) == len(wanted), view.name
        for column in view.columns:
            values = [row[column.name] for row in found]
            if column.kind == "time":
                assert all(value is None or (len(value) == 27 and value.endswith("Z")) for value in values)
            elif column.kind not in ("json", "number") and column.name != "age_days":
                assert sorted(values, key=repr) == sorted((row[column.name] for row in wanted), key=repr), column


async def test_the_copy_holds_nothing_but_the_views(storage: Storage, tmp_path: Path) -> None:
    copied = CopiedViews(storage.database, ADA, tmp_path / "copy.db")
    await copied.renew()
    with closing(sqlite3.connect(copied.path)) as copy:
        names = {name for (name,) in copy.execute("SELECT name FROM sqlite_schema WHERE type <> 'index'")}
    assert names == {view.name for view in VIEWS}
    content = b"".join(path.read_bytes() for path in tmp_path.glob("copy.db*"))
    for hidden in (CANARY, HOSTILE_USER, "canary-in-url", "secret-path"):
        assert hidden.encode() not in content
    async with storage.session(read_only=True) as session:
        sealed = await (await session.connection()).exec_driver_sql("SELECT llm_api_key FROM settings")
        [(value,)] = sealed
        assert value not in content


async def test_a_copy_is_renewed_while_it_is_read(storage: Storage, tmp_path: Path) -> None:
    copied = CopiedViews(storage.database, None, tmp_path / "copy.db")
    await copied.renew()
    with closing(sqlite3.connect(f"file:{copied.path}?mode=ro", uri=True, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        before = reader.execute("SELECT count(*) FROM report_conversation").fetchone()
        await save(storage, conversation(ADA, "one-more"))
        await copied.renew()
        assert reader.execute("SELECT count(*) FROM report_conversation").fetchone() == before
        reader.execute("COMMIT")
        assert reader.execute("SELECT count(*) FROM report_conversation").fetchone() == (before[0] + 1,)


async def test_the_former_rows_stay_if_the_database_fails(storage: Storage, tmp_path: Path) -> None:
    copied = CopiedViews(storage.database, None, tmp_path / "copy.db")
    await copied.renew()
    before = rows_in(copied.path, "report_conversation")
    async with storage.session() as session:
        await (await session.connection()).exec_driver_sql("DROP TABLE delivery" + _cascade(storage))
        await session.commit()
    with pytest.raises(Exception, match="delivery"):
        await copied.renew()
    assert rows_in(copied.path, "report_conversation") == before


def _cascade(storage: Storage) -> str:
    return " CASCADE" if storage.database.dialect == "postgresql" else ""


def test_every_query_names_columns_that_there_are() -> None:
    from storage.reporting.serve.copied import _create

    with closing(sqlite3.connect(":memory:")) as copy:
        for view in VIEWS:
            copy.execute(_create(view))
        for query in QUERIES.values():
            copy.execute(query["sql"], {"since": "", "days": ""})
        for name, table in metadata("", "")["databases"]["report"]["tables"].items():
            named = [*table.get("facets", []), *filter(None, (table.get("sort_desc"), table.get("label_column")))]
            assert set(named) <= set(table["columns"]), name


# ---- the site


@pytest.fixture
async def served(storage: Storage) -> AsyncIterator[Any]:
    pytest.importorskip("datasette")
    from storage.reporting.serve.site import site

    async with site(storage.database, None, port=PORT, refresh_seconds=3600) as served:
        yield served


def client(served: Any, *, token: str | None = None, host: str = f"127.0.0.1:{PORT}") -> httpx2.AsyncClient:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    transport = httpx2.ASGITransport(app=served.application)
    return httpx2.AsyncClient(transport=transport, base_url=f"http://{host}", headers=headers)


@pytest.fixture
async def reader(served: Any) -> AsyncIterator[httpx2.AsyncClient]:
    async with client(served, token=served.token) as known:
        yield known


async def test_every_view_and_query_is_shown(reader: httpx2.AsyncClient, storage: Storage) -> None:
    assert (await reader.get("/")).status_code == 200
    for view in VIEWS:
        assert (await reader.get(f"/report/{view.name}")).status_code == 200, view.name
    for name in QUERIES:
        answer = await reader.get(f"/report/{name}.json")
        assert answer.status_code == 200
        assert answer.json()["ok"], name
    found = (await reader.get("/report/report_model.json?_shape=objects")).json()["rows"]
    wanted = await rows_of(storage, "report_model")
    assert {row["model"]: row["cost_usd"] for row in found} == {row["model"]: row["cost_usd"] for row in wanted}


HOSTILE = [
    "select llm_api_key from settings",
    "select * from main.conversation",
    "with report_conversation as (select * from settings) select * from report_conversation",
    "select load_extension('/tmp/x')",
    "select fts3_tokenizer('simple')",
    "attach database '/etc/passwd' as other",
    "insert into report_model(model) values ('x')",
    "delete from report_conversation",
    "with x as (select 1) delete from report_conversation",
    "pragma writable_schema=1",
    "pragma query_only=0",
    "select 1; drop table report_model",
    "vacuum into '/tmp/copy-of-report.db'",
    "explain select * from settings",
    "select readfile('/etc/passwd')",
    "select * from pragma_database_list where file like '%storage.db'; select 1",
]


async def test_no_query_writes_or_finds_anything_else(reader: httpx2.AsyncClient, storage: Storage) -> None:
    before = await rows_of(storage, "report_usage_daily")
    for sql in HOSTILE:
        answer = await reader.get("/report.json", params={"sql": sql})
        assert answer.status_code == 400, sql
        assert CANARY not in answer.text, sql
    assert await rows_of(storage, "report_usage_daily") == before
    assert (await reader.get("/report/report_model.json")).json()["filtered_table_rows_count"] == 7


async def test_the_file_itself_is_not_given_out(reader: httpx2.AsyncClient) -> None:
    assert (await reader.get("/report.db")).status_code in (403, 404)


async def test_without_the_token_nothing_is_told(served: Any) -> None:
    for token in (None, "", "wrong", served.token[:-1], "é"):
        async with client(served) as stranger:
            headers = {} if token is None else {b"Cookie": f"storage-report-{PORT}={token}".encode()}
            for path in ("/", "/report/report_model.json", "/-/metadata.json", "/-/static/app.css"):
                answer = await stranger.get(path, headers=headers)
                assert answer.status_code == 403
                assert "report_" not in answer.text


async def test_the_address_that_is_printed_lets_a_browser_in(served: Any) -> None:
    async with client(served) as browser:
        answer = await browser.get(f"/report?a=1&token={served.token}&b=2")
        assert (answer.status_code, answer.headers["location"]) == (303, "/report?a=1&b=2")
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Lax" in cookie
        assert (await browser.get(answer.headers["location"])).status_code == 200
        # No address leads to another site with it.
        answer = await browser.get(f"http://127.0.0.1:{PORT}//evil.example/?token={served.token}")
        assert answer.headers["location"] == "/evil.example/"


@pytest.mark.parametrize("host", ["evil.example", f"evil.example:{PORT}", "127.0.0.1", f"127.0.0.1:{PORT + 1}"])
async def test_a_name_that_is_not_this_servers_is_refused(served: Any, host: str) -> None:
    async with client(served, token=served.token, host=host) as rebound:
        assert (await rebound.get("/")).status_code == 421


async def test_rows_are_copied_anew_when_they_are_too_old(storage: Storage) -> None:
    pytest.importorskip("datasette")
    from storage.reporting.serve.site import site

    async with (
        site(storage.database, None, port=PORT, refresh_seconds=0) as served,
        client(served, token=served.token) as known,
    ):
        query = {"sql": "select count(*) from report_conversation", "_shape": "arrays"}
        assert (await known.get("/report.json", params=query)).json()["rows"] == [[21]]
        await save(storage, conversation(ADA, "one-more"))
        answers = await asyncio.gather(*(known.get("/report.json", params=query) for _ in range(4)))
        assert [answer.json()["rows"] for answer in answers] == [[[22]]] * 4


async def test_one_users_site_has_nothing_of_others(storage: Storage) -> None:
    pytest.importorskip("datasette")
    from storage.reporting.serve.site import site

    async with (
        site(storage.database, ADA, port=PORT, refresh_seconds=60) as served,
        client(served, token=served.token) as known,
    ):
        for view in VIEWS:
            found = (await known.get(f"/report/{view.name}.json?_shape=objects&_size=max")).json()["rows"]
            assert all(row.get("user_id", ADA) == ADA for row in found), view.name
