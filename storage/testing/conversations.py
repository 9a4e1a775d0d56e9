"""What every ConversationStore promises, as tests that any implementation can run against itself.

A test module subclasses the suite and gives it two stores in one place, of two users:

    class TestMyConversationStore(ConversationStoreContract):
        @pytest.fixture
        async def store(self): ...

        @pytest.fixture
        async def other_store(self, store): ...

Each test starts with both empty. Needs pytest, and pytest-asyncio with `asyncio_mode = auto`.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from storage.conversations.cursor import ConversationSort
from storage.conversations.filters import MOST_RESULTS, checked_filters, matches, sort_key
from storage.conversations.model import ConversationMetadata, ConversationTrigger
from storage.conversations.store import ConversationStore, SaveOutcome
from storage.errors import ConversationNotFound, IdentifierTaken, InvalidInput
from storage.providers import ProviderType

NOON = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)

FULL: dict[str, Any] = {
    "conversation_id": "full",
    "selected_repository": "acme/widgets",
    "selected_branch": "fix/build",
    "git_provider": ProviderType.GITLAB,
    "title": "Fix the build \U0001f6e0",
    "last_updated_at": NOON + timedelta(microseconds=1),
    "trigger": ConversationTrigger.SUGGESTED_TASK,
    "pr_number": [7, 12],
    "created_at": NOON,
    "llm_model": "anthropic/claude-sonnet-4",
    "accumulated_cost": 0.1,
    "max_budget_per_task": 5.0,
    "prompt_tokens": 2**63 - 1,
    "completion_tokens": 2,
    "total_tokens": 3,
    "cache_read_tokens": 4,
    "cache_write_tokens": 5,
    "reasoning_tokens": 6,
    "context_window": 200_000,
    "per_turn_token": 8,
    "sandbox_id": "sandbox-1",
    "conversation_version": "V1",
    "public": False,
    "tags": ["urgent", "build"],
    "parent_conversation_id": "parent",
    "unknown": {"nested": [1, None, {"deep": True}]},
}
"""A conversation with a value in every field, and in one that nobody knows."""

SAMPLE: tuple[dict[str, Any], ...] = (
    {"conversation_id": "a", "title": "Fix the Build", "created_at": NOON, "tags": ["x", "y"], "accumulated_cost": 2.5},
    {"conversation_id": "b", "title": "100% _done_ \\o/", "created_at": NOON + timedelta(hours=1), "tags": ["x"]},
    {"conversation_id": "c", "created_at": NOON + timedelta(hours=2), "selected_repository": "acme/widgets"},
    {"conversation_id": "d", "title": "fix the build", "created_at": NOON, "trigger": "gui", "llm_model": "gpt"},
    {"conversation_id": "e", "title": "\u00c4pfel", "created_at": NOON, "git_provider": "github", "sandbox_id": "s"},
    {"conversation_id": "f", "title": "100x", "created_at": NOON, "selected_branch": "main", "trigger": "new-one"},
    {
        "conversation_id": "g",
        "title": "",
        "created_at": NOON - timedelta(days=1),
        "last_updated_at": NOON + timedelta(days=1),
        "accumulated_cost": 2.5,
    },
    {"conversation_id": "h", "title": "sub", "created_at": NOON, "parent_conversation_id": "a", "tags": ["x"]},
    {"conversation_id": "i", "title": "sub of sub", "created_at": NOON, "parent_conversation_id": "h"},
)

FILTERS: tuple[dict[str, Any], ...] = (
    {},
    {"title": None, "tags": None},
    {"include_sub_conversations": True},
    {"title": "fix THE"},
    {"title": "100%"},
    {"title": "_"},
    {"title": "\\"},
    {"title": "\u00e4"},
    {"title": ""},
    {"repository": "acme/widgets"},
    {"repository": "acme"},
    {"branch": "main"},
    {"trigger": ConversationTrigger.GUI},
    {"trigger": "new-one"},
    {"git_provider": ProviderType.GITHUB},
    {"model": "gpt"},
    {"sandbox_id": "s"},
    {"tags": ["x"]},
    {"tags": ["y", "x"]},
    {"tags": []},
    {"tags": ("x",), "include_sub_conversations": True},
    {"created_after": NOON},
    {"created_before": NOON},
    {"created_after": NOON, "created_before": NOON + timedelta(hours=1)},
    {"updated_after": NOON + timedelta(hours=2)},
    {"updated_before": NOON + timedelta(hours=1)},
    {"updated_after": NOON.astimezone(timezone(timedelta(hours=5)))},
    {"parent_conversation_id": "a"},
    {"parent_conversation_id": "a", "tags": ["x"], "created_after": NOON},
    {"parent_conversation_id": "nobody"},
    {"title": "fix", "trigger": "gui", "model": "gpt", "created_after": NOON},
)

BAD_FILTERS: tuple[dict[str, Any], ...] = (
    {"title": 5},
    {"title": "nul\0"},
    {"tags": "x"},
    {"tags": [1]},
    {"created_after": "2026-01-01"},
    {"updated_before": datetime(2026, 1, 1)},  # noqa: DTZ001 - naive on purpose
)

DAMAGES: dict[str, Callable[[str], str]] = {
    "empty": lambda _: "",
    "not base64": lambda _: "?" * 8,
    "not JSON": lambda _: base64.urlsafe_b64encode(b"hello there").decode(),
    "no list": lambda _: base64.urlsafe_b64encode(b'{"a":1}').decode(),
    "cut off": lambda cursor: cursor[: len(cursor) // 2],
    "of another format": lambda cursor: _rewritten(cursor, 0, 99),
    "of a wrong type": lambda cursor: _rewritten(cursor, 2, "yesterday"),
    "of a value out of range": lambda cursor: _rewritten(cursor, 2, 10**30),
    "too long": lambda cursor: cursor * 100_000,
    "with NUL": lambda cursor: _rewritten(cursor, 3, "\0"),
}


def _rewritten(cursor: str, position: int, value: object) -> str:
    parts = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    parts[position] = value
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


async def pages(store: ConversationStore, limit: int, **options: Any) -> list[list[str]]:
    """The ids of every page of a search."""
    found = []
    page_id = None
    while True:
        page = await store.search(page_id, limit, **options)
        found.append([metadata.conversation_id for metadata in page.results])
        page_id = page.next_page_id
        if page_id is None:
            return found


def expected(conversations: list[ConversationMetadata], sort: ConversationSort, filters: dict[str, Any]) -> list[str]:
    """The ids that a search must find, in order, by the plain Python meaning of filters and sorts."""
    checked = checked_filters(filters)
    found = sorted(
        (metadata for metadata in conversations if matches(metadata, checked)),
        key=lambda metadata: sort_key(metadata, sort),
        reverse=sort.descending,
    )
    return [metadata.conversation_id for metadata in found]


class ConversationStoreContract:
    """The suite. See the module's docstring for the fixtures it needs."""

    @pytest.fixture
    async def store(self) -> ConversationStore:
        """An empty store of one user."""
        raise NotImplementedError("override the fixture `store`")

    @pytest.fixture
    async def other_store(self, store: ConversationStore) -> ConversationStore:
        """A store of another user, in the same place as `store`."""
        raise NotImplementedError("override the fixture `other_store`")

    @pytest.fixture
    async def sample(self, store: ConversationStore) -> list[ConversationMetadata]:
        """The conversations of SAMPLE, saved."""
        conversations = [ConversationMetadata(**values) for values in SAMPLE]
        for metadata in conversations:
            await store.save_metadata(metadata)
        return conversations

    # ---- save and get

    async def test_every_field_comes_back_equal(self, store: ConversationStore) -> None:
        """Also the ones that nobody knows, and times to the microsecond."""
        await store.save_metadata(ConversationMetadata(**FULL))
        found = await store.get_metadata("full")
        assert found.model_dump(exclude={"user_id"}) == FULL
        assert found.model_extra == {"unknown": FULL["unknown"]}
        assert found.trigger is ConversationTrigger.SUGGESTED_TASK
        assert found.git_provider is ProviderType.GITLAB
        assert found.created_at.utcoffset() == timedelta(0)

    async def test_a_new_conversation_needs_only_an_id(self, store: ConversationStore) -> None:
        """Everything else has a default that comes back as it was."""
        metadata = ConversationMetadata(conversation_id="c1")
        await store.save_metadata(metadata)
        found = await store.get_metadata("c1")
        assert found.model_dump(exclude={"user_id"}) == metadata.model_dump(exclude={"user_id"})

    async def test_what_comes_back_can_be_changed_and_saved(self, store: ConversationStore) -> None:
        """A save replaces the whole, extra fields included."""
        await store.save_metadata(ConversationMetadata(**FULL))
        found = await store.get_metadata("full")
        found.title = None
        found.tags.append("later")
        found.prompt_tokens = 0
        assert found.model_extra is not None
        found.model_extra["unknown"] = "changed"
        await store.save_metadata(found)
        again = await store.get_metadata("full")
        assert again.title is None
        assert again.tags == ["urgent", "build", "later"]
        assert again.model_extra == {"unknown": "changed"}
        assert again.model_dump() == found.model_dump()
        await store.save_metadata(ConversationMetadata(conversation_id="full"))
        assert (await store.get_metadata("full")).model_extra == {}

    async def test_changing_what_came_back_does_not_change_what_is_stored(self, store: ConversationStore) -> None:
        """Until it is saved."""
        await store.save_metadata(ConversationMetadata(**FULL))
        found = await store.get_metadata("full")
        found.title = "changed"
        found.tags.clear()
        assert (await store.get_metadata("full")).tags == FULL["tags"]
        assert (await store.get_metadata("full")).title == FULL["title"]

    async def test_unknown_triggers_and_providers_are_kept_and_shown(self, store: ConversationStore) -> None:
        """They come from a newer release and are no reason to hide a conversation."""
        await store.save_metadata(
            ConversationMetadata(conversation_id="c1", trigger="carrier_pigeon", git_provider="sourcehut")
        )
        found = await store.get_metadata("c1")
        assert (found.trigger, found.git_provider) == ("carrier_pigeon", "sourcehut")
        assert [metadata.trigger for metadata in (await store.search()).results] == ["carrier_pigeon"]

    async def test_a_time_in_another_zone_is_the_same_moment(self, store: ConversationStore) -> None:
        """Kept in UTC."""
        elsewhere = NOON.astimezone(timezone(timedelta(hours=-7)))
        await store.save_metadata(ConversationMetadata(conversation_id="c1", created_at=elsewhere))
        assert (await store.get_metadata("c1")).created_at == NOON

    async def test_values_slipped_past_the_model_are_refused_when_saving(self, store: ConversationStore) -> None:
        """Lists are edited in place, and copies are not validated."""
        good = ConversationMetadata(conversation_id="c1")
        edited = good.model_copy(deep=True)
        edited.tags.append("nul\0")
        slipped = (
            edited,
            good.model_copy(update={"prompt_tokens": -1}),
            good.model_copy(update={"accumulated_cost": float("nan")}),
            good.model_copy(update={"created_at": datetime(2026, 1, 1)}),  # noqa: DTZ001 - naive on purpose
            good.model_copy(update={"title": 5}),
            good.model_copy(update={"conversation_id": ""}),
        )
        for metadata in slipped:
            with pytest.raises(InvalidInput):
                await store.save_metadata(metadata)
        assert await store.count() == 0

    # ---- whose it is

    async def test_a_conversation_of_someone_else_does_not_exist_here(
        self, store: ConversationStore, other_store: ConversationStore
    ) -> None:
        """Whatever is asked."""
        await other_store.save_metadata(ConversationMetadata(**{**FULL, "parent_conversation_id": None}))
        with pytest.raises(ConversationNotFound):
            await store.get_metadata("full")
        with pytest.raises(ConversationNotFound):
            await store.update_metadata("full", title="mine")
        with pytest.raises(ConversationNotFound):
            await store.add_usage("full", cost=1)
        assert not await store.exists("full")
        assert await store.delete_metadata("full") is False
        assert await store.get_all_metadata(["full"]) == [None]
        assert (await store.search()).results == []
        assert await store.count() == 0
        assert (await other_store.get_metadata("full")).title == FULL["title"]

    async def test_an_id_of_someone_else_cannot_be_taken(
        self, store: ConversationStore, other_store: ConversationStore
    ) -> None:
        """And the refusal tells nothing about them."""
        await other_store.save_metadata(ConversationMetadata(conversation_id="c1", title="theirs"))
        with pytest.raises(IdentifierTaken) as refusal:
            await store.save_metadata(ConversationMetadata(conversation_id="c1", title="mine"))
        assert "theirs" not in str(refusal.value)
        assert await store.save_many([ConversationMetadata(conversation_id="c1")]) == [SaveOutcome.TAKEN]
        assert (await other_store.get_metadata("c1")).title == "theirs"
        await other_store.delete_metadata("c1")
        await store.save_metadata(ConversationMetadata(conversation_id="c1", title="mine"))

    async def test_the_owner_is_filled_in_and_cannot_be_another(
        self, store: ConversationStore, other_store: ConversationStore
    ) -> None:
        """So that nobody writes into another's list."""
        await store.save_metadata(ConversationMetadata(conversation_id="c1"))
        owner = (await store.get_metadata("c1")).user_id
        await store.save_metadata(ConversationMetadata(conversation_id="c1", user_id=owner))
        with pytest.raises(InvalidInput, match="user_id"):
            await other_store.save_metadata(ConversationMetadata(conversation_id="c2", user_id=owner or "local"))

    async def test_validating_tells_whether_it_is_this_users(
        self, store: ConversationStore, other_store: ConversationStore
    ) -> None:
        """And nothing of conversations in other stores."""
        await store.save_metadata(ConversationMetadata(conversation_id="c1"))
        owner = (await store.get_metadata("c1")).user_id
        assert await store.validate_metadata("c1", owner)
        assert not await store.validate_metadata("c1", "someone-else")
        assert not await store.validate_metadata("missing", owner)
        assert not await other_store.validate_metadata("c1", owner)

    # ---- what is not there

    async def test_a_missing_conversation_is_not_found(self, store: ConversationStore) -> None:
        """By an error that is a FileNotFoundError and names the id."""
        for look in (store.get_metadata, store.update_metadata, store.add_usage):
            with pytest.raises(ConversationNotFound, match="missing"):
                await look("missing")
            with pytest.raises(FileNotFoundError):
                await look("missing")
        assert not await store.exists("missing")
        assert await store.delete_metadata("missing") is False
        assert await store.get_sub_conversations("missing") == []

    async def test_many_are_found_in_the_order_asked_for(
        self, store: ConversationStore, sample: list[ConversationMetadata]
    ) -> None:
        """None for each that is not there, the same one twice if asked twice."""
        found = await store.get_all_metadata(iter(["c", "missing", "a", "c"]))
        assert [metadata and metadata.conversation_id for metadata in found] == ["c", None, "a", "c"]
        assert await store.get_all_metadata([]) == []

    # ---- delete

    async def test_deleting_takes_sub_conversations_along_and_nothing_else(
        self, store: ConversationStore, sample: list[ConversationMetadata]
    ) -> None:
        """At any depth; a second time there is nothing left."""
        assert await store.exists("i")
        assert await store.delete_metadata("a") is True
        assert await store.delete_metadata("a") is False
        left = [metadata.conversation_id async for metadata in store.iterate(include_sub_conversations=True)]
        assert sorted(left) == ["b", "c", "d", "e", "f", "g"]

    async def test_deleting_ends_where_parents_go_in_a_circle(self, store: ConversationStore) -> None:
        """However they came to."""
        for conversation_id, parent in (("x", "z"), ("y", "x"), ("z", "y")):
            await store.save_metadata(
                ConversationMetadata(conversation_id=conversation_id, parent_conversation_id=parent)
            )
        assert await store.delete_metadata("y") is True
        assert await store.count(include_sub_conversations=True) == 0

    async def test_sub_conversations_are_found_oldest_first(self, store: ConversationStore) -> None:
        """Only the children, not theirs."""
        for hours, conversation_id, parent in ((2, "late", "p"), (1, "early", "p"), (0, "grandchild", "late")):
            await store.save_metadata(
                ConversationMetadata(
                    conversation_id=conversation_id,
                    parent_conversation_id=parent,
                    created_at=NOON + timedelta(hours=hours),
                )
            )
        subs = await store.get_sub_conversations("p")
        assert [metadata.conversation_id for metadata in subs] == ["early", "late"]

    # ---- search

    @pytest.mark.parametrize("filters", FILTERS, ids=str)
    async def test_search_count_and_iterate_find_what_the_filters_mean(
        self, store: ConversationStore, sample: list[ConversationMetadata], filters: dict[str, Any]
    ) -> None:
        """In every order, whatever the size of a page."""
        for sort in ConversationSort:
            wanted = expected(sample, sort, filters)
            for limit in (1, 2, MOST_RESULTS):
                found = await pages(store, limit, sort=sort, **filters)
                assert [conversation_id for page in found for conversation_id in page] == wanted
                assert all(len(page) == limit for page in found[:-1])
            assert [metadata.conversation_id async for metadata in store.iterate(sort=sort, **filters)] == wanted
            assert await store.count(**filters) == len(wanted)

    async def test_the_newest_come_first_unless_told_otherwise(
        self, store: ConversationStore, sample: list[ConversationMetadata]
    ) -> None:
        """By name or by member."""
        default = await pages(store, 3)
        assert default == await pages(store, 3, sort="created_at.desc")
        assert default == await pages(store, 3, sort=ConversationSort.CREATED_DESCENDING)
        assert default[0] == ["c", "b", "f"]

    async def test_an_exactly_full_page_is_the_last(self, store: ConversationStore) -> None:
        """No cursor to an empty page."""
        for number in range(4):
            await store.save_metadata(ConversationMetadata(conversation_id=f"c{number}"))
        first = await store.search(limit=2)
        assert first.next_page_id is not None
        assert (await store.search(first.next_page_id, 2)).next_page_id is None
        assert (await store.search(limit=4)).next_page_id is None

    async def test_a_page_goes_on_where_the_last_one_ended_whatever_happened_since(
        self, store: ConversationStore
    ) -> None:
        """New ones in front and deleted ones behind shift nothing."""
        for number in range(6):
            await store.save_metadata(
                ConversationMetadata(conversation_id=f"c{number}", created_at=NOON + timedelta(minutes=number))
            )
        first = await store.search(limit=2)
        await store.save_metadata(
            ConversationMetadata(conversation_id="newest", created_at=NOON + timedelta(minutes=9))
        )
        await store.delete_metadata(first.results[-1].conversation_id)
        second = await store.search(first.next_page_id, 2)
        assert [metadata.conversation_id for metadata in second.results] == ["c3", "c2"]

    @pytest.mark.parametrize("limit", [0, -1, MOST_RESULTS + 1, True, 2.0, "2", None])
    async def test_a_limit_out_of_bounds_is_refused(self, store: ConversationStore, limit: Any) -> None:
        """As a ValueError that names the bounds."""
        with pytest.raises(InvalidInput, match=r"limit .* 1 to 1000"):
            await store.search(limit=limit)

    @pytest.mark.parametrize("damage", list(DAMAGES))
    async def test_a_cursor_that_cannot_be_used_is_refused(
        self, store: ConversationStore, sample: list[ConversationMetadata], damage: str
    ) -> None:
        """As a ValueError that says what to do."""
        cursor = (await store.search(limit=1)).next_page_id
        assert cursor is not None
        with pytest.raises(InvalidInput, match="page_id"):
            await store.search(DAMAGES[damage](cursor), 1)

    async def test_a_cursor_of_another_order_is_refused(
        self, store: ConversationStore, sample: list[ConversationMetadata]
    ) -> None:
        """Instead of skipping conversations in silence."""
        cursor = (await store.search(limit=1, sort="title.asc")).next_page_id
        with pytest.raises(InvalidInput, match=r"page_id .* order"):
            await store.search(cursor, 1, sort="title.desc")

    @pytest.mark.parametrize("filters", BAD_FILTERS, ids=str)
    async def test_a_filter_value_that_does_not_fit_is_refused(
        self, store: ConversationStore, filters: dict[str, Any]
    ) -> None:
        """By search and count alike."""
        with pytest.raises(InvalidInput):
            await store.search(**filters)
        with pytest.raises(InvalidInput):
            await store.count(**filters)

    async def test_an_unknown_filter_or_order_is_refused(self, store: ConversationStore) -> None:
        """With a hint at what was meant."""
        with pytest.raises(TypeError, match="repository"):
            await store.search(repositori="acme/widgets")  # type: ignore[call-arg]
        with pytest.raises(TypeError):
            await store.count(nonsense=1)  # type: ignore[call-arg]
        with pytest.raises(InvalidInput, match=r"title\.asc"):
            await store.search(sort="sideways")

    # ---- update and usage

    async def test_an_update_changes_only_what_it_names(self, store: ConversationStore) -> None:
        """Nothing else moves, not even the time of the last update."""
        await store.save_metadata(ConversationMetadata(**FULL))
        await store.update_metadata("full", title="new", trigger="gui", tags=["z"], last_updated_at=None)
        found = await store.get_metadata("full")
        changed = {"title": "new", "trigger": ConversationTrigger.GUI, "tags": ["z"], "last_updated_at": None}
        assert found.model_dump(exclude={"user_id"}) == {**FULL, **changed}
        await store.update_metadata("full")
        assert found.model_dump() == (await store.get_metadata("full")).model_dump()

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"titel": "x"}, "title"),
            ({"title": "ok", "prompt_tokens": -1}, "prompt_tokens"),
            ({"created_at": datetime(2026, 1, 1)}, "created_at"),  # noqa: DTZ001 - naive on purpose
            ({"created_at": None}, "created_at"),
            ({"accumulated_cost": float("inf")}, "accumulated_cost"),
            ({"tags": ["nul\0"]}, "tags"),
            ({"user_id": "other"}, "user_id"),
            ({"version": 7}, "version"),
        ],
        ids=str,
    )
    async def test_an_update_that_does_not_fit_changes_nothing(
        self, store: ConversationStore, changes: dict[str, Any], message: str
    ) -> None:
        """And names the field."""
        await store.save_metadata(ConversationMetadata(**FULL))
        with pytest.raises(InvalidInput, match=message):
            await store.update_metadata("full", **changes)
        assert (await store.get_metadata("full")).model_dump(exclude={"user_id"}) == FULL

    async def test_usage_adds_up_when_two_tasks_add_at_once(self, store: ConversationStore) -> None:
        """Nothing of it is lost."""
        await store.save_metadata(ConversationMetadata(conversation_id="c1", prompt_tokens=5))

        async def work() -> None:
            for _ in range(100):
                await store.add_usage("c1", cost=0.5, prompt_tokens=1, completion_tokens=2, reasoning_tokens=3)

        await asyncio.gather(work(), work())
        found = await store.get_metadata("c1")
        assert found.accumulated_cost == 100.0
        assert (found.prompt_tokens, found.completion_tokens, found.total_tokens) == (205, 400, 600)
        assert found.reasoning_tokens == 600
        assert found.last_updated_at is not None

    async def test_usage_replaces_what_is_no_sum_only_when_given(self, store: ConversationStore) -> None:
        """The window and the last turn; everything else keeps its value."""
        await store.save_metadata(ConversationMetadata(**{**FULL, "prompt_tokens": 1}))
        await store.add_usage("full", context_window=9, total_tokens=100, cache_read_tokens=1, cache_write_tokens=1)
        await store.add_usage("full", per_turn_token=0)
        found = await store.get_metadata("full")
        changed = {"context_window": 9, "per_turn_token": 0, "total_tokens": 103, "prompt_tokens": 1}
        changed |= {"cache_read_tokens": 5, "cache_write_tokens": 6}
        ignored = {"user_id", "last_updated_at"}
        assert found.model_dump(exclude=ignored) == {
            name: value for name, value in {**FULL, **changed}.items() if name not in ignored
        }

    @pytest.mark.parametrize(
        "usage",
        [
            {"cost": -1},
            {"cost": float("nan")},
            {"cost": float("inf")},
            {"prompt_tokens": -1},
            {"completion_tokens": 1.5},
            {"context_window": -1},
            {"per_turn_token": True},
            {"total_tokens": 2**63},
        ],
        ids=str,
    )
    async def test_usage_that_is_no_usage_is_refused(self, store: ConversationStore, usage: dict[str, Any]) -> None:
        """Sums only grow."""
        await store.save_metadata(ConversationMetadata(conversation_id="c1"))
        before = (await store.get_metadata("c1")).model_dump()
        with pytest.raises(InvalidInput, match=next(iter(usage))):
            await store.add_usage("c1", **usage)
        assert (await store.get_metadata("c1")).model_dump() == before

    # ---- many at once

    async def test_saving_many_creates_the_new_and_keeps_the_old(self, store: ConversationStore) -> None:
        """With one outcome for each, and the same again the second time."""
        await store.save_metadata(ConversationMetadata(conversation_id="kept", title="mine", created_at=NOON))
        batch = [
            ConversationMetadata(**FULL),
            ConversationMetadata(conversation_id="kept", title="theirs", created_at=NOON),
            ConversationMetadata(conversation_id="new", created_at=NOON),
            ConversationMetadata(conversation_id="new", created_at=NOON, title="again"),
            ConversationMetadata(conversation_id="new", created_at=NOON),
        ]
        created, kept, unchanged = SaveOutcome.CREATED, SaveOutcome.KEPT, SaveOutcome.UNCHANGED
        assert await store.save_many(batch) == [created, kept, created, kept, unchanged]
        assert await store.save_many(batch) == [unchanged, kept, unchanged, kept, unchanged]
        assert (await store.get_metadata("kept")).title == "mine"
        assert (await store.get_metadata("full")).model_dump(exclude={"user_id"}) == FULL
        assert await store.save_many([]) == []
