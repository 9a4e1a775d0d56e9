"""The configuration: arguments, then STORAGE_* environment variables, then a TOML file, then defaults.

The TOML file may be the seed system's own: its tables [core] and [server] are read for the names they share with us.
The policies for secrets are in [security], and everything else is in [storage].
"""

from __future__ import annotations

import difflib
import os
import tomllib
from ipaddress import ip_network
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, NoReturn
from urllib.parse import quote

import platformdirs
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from storage.errors import ConfigurationError

APPLICATION: Final = "agent-storage"
"""The name of our folders below the user's data and configuration folders."""

FILE_STORES: Final = ("local", "memory", "s3", "google_cloud")
"""What `file_store` may be, besides a name that an installed package registered (FILE_STORE_GROUP) and the dotted path
of a FileStore class. There is no fallback: the seed system takes a misspelt name for `memory` and loses every file at
exit."""

FILE_STORE_GROUP: Final = "storage.file_stores"
"""The group of entry points by which an installed package gives its FileStore class a name for `file_store`."""

KEY_PROVIDERS: Final = ("environment", "key-file", "keyring", "aws-kms")
"""What `key_provider` may be, besides the dotted path of a KeyProvider class."""

MASKED_PATHS: Final = ("events/*.json", "event_cache/*.json")
"""The seed system's event stream and the pages that it caches of it: where an agent's output lands."""

_CORE: Final = (
    "file_store",
    "file_store_path",
    "file_store_web_hook_url",
    "file_store_web_hook_headers",
    "file_store_web_hook_batch",
)
_SERVER: Final = ("conversation_store_class", "settings_store_class", "secrets_store_class")
_SECURITY: Final = ("require_master_key", "masked_paths", "shortest_masked_secret", "allow_reveal")

Names = Annotated[tuple[str, ...], NoDecode]
"""Several texts; in the environment separated by commas."""


