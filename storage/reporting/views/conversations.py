"""Views of conversations: each one, and what they cost by day, model and repository."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import BigInteger, bindparam, cast, distinct, func, select
from sqlalchemy.sql.elements import ColumnElement

from storage.conversations.table import UPDATED, ConversationTable
from storage.database.types import PlainText
from storage.files.table import FileTable
from storage.reporting.views.expressions import day_of, json_value, readable_time, total, total_usd
from storage.reporting.views.view import View, columns

CONVERSATION: Final[Any] = ConversationTable.__table__  # type: ignore[attr-defined]
FILE: Final[Any] = FileTable.__table__  # type: ignore[attr-defined]

_TOKENS: Final = (
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
)
_PROMPT: Final = ("prompt_tokens", "integer", "tokens sent to the model, cached ones among them")
_COMPLETION: Final = ("completion_tokens", "integer", "tokens that the model wrote")
_TOTAL: Final = ("total_tokens", "integer", "prompt and completion tokens")
_TOKEN_COLUMNS: Final = (
    _PROMPT,
    _COMPLETION,
    _TOTAL,
    ("cache_read_tokens", "integer", "prompt tokens that came from the provider's cache"),
    ("cache_write_tokens", "integer", "prompt tokens that went into the provider's cache"),
    ("reasoning_tokens", "integer", "tokens that the model spent on reasoning"),
)
_COST: Final = ("cost_usd", "number", "US dollars")
_CONVERSATIONS: Final = ("conversations", "integer", "how many conversations")
_FIRST: Final = ("first_used_at", "time", "when the first of them began")
_LAST: Final = ("last_used_at", "time", "when one of them last changed")
_USERS: Final = ("users", "integer", "how many users they belong to")


def owned(column: ColumnElement[Any], user_id: str | None) -> tuple[ColumnElement[bool], ...]:
    """The condition that rows are a user's; none for everybody."""
    return () if user_id is None else (column == bindparam(None, user_id, type_=PlainText()),)


def _c() -> Any:
    return CONVERSATION.c


def _sums() -> list[Any]:
    return [
        func.count().label("conversations"),
        total_usd(_c().accumulated_cost).label("cost_usd"),
        *(total(_c()[name]).label(name) for name in _TOKENS),
    ]


def _used() -> tuple[Any, Any]:
    first, last = func.min(_c().created_at), func.max(UPDATED)
    return readable_time(first).label("first_used_at"), readable_time(last).label("last_used_at")


def _conversation(user_id: str | None) -> Any:
    c = _c()
    of_it = (c.user_id == FILE.c.user_id, c.conversation_id == FILE.c.conversation_id)
    files = select(func.count()).select_from(FILE).where(*of_it).correlate(CONVERSATION).scalar_subquery()
    size = select(total(FILE.c.size)).where(*of_it).correlate(CONVERSATION).scalar_subquery()
    # Besides its use it keeps PostgreSQL from passing a DELETE on to the table, as it does through views of one table.
    parent = CONVERSATION.alias("parent")
    is_its_parent = (parent.c.user_id == c.user_id) & (parent.c.conversation_id == c.parent_conversation_id)
    query = select(
        c.user_id,
        c.conversation_id,
        c.title,
        c.selected_repository.label("repository"),
        c.selected_branch.label("branch"),
        c.git_provider,
        c.trigger,
        c.llm_model.label("model"),
        c.accumulated_cost.label("cost_usd"),
        c.max_budget_per_task.label("budget_usd"),
        *(c[name] for name in _TOKENS),
        c.context_window,
        json_value(c.pr_number).label("pr_numbers"),
        json_value(c.tags).label("tags"),
        c.public.label("is_public"),
        c.parent_conversation_id,
        parent.c.title.label("parent_title"),
        c.sandbox_id,
        day_of(c.created_at).label("created_day"),
        readable_time(c.created_at).label("created_at"),
        readable_time(UPDATED).label("updated_at"),
        files.label("files"),
        size.label("file_bytes"),
    )
    return query.select_from(CONVERSATION.outerjoin(parent, is_its_parent)).where(*owned(c.user_id, user_id))


