"""PostgreSQL's part in holding a question to the report views: two roles that can log in nowhere, a function for each.

To take a lesser role for a statement is not enough: within it, `set_config('role', …)` and a function that runs SQL, as
query_to_xml does, would have the greater one back. PostgreSQL refuses to change roles within a SECURITY DEFINER
function (https://www.postgresql.org/docs/current/sql-createfunction.html), so that is where questions are run: the
function belongs to a role that may read the report views and nothing else. For one user's rows the role has no right
even to these; it is given temporary views for each question.

Roles belong to the whole server, so each database (and schema) has its own: with common ones, whoever is a member for
the sake of one database could read the views of all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import Text, column, text

from storage.database.statement import Statement
from storage.reporting.query.bounds import MAX_BYTES, TOO_MUCH
from storage.reporting.views import VIEWS

if TYPE_CHECKING:
    from storage.database.database import Database

EVERYBODY: Final = "storage_report"
ONE_USER: Final = "storage_report_user"
"""How the names of the roles begin; `_in_` and the database's name follow."""

FUNCTIONS: Final = {EVERYBODY: "storage_report_query", ONE_USER: "storage_report_query_of_user"}
"""Takes the question and the most rows it may give; gives rows as JSON objects, whose keys keep the columns' order."""

_VIEWS: Final = ", ".join(view.name for view in VIEWS)

# What is longer than a name may be (63 bytes) is cut by PostgreSQL without a word, and two would be one.
_PLACE: Final = """(
    SELECT CASE WHEN octet_length(place) <= 36 THEN place ELSE md5(place) END FROM (
        SELECT current_database() || CASE current_schema() WHEN 'public' THEN '' ELSE '.' || current_schema() END
    ) AS here(place)
)"""

# A function that was restored under another owner would run questions with that owner's rights.
OWNER_OF: Final = """
SELECT p.proowner::regrole::text
FROM pg_proc p JOIN pg_roles r ON r.oid = p.proowner
WHERE p.oid = to_regprocedure('{function}(text, bigint)') AND p.prosecdef
AND starts_with(r.rolname, '{role}_in_') AND NOT r.rolsuper AND NOT r.rolcanlogin
"""
"""Gives the name of the role that a function belongs to, as SQL has it, if it is one that may run questions."""

# A name may be taken in the same moment by another process that migrates. From PostgreSQL 16 on, whoever makes a role
# without being a superuser may administer it, and no more than that.
_ROLE: Final = """
    role := '{role}_in_' || place;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role);
            IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
                EXECUTE format('GRANT %I TO %I', role, current_user);
            END IF;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
        END;
    END IF;
    IF NOT pg_has_role(current_user, role, 'MEMBER') THEN
        EXECUTE format('GRANT %I TO %I', role, current_user);
    END IF;"""

_FUNCTION: Final = """
    DROP FUNCTION IF EXISTS {function}(text, bigint);
    EXECUTE format($make$
        CREATE FUNCTION {function}(question text, most bigint) RETURNS SETOF json
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = {path}
        AS $body$
        DECLARE
            one record;
            given json;
            number bigint := 0;
            bytes bigint := 0;
        BEGIN
            FOR one IN EXECUTE question LOOP
                EXIT WHEN number >= most;
                given := row_to_json(one);
                number := number + 1;
                bytes := bytes + octet_length(given::text);
                IF bytes > {most_bytes} THEN
                    RAISE EXCEPTION '{too_much}';
                END IF;
                RETURN NEXT given;
            END LOOP;
        END
        $body$
    $make$, current_schema());
    REVOKE ALL ON FUNCTION {function}(text, bigint) FROM PUBLIC;
    EXECUTE format('GRANT EXECUTE ON FUNCTION {function}(text, bigint) TO %I', current_user);
    EXECUTE format('GRANT USAGE, CREATE ON SCHEMA %I TO %I', current_schema(), role);
    EXECUTE format('ALTER FUNCTION {function}(text, bigint) OWNER TO %I', role);
    EXECUTE format('REVOKE CREATE ON SCHEMA %I FROM %I', current_schema(), role);"""


def setup_sql() -> str:
    """One statement that makes roles and functions and grants what they need; can be run again.

    Where the database's user may not (it takes a superuser, or CREATEROLE), it does nothing but say so, and questions
    are refused until somebody who may has run `setup_script`.
    """
    return f"""DO $setup$
DECLARE
    place text := {_PLACE};
    role text;
BEGIN{_steps()}
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'agent-storage: the roles for questions could not be made: %', SQLERRM;
END
$setup$"""


def _steps() -> str:
    # Temporary views come first for one user's rows, and last where nobody makes any.
    paths = {ONE_USER: "pg_temp, %1$I", EVERYBODY: "%1$I, pg_temp"}
    steps = []
    for role, path in paths.items():
        steps.append(_ROLE.format(role=role))
        steps.append(_FUNCTION.format(function=FUNCTIONS[role], path=path, most_bytes=MAX_BYTES, too_much=TOO_MUCH))
    steps.append(f"\n    EXECUTE format('GRANT SELECT ON {_VIEWS} TO %I', role);")
    return "".join(steps)


def _owner_statement(role: str) -> Statement:
    found = text(OWNER_OF.format(function=FUNCTIONS[role], role=role)).columns(column("owner", Text))
    return Statement(f"report.owner_of_{FUNCTIONS[role]}", found)


_OWNERS: Final = tuple(_owner_statement(role) for role in FUNCTIONS)
_HERE: Final = Statement(
    "report.place_of_roles",
    text(f"SELECT {_PLACE}, current_user::text, current_database()::text").columns(
        column("place", Text), column("user", Text), column("database", Text)
    ),
)


async def roles_there(database: Database) -> list[str]:
    """The roles through which questions can be asked of a PostgreSQL database, as SQL has their names; two, or none.

    The first may read the views: it is the one to grant to the logins of people and programs that read them.
    """
    found = [str(row[0]) for statement in _OWNERS for row in await database.read(statement, {}, scan=True)]
    return found if len(found) == len(FUNCTIONS) else []


async def set_up(database: Database) -> None:
    """Make roles and functions where the database's user may; what is there already is made anew.

    Raises:
        DatabaseError: the database cannot be written.
    """
    async with database.session() as session:
        await (await session.connection()).exec_driver_sql(setup_sql())
        await session.commit()


async def setup_script(database: Database) -> str:
    """For an administrator to run in psql, where the database's own user may not make roles: they get to be its own."""
    ((place, user, name),) = await database.read(_HERE, {}, scan=True)
    roles = "".join(
        f"CREATE ROLE {_quoted(role)} NOLOGIN;  -- unless it is there already\n"
        f"GRANT {_quoted(role)} TO {_quoted(user)};\n"
        for role in (f"{prefix}_in_{place}" for prefix in FUNCTIONS)
    )
    return (
        f"-- A superuser runs this in the server of {' '.join(name.split())};"
        f" then, as the database's user, `storage sql --setup` again.\n{roles}"
    )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
