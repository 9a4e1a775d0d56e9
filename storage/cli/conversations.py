"""`storage conversations`: finding conversations and looking at one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from cyclopts import App, Group, Parameter

from storage.cli.connection import DEFAULT, AsJSON, Connection, User, flag, opened
from storage.cli.output import Column, line, moment, money, pairs, show_json, size, table
from storage.cli.output import count as counted

if TYPE_CHECKING:
    from storage.conversations.filters import ConversationFilters
    from storage.conversations.model import ConversationMetadata
    from storage.conversations.store import ConversationStore

app = App(name="conversations", help="Find conversations and look at them.")

_FILTERS: Final = Group("Filters (all that are given must hold)", sort_key=10)
_PAGING: Final = Group("Order and pages", sort_key=20)
_TIME: Final = "ISO 8601, UTC if it names no zone"


@Parameter(name="*", group=_FILTERS)
@dataclass(frozen=True)
class Filters:
    """Which conversations."""

    repository: Annotated[str | None, Parameter(help="Of this repository, as it is stored: owner/name.")] = None
    branch: Annotated[str | None, Parameter(help="On this branch.")] = None
    trigger: Annotated[str | None, Parameter(help="Started by this: gui, resolver, slack, …")] = None
    git_provider: Annotated[str | None, Parameter(help="Of this git provider: github, gitlab, …")] = None
    model: Annotated[str | None, Parameter(help="With this language model, by its whole name.")] = None
    tag: Annotated[list[str] | None, Parameter(negative="", help="With this tag; repeat it to ask for several.")] = None
    created_after: Annotated[datetime | None, Parameter(help=f"Created then or later ({_TIME}).")] = None
    created_before: Annotated[datetime | None, Parameter(help=f"Created earlier ({_TIME}).")] = None
    updated_after: Annotated[datetime | None, Parameter(help=f"Last updated then or later ({_TIME}).")] = None
    updated_before: Annotated[datetime | None, Parameter(help=f"Last updated earlier ({_TIME}).")] = None
    sandbox_id: Annotated[str | None, Parameter(help="In this sandbox.")] = None
    parent: Annotated[str | None, Parameter(help="Sub-conversations of this conversation.")] = None
    include_sub_conversations: Annotated[
        bool, flag("Also conversations that have a parent; they are left out otherwise.")
    ] = False

    def as_arguments(self, title: str | None = None) -> ConversationFilters:
        """What the store's search takes."""
        return {
            "title": title,
            "repository": self.repository,
            "branch": self.branch,
            "trigger": self.trigger,
            "git_provider": self.git_provider,
            "model": self.model,
            "tags": self.tag,
            "created_after": _aware(self.created_after),
            "created_before": _aware(self.created_before),
            "updated_after": _aware(self.updated_after),
            "updated_before": _aware(self.updated_before),
            "sandbox_id": self.sandbox_id,
            "parent_conversation_id": self.parent,
            "include_sub_conversations": self.include_sub_conversations,
        }


@Parameter(name="*", group=_PAGING)
@dataclass(frozen=True)
class Paging:
    """Which part of them, in which order."""

    sort: Annotated[Literal["created", "updated", "title", "cost"], Parameter(help="What to sort by.")] = "created"
    order: Annotated[
        Literal["asc", "desc"] | None,
        Parameter(help="Ascending or descending; titles ascend and the others descend if it is not given."),
    ] = None
    limit: Annotated[int, Parameter(help="Conversations on a page, 1 to 1000.")] = 20
    page: Annotated[
        str | None, Parameter(help="The page to show: `next_page_id` of the page before, asked for in the same order.")
    ] = None

    @property
    def order_by(self) -> str:
        """The store's name of the order."""
        direction = self.order or ("asc" if self.sort == "title" else "desc")
        return f"{_SORT_FIELDS[self.sort]}.{direction}"


_SORT_FIELDS: Final = {
    "created": "created_at",
    "updated": "last_updated_at",
    "title": "title",
    "cost": "accumulated_cost",
}
_NO_FILTERS: Final = Filters()
_FIRST_PAGE: Final = Paging()