def _usage_daily(user_id: str | None) -> Any:
    c = _c()
    by = (day_of(c.created_at), c.user_id, c.llm_model, c.trigger, c.selected_repository)
    day, user, model, trigger, repository = by
    return (
        select(day.label("day"), user, model.label("model"), trigger, repository.label("repository"), *_sums())
        .where(*owned(c.user_id, user_id))
        .group_by(*by)
    )


def _model(user_id: str | None) -> Any:
    c = _c()
    users = cast(func.count(distinct(c.user_id)), BigInteger).label("users")
    return (
        select(c.llm_model.label("model"), users, *_sums(), *_used())
        .where(*owned(c.user_id, user_id))
        .group_by(c.llm_model)
    )


def _repository(user_id: str | None) -> Any:
    c = _c()
    users = cast(func.count(distinct(c.user_id)), BigInteger).label("users")
    return (
        select(
            c.selected_repository.label("repository"),
            c.git_provider,
            users,
            func.count().label("conversations"),
            total_usd(c.accumulated_cost).label("cost_usd"),
            total(c.total_tokens).label("total_tokens"),
            *_used(),
        )
        .where(c.selected_repository.is_not(None), *owned(c.user_id, user_id))
        .group_by(c.selected_repository, c.git_provider)
    )


CONVERSATION_VIEW: Final = View(
    "report_conversation",
    "A conversation.",
    columns(
        ("user_id", "text", "whose; `local` is the one user of a desktop install"),
        ("conversation_id", "text", "its id"),
        ("title", "text", "as people see it; null without one"),
        ("repository", "text", "it works on, such as `acme/api`; null without one"),
        ("branch", "text", "it works on"),
        ("git_provider", "text", "where the repository is: `github`, `gitlab`, …"),
        ("trigger", "text", "what began it: `gui`, `resolver`, `slack`, …"),
        ("model", "text", "the language model it last used"),
        ("cost_usd", "number", "so far, US dollars"),
        ("budget_usd", "number", "US dollars it may cost; null without a limit"),
        *_TOKEN_COLUMNS,
        ("context_window", "integer", "of the model, tokens"),
        ("pr_numbers", "json", "numbers of its pull requests, a list"),
        ("tags", "json", "a list of texts"),
        ("is_public", "boolean", "whether everybody with the link may read it; null if never said"),
        ("parent_conversation_id", "text", "the conversation that it is a part of"),
        ("parent_title", "text", "the title of that one"),
        ("sandbox_id", "text", "where it runs"),
        ("created_day", "day", "when it began"),
        ("created_at", "time", "when it began"),
        ("updated_at", "time", "when it last changed"),
        ("files", "integer", "how many files it has"),
        ("file_bytes", "integer", "bytes of these files"),
    ),
    _conversation,
)
USAGE_DAILY: Final = View(
    "report_usage_daily",
    "What the conversations cost that began on one day, by user, model, trigger and repository.",
    columns(
        ("day", "day", "when they began"),
        ("user_id", "text", "whose"),
        ("model", "text", "the language model; null if none was used"),
        ("trigger", "text", "what began them"),
        ("repository", "text", "they work on"),
        _CONVERSATIONS,
        _COST,
        *_TOKEN_COLUMNS,
    ),
    _usage_daily,
)
MODEL: Final = View(
    "report_model",
    "A language model, over all conversations that last used it; null if none was used.",
    columns(("model", "text", "its name"), _USERS, _CONVERSATIONS, _COST, *_TOKEN_COLUMNS, _FIRST, _LAST),
    _model,
)
REPOSITORY: Final = View(
    "report_repository",
    "A repository, over all conversations that work on it.",
    columns(
        ("repository", "text", "such as `acme/api`"),
        ("git_provider", "text", "where it is"),
        _USERS,
        _CONVERSATIONS,
        _COST,
        _TOTAL,
        _FIRST,
        _LAST,
    ),
    _repository,
)
