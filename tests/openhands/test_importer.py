"""A state directory moved into SQL, on both databases: complete, repeatable, and polite to what is there already."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from storage.conversations.model import ConversationMetadata
from storage.errors import FileNotFound, InvalidInput
from storage.openhands.importer import Progress, import_home
from storage.secrets.model import UserSecrets
from storage.settings.model import Settings
from storage.storage import Storage
from tests.openhands.conftest import event, storage_config

if TYPE_CHECKING:
    from pathlib import Path

    from storage.database.change import Change
    from storage.openhands.report import ImportReport
    from tests.openhands.conftest import StateDirectory


def codes(report: ImportReport) -> list[str]:
    return sorted(flaw.code for flaw in report.flaws)


def counts(report: ImportReport, kind: str) -> dict[str, int]:
    total = report.total(kind)
    names = ("imported", "overwritten", "unchanged", "kept", "skipped")
    return {name: getattr(total, name) for name in names if getattr(total, name)}


def heard(storage: Storage) -> list[Change]:
    changes: list[Change] = []
    storage.on_commit(changes.extend)
    return changes


@pytest.fixture
def filled(state: StateDirectory) -> StateDirectory:
    state.conversation("c1", title="mine", llm_model="m", accumulated_cost=0.5, field_of_tomorrow={"a": [1]})
    state.write("sessions/c1/events/1.json", event(1, "second"))
    state.write("sessions/c1/agent_state.pkl", bytes(range(256)))
    state.conversation("c2", user="alice", user_id="alice", title="hers")
    state.write("notes.txt", "kept too")
    state.write("settings.json", {"language": "en", "llm_api_key": "example-not-real", "max_iterations": 5})
    state.write(
        "secrets.json",
        {
            "provider_tokens": {"github": {"token": "token-not-real", "host": "github.example.com"}},
            "custom_secrets": {"A": {"secret": "one-not-real", "description": "first"}},
        },
    )
    return state


async def test_everything_arrives_with_its_owner(storage: Storage, filled: StateDirectory) -> None:
    report = await import_home(storage, filled.root)
    local, alice = storage.user(), storage.user("alice")

    mine = await local.conversations.get_metadata("c1")
    assert (mine.title, mine.llm_model, mine.accumulated_cost) == ("mine", "m", 0.5)
    assert mine.created_at == datetime(2025, 9, 1, 10, tzinfo=UTC)
    assert mine.model_extra == {"field_of_tomorrow": {"a": [1]}}
    assert (await alice.conversations.get_metadata("c2")).title == "hers"
    assert await local.conversations.count() == await alice.conversations.count() == 1

    assert await local.files.read("sessions/c1/agent_state.pkl") == bytes(range(256))
    assert [stat.path async for stat in local.files.walk()] == [
        "notes.txt",
        "sessions/c1/agent_state.pkl",
        "sessions/c1/events/0.json",
        "sessions/c1/events/1.json",
    ]
    assert [stat.path async for stat in alice.files.walk()] == ["sessions/c2/events/0.json"]

    settings = await local.settings.load()
    assert settings is not None
    assert settings.llm_api_key is not None
    assert settings.llm_api_key.get_secret_value() == "example-not-real"
    secrets = await local.secrets.load()
    assert secrets is not None
    assert secrets.custom_secrets["A"].secret.get_secret_value() == "one-not-real"
    assert await alice.settings.load() is None

    assert counts(report, "conversations") == {"imported": 2}
    assert counts(report, "files") == {"imported": 5}
    assert counts(report, "settings") == {"imported": 1}
    assert counts(report, "secrets") == {"imported": 2}
    assert list(report.users) == ["local", "alice"]
    assert codes(report) == ["unknown-field", "unknown-file"]


async def test_a_second_run_changes_nothing_and_says_so(storage: Storage, filled: StateDirectory) -> None:
    filled.write("sessions/nometa/events/0.json", event(0, "hello"))
    filled.write("sessions/broken/metadata.json", '{"conv')
    first = await import_home(storage, filled.root)
    changes = heard(storage)
    second = await import_home(storage, filled.root)
    assert changes == []
    assert not second.changed
    assert "nothing to do" in "\n".join(second.lines())
    assert counts(second, "conversations") == {"unchanged": 4}
    assert counts(second, "files") == {"unchanged": 7}
    assert counts(second, "settings") == {"unchanged": 1}
    assert counts(second, "secrets") == {"unchanged": 2}
    assert second.flaws == first.flaws


async def test_a_dry_run_writes_nothing_and_tells_the_same(storage: Storage, filled: StateDirectory) -> None:
    changes = heard(storage)
    tried = await import_home(storage, filled.root, dry_run=True)
    assert changes == []
    assert await storage.user().conversations.count() == 0
    done = await import_home(storage, filled.root)
    assert {**tried.as_dict(), "dry_run": False} == done.as_dict()
    tried_again = await import_home(storage, filled.root, dry_run=True)
    assert not tried_again.changed


async def test_an_interrupted_import_is_continued(
    storage: Storage, state: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.openhands.batches.MAX_CONVERSATIONS", 3)
    monkeypatch.setattr("storage.openhands.batches.MAX_FILES", 5)
    for number in range(10):
        state.conversation(f"c{number}")
        for position in range(1, 4):
            state.write(f"sessions/c{number}/events/{position}.json", event(position, "more"))

    class PowerCut(Exception):
        pass

    def interrupt(progress: Progress) -> None:
        if progress.conversations >= 4:
            raise PowerCut

    with pytest.raises(PowerCut):
        await import_home(storage, state.root, progress=interrupt)
    before = await storage.user().conversations.count()
    assert 0 < before < 10
    seen: list[Progress] = []
    report = await import_home(storage, state.root, progress=seen.append)
    assert counts(report, "conversations") == {"imported": 10 - before, "unchanged": before}
    assert await storage.user().conversations.count() == 10
    assert (await storage.user().files.usage()).files == 40
    assert (seen[-1].conversations, seen[-1].total_conversations, seen[-1].files) == (10, 10, 40)


async def test_work_done_in_the_storage_is_not_overwritten(storage: Storage, filled: StateDirectory) -> None:
    await import_home(storage, filled.root)
    local = storage.user()
    await local.conversations.update_metadata("c1", title="renamed since")
    await local.files.write("sessions/c1/agent_state.pkl", b"newer")
    await local.settings.update(language="de")
    await local.secrets.set_custom_secret("A", "changed-not-real")
    changes = heard(storage)
    report = await import_home(storage, filled.root)
    assert changes == []
    assert (await local.conversations.get_metadata("c1")).title == "renamed since"
    assert counts(report, "conversations") == {"unchanged": 1, "kept": 1}
    assert counts(report, "files") == {"unchanged": 4, "kept": 1}
    assert counts(report, "settings") == {"kept": 1}
    assert counts(report, "secrets") == {"unchanged": 1, "kept": 1}
    assert codes(report) == ["kept-existing"] * 3 + ["path-taken", "unknown-field", "unknown-file"]


async def test_the_source_wins_when_told_to(storage: Storage, filled: StateDirectory) -> None:
    await import_home(storage, filled.root)
    local = storage.user()
    await local.conversations.update_metadata("c1", title="renamed since")
    await local.files.write("sessions/c1/agent_state.pkl", b"newer")
    await local.settings.update(language="de")
    await local.secrets.set_custom_secret("A", "changed-not-real")
    planned = await import_home(storage, filled.root, overwrite=True, dry_run=True)
    assert (await local.conversations.get_metadata("c1")).title == "renamed since"
    report = await import_home(storage, filled.root, overwrite=True)
    for kind in ("conversations", "files", "settings", "secrets"):
        assert report.total(kind).overwritten == planned.total(kind).overwritten == 1
    assert (await local.conversations.get_metadata("c1")).title == "mine"
    assert await local.files.read("sessions/c1/agent_state.pkl") == bytes(range(256))
    settings, secrets = await local.settings.load(), await local.secrets.load()
    assert settings is not None
    assert settings.language == "en"
    assert secrets is not None
    assert secrets.custom_secrets["A"].secret.get_secret_value() == "one-not-real"


async def test_new_work_in_the_source_is_added(storage: Storage, filled: StateDirectory) -> None:
    await import_home(storage, filled.root)
    filled.write("sessions/c1/events/2.json", event(2, "third"))
    filled.conversation("c3")
    report = await import_home(storage, filled.root)
    assert counts(report, "conversations") == {"imported": 1, "unchanged": 2}
    assert counts(report, "files") == {"imported": 2, "unchanged": 5}


async def test_secrets_that_the_storage_has_stay_beside_the_imported_ones(
    storage: Storage, filled: StateDirectory
) -> None:
    await storage.user().secrets.set_custom_secret("MINE", "mine-not-real")
    await import_home(storage, filled.root)
    secrets = await storage.user().secrets.load()
    assert secrets is not None
    assert sorted(secrets.custom_secrets) == ["A", "MINE"]


async def test_unknown_parts_of_the_secrets_are_kept_as_secrets(storage: Storage, state: StateDirectory) -> None:
    state.write("secrets.json", {"vault": {"A": "s-not-real"}})
    report = await import_home(storage, state.root)
    secrets = await storage.user().secrets.load()
    assert secrets is not None
    assert "s-not-real" not in repr(secrets)
    assert secrets.model_extra is not None
    assert secrets.model_extra["vault"].get_secret_value() == {"A": "s-not-real"}
    assert counts(report, "secrets") == {"imported": 1}
    assert counts(await import_home(storage, state.root), "secrets") == {"unchanged": 1}


async def test_what_belongs_to_nobody_goes_to_the_named_user(storage: Storage, filled: StateDirectory) -> None:
    report = await import_home(storage, filled.root, user="bob")
    assert list(report.users) == ["bob", "alice"]
    assert await storage.user("bob").conversations.exists("c1")
    assert await storage.user("bob").files.exists("notes.txt")
    assert await storage.user("bob").settings.load() is not None
    assert await storage.user("alice").conversations.exists("c2")
    assert await storage.user().conversations.count() == 0


async def test_a_name_that_cannot_be_a_users_is_refused_before_anything_is_read(
    storage: Storage, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match="user_id"):
        await import_home(storage, tmp_path / "does not matter", user="")


async def test_an_id_of_another_user_is_skipped_with_its_files(storage: Storage, filled: StateDirectory) -> None:
    await storage.user("eve").conversations.save_metadata(ConversationMetadata(conversation_id="c1", title="hers"))
    report = await import_home(storage, filled.root)
    assert counts(report, "conversations") == {"imported": 1, "skipped": 1}
    assert counts(report, "files") == {"imported": 2, "skipped": 3}
    assert "identifier-taken" in codes(report)
    assert (await storage.user("eve").conversations.get_metadata("c1")).title == "hers"
    with pytest.raises(FileNotFound):
        await storage.user().files.read("sessions/c1/events/0.json")


async def test_an_id_that_two_users_of_the_source_have_is_imported_once(
    storage: Storage, state: StateDirectory
) -> None:
    state.conversation("c1", user="alice")
    state.conversation("c1", user="bob")
    report = await import_home(storage, state.root)
    assert counts(report, "conversations") == {"imported": 1, "skipped": 1}
    assert codes(report) == ["duplicate-conversation"]
    assert await storage.user("alice").conversations.exists("c1")
    assert not await storage.user("bob").files.exists("sessions/c1/events/0.json")


async def test_broken_events_are_kept_and_told(storage: Storage, state: StateDirectory) -> None:
    state.conversation("c1")
    state.write("sessions/c1/events/1.json", b'{"half')
    report = await import_home(storage, state.root)
    assert await storage.user().files.read("sessions/c1/events/1.json") == b'{"half'
    assert codes(report) == ["event-broken"]


async def test_recovered_conversations_are_found_by_their_tag(storage: Storage, state: StateDirectory) -> None:
    state.conversation("good")
    state.write("sessions/bad/metadata.json", "{")
    report = await import_home(storage, state.root)
    page = await storage.user().conversations.search(tags=["recovered"])
    assert [found.conversation_id for found in page.results] == ["bad"]
    assert report.recovered == 1
    assert await storage.user().files.read("sessions/bad/metadata.json") == b"{"


async def test_a_setting_outside_its_limits_is_left_out_and_told(storage: Storage, state: StateDirectory) -> None:
    state.write("settings.json", {"language": "en", "condenser_max_size": 3, "max_iterations": "many"})
    report = await import_home(storage, state.root)
    settings = await storage.user().settings.load()
    assert settings is not None
    assert (settings.language, settings.condenser_max_size, settings.max_iterations) == ("en", None, None)
    assert codes(report) == ["settings-invalid", "settings-invalid"]


async def test_masked_keys_do_not_replace_keys(storage: Storage, state: StateDirectory) -> None:
    await storage.user().settings.store(Settings.model_validate({"llm_api_key": "real-not-real"}))
    await storage.user().secrets.store(
        UserSecrets.model_validate({"custom_secrets": {"A": {"secret": "one-not-real"}}})
    )
    state.write("settings.json", {"llm_api_key": "**********"})
    state.write("secrets.json", {"custom_secrets": {"A": {"secret": "**********"}}})
    report = await import_home(storage, state.root)
    settings, secrets = await storage.user().settings.load(), await storage.user().secrets.load()
    assert settings is not None
    assert settings.llm_api_key is not None
    assert settings.llm_api_key.get_secret_value() == "real-not-real"
    assert secrets is not None
    assert secrets.custom_secrets["A"].secret.get_secret_value() == "one-not-real"
    assert codes(report).count("masked-secret") == 2


async def test_without_the_master_key_all_but_the_secrets_is_imported(
    database_url: str, tmp_path: Path, filled: StateDirectory
) -> None:
    config = storage_config(database_url, tmp_path)
    async with Storage.open(config) as storage:
        await storage.user().secrets.set_custom_secret("B", "not-real")
    config.master_key_file.unlink()
    async with Storage.open(config) as storage:
        report = await import_home(storage, filled.root)
        assert await storage.user().conversations.exists("c1")
        assert (await storage.user().files.usage()).files == 4
    assert counts(report, "conversations") == {"imported": 2}
    assert counts(report, "secrets") == {"skipped": 2}
    assert codes(report) == ["rejected", "rejected", "unknown-field", "unknown-file"]
    assert "not-real" not in "\n".join(report.lines())


async def test_names_that_had_to_be_escaped_are_stored(storage: Storage, state: StateDirectory) -> None:
    state.conversation("tab\tbed")
    state.write("sessions/tab\tbed/line\nbreak", "x")
    await import_home(storage, state.root)
    second = await import_home(storage, state.root)
    assert await storage.user().conversations.exists("tab%09bed")
    assert await storage.user().files.read("sessions/tab%09bed/line%0Abreak") == b"x"
    assert not second.changed


async def test_deleting_an_imported_conversation_deletes_its_files(storage: Storage, filled: StateDirectory) -> None:
    await import_home(storage, filled.root)
    await storage.user("alice").conversations.delete_metadata("c2")
    assert (await storage.user("alice").files.usage()).files == 0


async def test_a_home_without_anything_imports_nothing(storage: Storage, state: StateDirectory) -> None:
    (state.root / "sessions").mkdir()
    report = await import_home(storage, state.root)
    assert list(report.lines()) == ["nothing to import: no conversation, file, setting or secret that can be read"]
