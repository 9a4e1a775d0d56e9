"""What a policy removes is what its trial said, whole and with all that belongs to it, and nothing that is in use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from storage import Change, ConversationMetadata, Storage
from storage.clock import now
from storage.database.pace import FEWEST
from storage.database.types import to_microseconds
from storage.errors import ConfigurationError, ConversationNotFound, InvalidInput
from storage.retention.policy import RetentionPolicy
from storage.retention.verbs import Retention

DAY = timedelta(days=1)


@pytest.fixture
async def storage(database_url: str, tmp_path: Path) -> AsyncIterator[Storage]:
    options = {"data_dir": tmp_path / "data", "master_key_file": tmp_path / "key", "webhook_delivery": False}
    async with Storage.open(database_url, **options) as opened:
        yield opened


@pytest.fixture(autouse=True)
def without_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.database.pace.REST", 0.0)


def days_ago(days: float) -> datetime:
    return now() - days * DAY


async def converse(
    storage: Storage, user_id: str, name: str, days: float, used: float | None = None, **more: Any
) -> None:
    """A conversation that began so many days ago, and changed last so many days ago."""
    metadata = ConversationMetadata(
        conversation_id=name,
        created_at=days_ago(days),
        last_updated_at=None if used is None else days_ago(used),
        **more,
    )
    await storage.user(user_id).conversations.save_metadata(metadata)


async def written(storage: Storage, user_id: str, path: str, days: float) -> None:
    """A file that was written so many days ago."""
    await storage.user(user_id).files.write(path, b"12345")
    moment: Any = days_ago(days)
    if storage.database.dialect == "sqlite":
        moment = to_microseconds(moment)
    async with storage.session() as session:
        statement = text("UPDATE file SET updated_at = :moment WHERE user_id = :user_id AND path = :path")
        await (await session.connection()).execute(statement, {"moment": moment, "user_id": user_id, "path": path})
        await session.commit()


async def left(storage: Storage, user_id: str) -> set[str]:
    found = await storage.user(user_id).conversations.search(limit=100)
    return {metadata.conversation_id for metadata in found.results}


async def test_what_is_too_old_too_long_unused_or_too_many_goes(storage: Storage) -> None:
    await converse(storage, "ada", "old", 400, 1)
    await converse(storage, "ada", "idle", 200, 100)
    await converse(storage, "ada", "idle-never-changed", 95)
    await converse(storage, "ada", "used", 200, 10)
    await converse(storage, "ada", "new", 2)
    await converse(storage, "bob", "of-bob", 5)
    for name in ("old", "idle", "used"):
        await written(storage, "ada", f"sessions/{name}/events/0.json", 100)
    policy = RetentionPolicy(conversation_age=365 * DAY, conversation_idle=90 * DAY, conversations_per_user=1)
    trial = await storage.retention.trial(policy)
    assert trial.conversations == {"age": 1, "cap": 1, "idle": 2}
    assert (trial.users, trial.sub_conversations, trial.files, trial.bytes) == (1, 0, 3, 15)
    assert [(each.conversation_id, each.reason) for each in trial.first] == [
        ("idle", "idle"),
        ("idle-never-changed", "idle"),
        ("used", "cap"),
        ("old", "age"),
    ]
    assert len(await left(storage, "ada")) == 5, "a trial changes nothing"
    done = await storage.retention.run(policy)
    assert (done.conversations, done.files, done.left) == (4, 3, 0)
    assert await left(storage, "ada") == {"new"}
    assert await left(storage, "bob") == {"of-bob"}
    assert [stat async for stat in storage.user("ada").files.walk()] == []
    assert (await storage.retention.trial(policy)).conversations == {}


async def test_only_one_users_conversations_go_if_one_is_named(storage: Storage) -> None:
    for user in ("ada", "bob"):
        await converse(storage, user, f"of-{user}", 400)
        await storage.user(user).settings.update(language="de")
    policy = RetentionPolicy(conversation_age=DAY, events_per_user=1)
    trial = await storage.retention.trial(policy, user_id="ada")
    assert (trial.conversations, trial.events_by_cap) == ({"age": 1}, 1)
    await storage.retention.run(policy, user_id="ada")
    assert await left(storage, "ada") == set()
    assert await left(storage, "bob") == {"of-bob"}
    with pytest.raises(InvalidInput):
        await storage.retention.run(policy, user_id="a\0b")


async def test_a_file_that_was_written_lately_keeps_its_conversation_from_being_idle(storage: Storage) -> None:
    await converse(storage, "ada", "c1", 200)
    await written(storage, "ada", "sessions/c1/events/0.json", 100)
    await written(storage, "ada", "sessions/c1/events/1.json", 10)
    idle = RetentionPolicy(conversation_idle=90 * DAY)
    assert (await storage.retention.trial(idle)).conversations == {}
    assert (await storage.retention.run(idle)).conversations == 0
    old = RetentionPolicy(conversation_age=90 * DAY)
    assert (await storage.retention.trial(old)).conversations == {"age": 1}


async def test_a_conversation_goes_with_its_sub_conversations_or_not_at_all(storage: Storage) -> None:
    await converse(storage, "ada", "parent", 400, 300)
    await converse(storage, "ada", "child", 390, 10, parent_conversation_id="parent")
    await converse(storage, "ada", "gone-parent", 400, 300)
    await converse(storage, "ada", "gone-child", 390, 290, parent_conversation_id="gone-parent")
    await converse(storage, "ada", "gone-grandchild", 380, parent_conversation_id="gone-child")
    await converse(storage, "ada", "orphan", 380, parent_conversation_id="nobody")
    policy = RetentionPolicy(conversation_idle=90 * DAY)
    trial = await storage.retention.trial(policy)
    assert (trial.conversations, trial.sub_conversations) == ({"idle": 2}, 2)
    await storage.retention.run(policy)
    assert await left(storage, "ada") == {"parent"}
    assert await storage.user("ada").conversations.exists("child")
    assert not await storage.user("ada").conversations.exists("gone-grandchild")


async def test_conversations_that_are_each_others_parents_go_too(storage: Storage) -> None:
    await converse(storage, "ada", "a", 400, parent_conversation_id="b")
    await converse(storage, "ada", "b", 400, parent_conversation_id="a")
    await converse(storage, "ada", "self", 400, parent_conversation_id="self")
    assert (await storage.retention.run(RetentionPolicy(conversation_age=DAY))).conversations == 3
    assert await left(storage, "ada") == set()


async def test_web_hooks_hear_of_each_file_and_each_conversation(storage: Storage) -> None:
    await converse(storage, "ada", "c1", 400)
    await converse(storage, "ada", "c2", 400, parent_conversation_id="c1")
    await storage.user("ada").files.write_many([(f"sessions/c1/events/{n}.json", b"{}") for n in range(3)])
    seen: list[Change] = []
    storage.on_commit(seen.extend)
    await storage.retention.run(RetentionPolicy(conversation_age=DAY))
    assert sorted((change.type, change.key) for change in seen) == [
        ("conversation.deleted", "c1"),
        ("conversation.deleted", "c2"),
        *[("file.deleted", f"sessions/c1/events/{n}.json") for n in range(3)],
    ]


async def test_a_conversation_with_very_many_files_goes_some_at_a_time(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.database.pace.MOST", FEWEST)
    await converse(storage, "ada", "large", 400)
    await converse(storage, "ada", "small", 300)
    paths = [f"sessions/large/events/{n}.json" for n in range(33)]
    await storage.user("ada").files.write_many([(path, b"{}") for path in paths])
    transactions: list[int] = []
    storage.on_commit(lambda changes: transactions.append(len(changes)))
    done = await storage.retention.run(RetentionPolicy(conversation_age=DAY))
    assert (done.conversations, done.files) == (2, 33)
    assert max(transactions[1:]) <= FEWEST
    assert len(transactions) > 33 // FEWEST - 4
    assert await left(storage, "ada") == set()


async def test_an_interrupted_run_is_found_again(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.database.pace.FIRST", FEWEST)
    monkeypatch.setattr("storage.database.pace.MOST", FEWEST)
    await converse(storage, "ada", "c1", 400)
    await storage.user("ada").files.write_many([(f"sessions/c1/events/{n}.json", b"{}") for n in range(20)])

    class Killed(Exception):
        pass

    def stop(_: int, __: int | None) -> None:
        raise Killed

    policy = RetentionPolicy(conversation_age=DAY)
    with pytest.raises(Killed):
        await storage.retention.run(policy, progress=stop)
    assert await left(storage, "ada") == {"c1"}
    assert (await storage.retention.trial(policy)).files == 20 - FEWEST
    assert (await storage.retention.run(policy)).files == 20 - FEWEST
    assert await left(storage, "ada") == set()


async def used_by_usage(storage: Storage) -> None:
    await storage.user("ada").conversations.add_usage("c1", cost=1.0)


async def used_by_a_file(storage: Storage) -> None:
    await storage.user("ada").files.write("sessions/c1/events/9.json", b"{}")


async def used_by_a_sub_conversation(storage: Storage) -> None:
    await converse(storage, "ada", "child", 0, parent_conversation_id="c1")


@pytest.mark.parametrize("use", [used_by_usage, used_by_a_file, used_by_a_sub_conversation])
async def test_what_is_used_after_the_decision_stays(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, use: Any
) -> None:
    await converse(storage, "ada", "c1", 400)
    await converse(storage, "ada", "c2", 400)
    await storage.user("ada").files.write("sessions/c1/events/0.json", b"{}")
    await written(storage, "ada", "sessions/c1/events/0.json", 400)
    remove_some = Retention._remove_some
    calls = 0

    async def interrupted(self: Retention, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            await use(storage)
        return await remove_some(self, *arguments)

    monkeypatch.setattr(Retention, "_remove_some", interrupted)
    done = await storage.retention.run(RetentionPolicy(conversation_age=DAY))
    assert (done.conversations, done.left) == (1, 1)
    assert "c1" in await left(storage, "ada")
    assert await storage.user("ada").files.exists("sessions/c1/events/0.json")


async def test_two_runs_at_once_do_no_harm(storage: Storage) -> None:
    for number in range(30):
        await converse(storage, "ada", f"c{number}", 400)
    policy = RetentionPolicy(conversation_age=DAY)
    done = await asyncio.gather(storage.retention.run(policy), storage.retention.run(policy))
    assert sum(each.conversations for each in done) == 30
    assert await left(storage, "ada") == set()


# ---- events


async def events(storage: Storage, user_id: str) -> int:
    async with storage.session(read_only=True) as session:
        statement = text("SELECT count(*) FROM event WHERE user_id = :user_id")
        return int((await (await session.connection()).execute(statement, {"user_id": user_id})).scalar_one())


async def test_of_each_users_events_the_latest_stay(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    for bound in ("FIRST", "FEWEST", "MOST"):
        monkeypatch.setattr(f"storage.database.pace.{bound}", 3)
    for user, number in (("ada", 20), ("bob", 4)):
        for step in range(number):
            await storage.user(user).settings.update(language=f"l{step}")
    policy = RetentionPolicy(events_per_user=5)
    trial = await storage.retention.trial(policy)
    assert (trial.events_by_age, trial.events_by_cap) == (0, 15)
    assert (await storage.retention.run(policy)).events == 15
    assert (await events(storage, "ada"), await events(storage, "bob")) == (5, 4)
    async with storage.session(read_only=True) as session:
        rows = await (await session.connection()).execute(text("SELECT seq FROM event WHERE user_id = 'ada'"))
        assert sorted(rows.scalars()) == list(range(16, 21))
    assert (await storage.retention.run(policy)).events == 0


async def test_events_that_a_web_hook_waits_for_stay(storage: Storage) -> None:
    await storage.user("ada").webhooks.add("https://hooks.example.com")
    for step in range(10):
        await storage.user("ada").settings.update(language=f"l{step}")
    policy = RetentionPolicy(events_per_user=2, event_age=timedelta(microseconds=1))
    trial = await storage.retention.trial(policy)
    assert (trial.events_by_age, trial.events_by_cap) == (0, 0)
    assert (await storage.retention.run(policy)).events == 0
    assert await events(storage, "ada") == 10


async def test_an_event_that_is_too_old_and_too_many_is_counted_once(storage: Storage) -> None:
    for step in range(10):
        await storage.user("ada").settings.update(language=f"l{step}")
    policy = RetentionPolicy(events_per_user=2, event_age=timedelta(microseconds=1))
    trial = await storage.retention.trial(policy)
    assert (trial.events_by_age, trial.events_by_cap) == (10, 0)
    assert (await storage.retention.run(policy)).events == 10


# ---- policies


async def test_the_configuration_has_a_policy(database_url: str, tmp_path: Path) -> None:
    rules = {"conversation_retention_days": 365, "conversation_idle_days": 90.5, "conversations_per_user": 10}
    async with Storage.open(database_url, data_dir=tmp_path, **rules, events_per_user=7) as storage:
        assert storage.retention.policy == RetentionPolicy(365 * DAY, 90.5 * DAY, 10, 30 * DAY, 7)
    async with Storage.open(database_url, data_dir=tmp_path, event_retention_days=float("inf")) as storage:
        assert storage.retention.policy.is_empty
        await storage.retention.run()


@pytest.mark.parametrize(
    "rule",
    [
        {"conversation_age": timedelta()},
        {"conversation_idle": -DAY},
        {"event_age": 40_000 * DAY},
        {"conversations_per_user": 0},
        {"events_per_user": -1},
    ],
)
def test_a_rule_that_would_remove_everything_is_refused(rule: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(rule))):
        RetentionPolicy(**rule)


async def test_conversations_in_a_store_of_somebody_elses_are_not_reached(database_url: str, tmp_path: Path) -> None:
    replaced = "tests.conversations.test_third_party_store.DictConversationStore"
    async with Storage.open(database_url, data_dir=tmp_path, conversation_store_class=replaced) as storage:
        with pytest.raises(ConfigurationError, match="conversation_store_class"):
            await storage.retention.run(RetentionPolicy(conversation_age=DAY))
        await storage.retention.run(RetentionPolicy(event_age=DAY))


async def test_what_is_removed_is_gone_for_its_user(storage: Storage) -> None:
    await converse(storage, "ada", "c1", 400)
    await storage.retention.run(RetentionPolicy(conversation_age=DAY))
    with pytest.raises(ConversationNotFound):
        await storage.user("ada").conversations.get_metadata("c1")
