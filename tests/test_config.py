"""Where settings come from, in which order, and what is said about those that cannot be."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest

from storage.config import StorageConfig
from storage.database import parse_url
from storage.errors import ConfigurationError


@pytest.fixture(autouse=True)
def no_configuration_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def test_arguments_win_over_the_environment_and_that_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(
        tmp_path / "storage.toml",
        """
        [core]
        file_store = "local"
        file_store_path = "/from/file"
        workspace_base = "other settings of the seed system are none of ours"
        [server]
        settings_store_class = "from.file.Store"
        [storage]
        transaction_timeout = 1
        postgres_pool_size = 1
        write_queue_limit = 1
        """,
    )
    monkeypatch.setenv("STORAGE_POSTGRES_POOL_SIZE", "2")
    monkeypatch.setenv("STORAGE_WRITE_QUEUE_LIMIT", "2")
    config = StorageConfig.load(file, write_queue_limit=3)
    assert (config.file_store, config.file_store_path) == ("local", "/from/file")
    assert config.settings_store_class == "from.file.Store"
    assert (config.transaction_timeout, config.postgres_pool_size, config.write_queue_limit) == (1, 2, 3)


def test_paths_may_be_given_as_paths(tmp_path: Path) -> None:
    config = StorageConfig.load(data_dir=tmp_path, file_store_path=tmp_path / "files", master_key_file=tmp_path / "key")
    assert config.file_store_path == str(tmp_path / "files")


@pytest.mark.parametrize("name", ["plain", "with space", "100%41", "question?mark", "hash#tag", "naïve 修復"])
def test_the_default_database_is_in_the_data_folder_whatever_that_is_called(tmp_path: Path, name: str) -> None:
    config = StorageConfig.load(data_dir=tmp_path / name)
    assert parse_url(config.sqlite_default()).location == str(tmp_path / name / "storage.db")


def test_the_file_is_found_by_the_environment_or_in_the_configuration_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert StorageConfig.load().postgres_pool_size == 10
    written(tmp_path / "config" / "agent-storage" / "config.toml", "[storage]\npostgres_pool_size = 4\n")
    assert StorageConfig.load().postgres_pool_size == 4
    monkeypatch.setenv("STORAGE_CONFIG", str(written(tmp_path / "own.toml", "[storage]\npostgres_pool_size = 5\n")))
    assert StorageConfig.load().postgres_pool_size == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[storage]\npostgres_pool_sise = 4\n", "no setting 'postgres_pool_sise'; did you mean 'postgres_pool_size'"),
        ("[core]\nfile_store = 'lcoal'\n", "file_store: .*'lcoal' is not a file store"),
        ("[storage\n", "cannot read the configuration file"),
        ("[storage]\ntransaction_timeout = 0\n", "transaction_timeout: .*greater than 0"),
        ("storage = 5\n", r"'storage' must be a table"),
        ("[storage]\ndata_dir = ''\n", "data_dir: .*is empty"),
        ("[storage]\ntransaction_timeout = 'soon'\n", "transaction_timeout: .*number"),
        ("[storage]\nkey_provider = 'keyfile'\n", "key_provider: .*'keyfile' is not a key provider; use one of"),
        ("[security]\nmasked_paths = ['events/*.json', '']\n", "masked_paths: .*'' is no pattern of paths"),
        ("[security]\nmasked_paths = ['.']\n", "masked_paths: .*'.' is no pattern of paths"),
        ("[security]\nallow_reveel = false\n", "no setting 'allow_reveel'; did you mean 'allow_reveal'"),
        ("[security]\npostgres_pool_size = 4\n", r"\[security\] has no setting 'postgres_pool_size'"),
        ("[security]\nshortest_masked_secret = 1\n", "shortest_masked_secret: .*greater than or equal to 4"),
    ],
)
def test_a_file_with_a_mistake_is_refused_and_the_mistake_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        StorageConfig.load(written(tmp_path / "storage.toml", text))


def test_a_file_that_was_named_and_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"missing\.toml"):
        StorageConfig.load(tmp_path / "missing.toml")


def test_a_misspelt_argument_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'database_url'"):
        StorageConfig.load(databse_url="sqlite:///x.db")


@pytest.mark.parametrize("value", ["STORAGE_TRANSACTION_TIMEOUT", "STORAGE_WRITE_QUEUE_LIMIT"])
def test_a_wrong_environment_variable_is_refused_and_named(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(value, "never")
    with pytest.raises(ConfigurationError, match=value.removeprefix("STORAGE_").lower()):
        StorageConfig.load()


def test_no_secret_of_the_configuration_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {
        "database_url": "postgresql://u:marker-1@h/d",
        "master_key": "marker-2",
        "file_store_web_hook_url": "https://h/marker-3",
        "file_store_web_hook_headers": {"X-Session-API-Key": "marker-4"},
    }
    config = StorageConfig.load(**options)
    assert "marker" not in repr(config) + str(config)
    with pytest.raises(ConfigurationError) as caught:
        StorageConfig.load(**{**options, "transaction_timeout": "marker-5"})
    assert "marker" not in str(caught.value)


def test_the_policies_for_secrets_are_in_a_table_of_their_own(tmp_path: Path) -> None:
    config = StorageConfig.load()
    assert (config.require_master_key, config.allow_reveal, config.shortest_masked_secret) == (False, True, 8)
    assert config.masked_paths == ("events/*.json", "event_cache/*.json")
    file = written(
        tmp_path / "storage.toml",
        """
        [security]
        require_master_key = true
        allow_reveal = false
        masked_paths = ["logs/*"]
        shortest_masked_secret = 12
        """,
    )
    config = StorageConfig.load(file)
    assert (config.require_master_key, config.allow_reveal, config.shortest_masked_secret) == (True, False, 12)
    assert config.masked_paths == ("logs/*",)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("events/*.json, logs/*", ("events/*.json", "logs/*")), ("logs/*", ("logs/*",)), ("", ()), (" , ", ())],
)
def test_several_values_in_the_environment_are_separated_by_commas(
    value: str, expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORAGE_MASKED_PATHS", value)
    assert StorageConfig.load().masked_paths == expected


def test_a_configuration_is_not_pickled_because_it_holds_the_key() -> None:
    config = StorageConfig.load(master_key="marker")
    with pytest.raises(TypeError, match="load it in the process") as caught:
        pickle.dumps(config)
    assert "marker" not in str(caught.value)
    assert copy.deepcopy(config) == config