@app.command(name="list")
async def list_(
    *,
    filters: Filters = _NO_FILTERS,
    paging: Paging = _FIRST_PAGE,
    user: User = None,
    connection: Connection = DEFAULT,
    json: AsJSON = False,
) -> None:
    """List a user's conversations, newest first.

    JSON: `{results, next_page_id}`; each result is a conversation with all its fields, `next_page_id` is null on the
    last page.
    """
    await _page(None, filters, paging, user, connection, json=json)


@app.command
async def search(
    text: Annotated[str, Parameter(help="What the title contains, in upper or lower case.")],
    /,
    *,
    filters: Filters = _NO_FILTERS,
    paging: Paging = _FIRST_PAGE,
    user: User = None,
    connection: Connection = DEFAULT,
    json: AsJSON = False,
) -> None:
    """Find conversations by their title.

    JSON: as `storage conversations list`.
    """
    await _page(text, filters, paging, user, connection, json=json)


@app.command
async def show(
    conversation_id: Annotated[str, Parameter(help="The conversation's id, as `storage conversations list` shows it.")],
    /,
    *,
    user: User = None,
    connection: Connection = DEFAULT,
    json: AsJSON = False,
) -> None:
    """Show everything that is known of one conversation.

    JSON: `{conversation, sub_conversations: [id], files: {count, bytes}}`.
    """
    from storage.reporting.usage import conversation_usage

    async with opened(connection) as storage:
        store: ConversationStore = storage.user(user).conversations
        found = await store.get_metadata(conversation_id)
        children = [child.conversation_id for child in await store.get_sub_conversations(conversation_id)]
        files, stored = await conversation_usage(storage.database, user, conversation_id)
    fields = found.model_dump(mode="json")
    if json:
        show_json({"conversation": fields, "sub_conversations": children, "files": {"count": files, "bytes": stored}})
        return
    pairs(
        [
            *fields.items(),
            ("sub_conversations", children),
            ("files", f"{counted(files, 'file')}, {size(stored)}"),
        ]
    )


@app.command
async def count(
    text: Annotated[str | None, Parameter(help="What the title contains, in upper or lower case.")] = None,
    /,
    *,
    filters: Filters = _NO_FILTERS,
    user: User = None,
    connection: Connection = DEFAULT,
    json: AsJSON = False,
) -> None:
    """Count a user's conversations; takes the filters of list and search, and agrees with them.

    JSON: `{count}`.
    """
    async with opened(connection) as storage:
        number = await storage.user(user).conversations.count(**filters.as_arguments(text))
    if json:
        show_json({"count": number})
    else:
        line(str(number))


async def _page(
    text: str | None, filters: Filters, paging: Paging, user: str | None, connection: Connection, *, json: bool
) -> None:
    async with opened(connection) as storage:
        store: ConversationStore = storage.user(user).conversations
        page = await store.search(paging.page, paging.limit, sort=paging.order_by, **filters.as_arguments(text))
    if json:
        results = [found.model_dump(mode="json") for found in page.results]
        show_json({"results": results, "next_page_id": page.next_page_id})
        return
    if not page.results:
        line("no conversations")
        return
    columns = [
        Column("Conversation"),
        Column("Title", wrap=True),
        Column("Repository", wide=True),
        Column("Model", wide=True),
        Column("Created (UTC)" if paging.sort == "created" else "Updated (UTC)"),
        Column("Cost", number=True),
    ]
    table(columns, [_row(found, created=paging.sort == "created") for found in page.results])
    if page.next_page_id is not None:
        line()
        line(f"more: the same command with --page {page.next_page_id}")


def _row(found: ConversationMetadata, *, created: bool) -> tuple[Any, ...]:
    return (
        found.conversation_id,
        found.title,
        found.selected_repository,
        found.llm_model,
        moment(found.created_at if created else found.last_updated_at or found.created_at),
        money(found.accumulated_cost),
    )


def _aware(value: datetime | None) -> datetime | None:
    return value if value is None or value.tzinfo is not None else value.replace(tzinfo=UTC)