class StorageConfig(BaseSettings):
    """Where things are kept and how. Every field is also the environment variable STORAGE_<NAME IN CAPITALS>."""

    model_config = SettingsConfigDict(env_prefix="STORAGE_", extra="forbid", hide_input_in_errors=True, frozen=True)

    data_dir: Path = Field(default_factory=lambda: platformdirs.user_data_path(APPLICATION))
    """The folder of the database and the files, unless they are placed elsewhere."""

    database_url: str | None = Field(default=None, repr=False)
    """`sqlite:///path`, `sqlite:///:memory:` or `postgresql://…`; a SQLite file in data_dir if None."""

    file_store: str = "local"
    """Where blobs are kept: local, memory, s3, google_cloud, the name of an installed package's entry point in the
    group `storage.file_stores`, or the dotted path of a FileStore class."""

    file_store_path: str | None = None
    """The root folder, or the bucket; the folder `files` in data_dir if None."""

    file_cache_bytes: Annotated[int, Field(ge=0)] = 0
    """Bytes of blobs that are kept at hand after they were read; 0 keeps none."""

    file_cache_path: Path | None = None
    """The folder that keeps them, for this machine's processes; the memory of this process if None."""

    small_files_in_database: Annotated[int, Field(ge=0)] = 0
    """Contents of at most so many bytes are kept in the database instead of the file store; 0 keeps none there."""

    seal_files: bool = False
    """Whether contents of files are encrypted under their user's data key before they are stored."""

    max_file_bytes: Annotated[int, Field(ge=1)] | None = None
    """Longest content of one file, in bytes; no limit if None."""

    quota_bytes: Annotated[int, Field(ge=0)] | None = None
    """Sum of the sizes of one user's files at most; no limit if None."""

    quota_files: Annotated[int, Field(ge=0)] | None = None
    """Number of files of one user at most; no limit if None."""

    disk_warn_bytes: Annotated[int, Field(ge=0)] = 1_000_000_000
    """Free bytes of the disk of the SQLite file or of the local file store below which it is warned; 0 never warns."""

    disk_refuse_bytes: Annotated[int, Field(ge=0)] = 100_000_000
    """Bytes of these disks that are kept free: what would leave less is not stored (DiskSpaceLow), while reads,
    deletions and settings go on; 0 refuses nothing."""

    file_store_web_hook_url: str | None = Field(default=None, repr=False)
    """The operator's receiver of file changes, as in the seed system."""

    file_store_web_hook_headers: dict[str, str] | None = Field(default=None, repr=False)
    """Headers for the operator's receiver."""

    file_store_web_hook_batch: bool = False
    """Whether the operator's receiver takes batches."""

    webhook_delivery: bool = True
    """Whether this process delivers web hooks while the storage is open, on the event loop that opened it; others may
    do it, or `storage webhooks deliver`."""

    webhook_allowed_networks: Names = ()
    """Networks (CIDR) that web hooks may be sent to although they are not public, such as 127.0.0.0/8."""

    webhook_timeout: Annotated[float, Field(gt=0)] = 15.0
    """Seconds that one attempt may take, from the look-up of the name to the end of the answer."""

    webhook_max_attempts: Annotated[int, Field(ge=1)] = 12
    """After so many failed attempts an event becomes a dead letter: by the waits between them after 16 hours or so."""

    webhook_poll_seconds: Annotated[float, Field(gt=0)] = 1.0
    """How often the dispatcher looks for what it was not woken for."""

    webhook_close_seconds: Annotated[float, Field(ge=0)] = 5.0
    """How long closing waits for attempts that are under way."""

    event_retention_days: Annotated[float, Field(ge=0)] = 30.0
    """Days after which events that nobody waits for are removed; `inf` keeps them for ever."""

    events_per_user: Annotated[int, Field(ge=1)] | None = None
    """Events of each user that `storage retention run` keeps, the latest; all if None. What is waited for stays."""

    conversation_retention_days: Annotated[float, Field(gt=0)] | None = None
    """Days after their beginning at which `storage retention run` removes conversations; never if None."""

    conversation_idle_days: Annotated[float, Field(gt=0)] | None = None
    """Days for which a conversation is neither changed nor given a file until `storage retention run` removes it; never
    if None."""

    conversations_per_user: Annotated[int, Field(ge=1)] | None = None
    """Conversations of each user that `storage retention run` keeps, those that changed last; all if None."""

    conversation_store_class: str | None = None
    """Dotted path of a ConversationStore that replaces ours."""

    settings_store_class: str | None = None
    """Dotted path of a SettingsStore that replaces ours."""

    secrets_store_class: str | None = None
    """Dotted path of a SecretsStore that replaces ours."""

    conversation_model: str | None = None
    """Dotted path of a subclass of ConversationMetadata with more fields."""

    settings_model: str | None = None
    """Dotted path of a subclass of Settings with more fields."""

    secrets_model: str | None = None
    """Dotted path of a subclass of UserSecrets with more fields."""

    master_key: SecretStr | None = None
    """Base64 of the 32 bytes that wrap the users' data keys; master_key_file is used if None."""

    master_key_file: Path = Field(default_factory=lambda: platformdirs.user_config_path(APPLICATION) / "master.key")
    """The key file: made at the first secret, away from the database and its backups."""

    key_provider: str | None = None
    """Who holds the master keys: environment, key-file, keyring, aws-kms, or the dotted path of a KeyProvider class;
    environment if a master_key is given, else key-file, if None."""

    keyring_service: str = "agent-storage"
    """keyring: the service under which the operating system's keyring keeps the master key."""

    aws_kms_key_ids: Names = ()
    """aws-kms: ids, ARNs or aliases of the keys; the first wraps, all unwrap."""

    aws_kms_endpoint_url: str | None = None
    """aws-kms: another endpoint than the region's own."""

    require_master_key: bool = False
    """Refuse to open, and never make a key, unless the right master key is at hand."""

    masked_paths: Names = MASKED_PATHS
    """Files at paths that end like one of these patterns are written with the user's secrets masked."""

    shortest_masked_secret: Annotated[int, Field(ge=4)] = 8
    """Characters below which a secret is not masked: a short text occurs by chance."""

    allow_reveal: bool = True
    """Whether the command line may show a secret's value (`--reveal`)."""

    migrate_on_open: bool = True
    """Whether opening brings an older schema up to date; if False it is refused instead."""

    transaction_timeout: Annotated[float, Field(gt=0)] = 30.0
    """Seconds that a transaction() may stay open."""

    write_queue_limit: Annotated[int, Field(ge=1)] = 1024
    """SQLite: units of work on their way to the writer before further callers wait."""

    postgres_pool_size: Annotated[int, Field(ge=1)] = 10
    """PostgreSQL: connections of one process and event loop at most."""

    postgres_command_timeout: Annotated[float, Field(gt=0)] = 60.0
    """PostgreSQL: seconds that one statement may take."""

    postgres_prepared_statements: bool = True
    """PostgreSQL: must be False behind a pooler in transaction mode, such as pgbouncer."""

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(
            "a StorageConfig may hold the master key and is not pickled: load it in the process that needs it"
        )

    def sqlite_default(self) -> str:
        """The URL of the database in data_dir."""
        # Quoted, because a percent sign in a URL begins an escape.
        return f"sqlite:///{quote(str(self.data_dir.expanduser().absolute() / 'storage.db'))}"

    def files_default(self) -> Path:
        """The folder of the blobs in data_dir."""
        return self.data_dir.expanduser().absolute() / "files"

    @field_validator("data_dir", "master_key_file", mode="before")
    @classmethod
    def _named_path(cls, value: Any) -> Any:
        if value == "":
            raise ValueError("is empty; name a path, or leave it out")
        return value

    @field_validator("file_store_path", mode="before")
    @classmethod
    def _path_as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, Path) else value

    @field_validator("aws_kms_key_ids", "masked_paths", "webhook_allowed_networks", mode="before")
    @classmethod
    def _separated(cls, value: Any) -> Any:
        return tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value

    @field_validator("masked_paths")
    @classmethod
    def _patterns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            if not PurePosixPath(pattern).name:
                raise ValueError(f"{pattern!r} is no pattern of paths; write one such as 'events/*.json'")
        return value

    @field_validator("webhook_allowed_networks")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            try:
                ip_network(network)
            except ValueError as error:
                raise ValueError(f"{network!r} is no network; write one such as '127.0.0.0/8': {error}") from None
        return value

    @field_validator("key_provider")
    @classmethod
    def _known_key_provider(cls, value: str | None) -> str | None:
        if value is None or value in KEY_PROVIDERS or "." in value:
            return value
        raise ValueError(f"{value!r} is not a key provider; use one of {', '.join(KEY_PROVIDERS)} or a dotted path")

    @field_validator("file_store")
    @classmethod
    def _known_file_store(cls, value: str) -> str:
        if value in FILE_STORES or "." in value:
            return value
        # Looks through every installed package, so only for a name that is none of ours.
        from storage.extension import installed_names

        installed = installed_names(FILE_STORE_GROUP)
        if value in installed:
            return value
        names = [*FILE_STORES, *(name for name in installed if name not in FILE_STORES)]
        close = difflib.get_close_matches(value, names, 1)
        hint = f"did you mean {close[0]!r}? Use" if close else "use"
        raise ValueError(f"{value!r} is not a file store; {hint} one of {', '.join(names)} or a dotted path")

    @classmethod
    def load(cls, file: Path | str | None = None, **arguments: Any) -> StorageConfig:
        """Read the configuration.

        Args:
            file: the TOML file; STORAGE_CONFIG, or `config.toml` in the user's configuration folder, if None.
            arguments: fields that win over the environment and the file.

        Raises:
            ConfigurationError: a value that a field does not take, an unknown name, or a file that cannot be read.
        """
        unknown = sorted(set(arguments) - set(cls.model_fields))
        if unknown:
            raise ConfigurationError(f"there is no setting {unknown[0]!r}{_nearest(unknown[0])}")
        chosen = file if file is not None else os.environ.get("STORAGE_CONFIG")
        path = Path(chosen) if chosen else platformdirs.user_config_path(APPLICATION) / "config.toml"
        from_file = _read_toml(path) if chosen or path.is_file() else {}
        try:
            stronger = cls(**arguments).model_fields_set
            return cls(**{**{name: value for name, value in from_file.items() if name not in stronger}, **arguments})
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"]) or "configuration"
            raise ConfigurationError(f"{field}: {first['msg']}") from None


def _read_toml(path: Path) -> dict[str, Any]:
    """The fields that a TOML file sets, from its tables [core], [server], [security] and [storage]."""
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"cannot read the configuration file {path}: {error}") from error
    for table in ("core", "server", "security", "storage"):
        if not isinstance(tables.get(table, {}), dict):
            raise ConfigurationError(f"{path}: {table!r} must be a table: write [{table}] on a line of its own")
    values: dict[str, Any] = {}
    for table, names in (("core", _CORE), ("server", _SERVER)):
        values |= {name: value for name, value in tables.get(table, {}).items() if name in names}
    for table, taken in (("security", _SECURITY), ("storage", tuple(StorageConfig.model_fields))):
        for name, value in tables.get(table, {}).items():
            if name not in taken:
                raise ConfigurationError(f"{path}: [{table}] has no setting {name!r}{_nearest(name)}")
            values[name] = value
    return values


def _nearest(name: str) -> str:
    close = difflib.get_close_matches(name, StorageConfig.model_fields, 1)
    return f"; did you mean {close[0]!r}?" if close else ""
