"""PostgreSQL's roles for questions: who may make them, whose they are, and what is not taken for one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import pytest

from storage import ConversationMetadata, Storage
from storage.errors import QueryRefused, QuerySetupMissing
from storage.reporting.roles import roles_there, set_up, setup_script
from tests.databases import MASTER_KEY
from tests.reporting.questions import ask
from tests.servers.postgres import PostgresServer, database_name

Owned: TypeAlias = Callable[..., Any]
COUNT = "SELECT count(*) FROM report_user"


@pytest.fixture
def owned(postgres_server: PostgresServer, tmp_path: Path) -> Owned:
    """Opens a storage in a database of its own, as the owner of it; gives it with an administrator's connection."""

    @asynccontextmanager
    async def opened(*options: str, named: str = "") -> AsyncIterator[tuple[Storage, asyncpg.Connection[Any], str]]:
        url = postgres_server.create_database()
        name = database_name(url)
        admin = await asyncpg.connect(url)
        owner = f"owner of {name}"
        try:
            await admin.execute(f'CREATE ROLE "{owner}" LOGIN {" ".join(options)}')
            await admin.execute(f'ALTER DATABASE "{name}" OWNER TO "{owner}"')
            other = url.replace("postgres@", f"{owner.replace(' ', '%20')}@")
            async with Storage.open(other, data_dir=tmp_path, master_key=MASTER_KEY, webhook_delivery=False) as storage:
                row = ConversationMetadata(conversation_id="c", title=f"A title in {name}")
                await storage.user("ada").conversations.save_metadata(row)
                yield storage, admin, owner
        finally:
            await admin.close()
            postgres_server.drop_database(url)

    return opened


async def test_where_roles_cannot_be_made_migrating_goes_on_and_questions_say_what_to_do(owned: Owned) -> None:
    async with owned() as (storage, admin, _):
        for user in (None, "ada"):
            with pytest.raises(QuerySetupMissing, match="storage sql --setup"):
                await ask(storage, "SELECT 1", user)
        await set_up(storage.database)
        assert await roles_there(storage.database) == []
        await admin.execute(await setup_script(storage.database))
        await set_up(storage.database)
        assert len(await roles_there(storage.database)) == 2
        assert (await ask(storage, COUNT)).rows == [(1,)]
        assert (await ask(storage, COUNT, "bob")).rows == [(0,)]
        for user in (None, "ada"):
            with pytest.raises(QueryRefused):
                await ask(storage, "SELECT * FROM settings", user)


async def test_an_owner_who_may_make_roles_makes_them_and_makes_them_again(owned: Owned) -> None:
    async with owned("CREATEROLE") as (storage, _, _owner):
        assert (await ask(storage, COUNT)).rows == [(1,)]
        await set_up(storage.database)
        assert (await ask(storage, COUNT)).rows == [(1,)]
        assert (await ask(storage, COUNT, "ada")).rows == [(1,)]
        with pytest.raises(QueryRefused):
            await ask(storage, "SELECT * FROM settings")
        with pytest.raises(QueryRefused):
            await ask(storage, "CREATE ROLE mine")


async def test_a_member_of_one_databases_role_reads_nothing_of_another(owned: Owned) -> None:
    async with owned("CREATEROLE") as (one, admin, _), owned("CREATEROLE") as (other, _, owner):
        role, _ = await roles_there(one.database)
        assert role not in await roles_there(other.database)
        await admin.execute(f"SET ROLE {role}")
        assert await admin.fetchval(COUNT) == 1
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await admin.fetch("SELECT * FROM settings")
        await admin.execute("RESET ROLE")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await admin.execute(f'SET ROLE "{owner}"; {COUNT}')


@pytest.mark.parametrize(
    "change",
    [
        "ALTER FUNCTION {function}(text, bigint) OWNER TO CURRENT_USER",
        "ALTER FUNCTION {function}(text, bigint) SECURITY INVOKER",
        "ALTER ROLE {role} LOGIN",
        "ALTER ROLE {role} SUPERUSER",
        "DROP FUNCTION {function}(text, bigint)",
    ],
)
async def test_a_function_that_would_run_questions_with_more_rights_is_not_used(owned: Owned, change: str) -> None:
    """As after a restore that gives everything to whoever restores."""
    async with owned("CREATEROLE") as (storage, admin, _):
        everybody, one_user = await roles_there(storage.database)
        for function, role, user in (
            ("storage_report_query", everybody, None),
            ("storage_report_query_of_user", one_user, "ada"),
        ):
            await admin.execute(change.format(function=function, role=role))
            with pytest.raises(QuerySetupMissing):
                await ask(storage, "SELECT 1", user)


async def test_a_schema_of_its_own_has_roles_of_its_own(owned: Owned) -> None:
    async with owned("CREATEROLE") as (storage, admin, owner):
        outer = await roles_there(storage.database)
        await admin.execute(f'CREATE SCHEMA "a b" AUTHORIZATION "{owner}"')
        await admin.execute(f'ALTER ROLE "{owner}" SET search_path = "a b"')
        options = {"data_dir": storage.config.data_dir, "master_key": MASTER_KEY, "webhook_delivery": False}
        async with Storage.open(storage.config.database_url, **options) as inner:
            assert (await ask(inner, COUNT)).rows == [(0,)]
            assert (await ask(inner, COUNT, "ada")).rows == [(0,)]
            with pytest.raises(QueryRefused):
                await ask(inner, "SELECT * FROM public.report_user")
            assert not set(await roles_there(inner.database)) & set(outer)
