"""Storage and UserStorage: the one place where database, keys, stores and files are put together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Generator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from storage.config import StorageConfig
from storage.conversations.model import ConversationMetadata
from storage.conversations.store import ConversationStore
from storage.database.database import CommitHook, Database
from storage.database.migrate import ensure
from storage.database.telemetry import DatabaseTelemetry, is_wanted
from storage.database.unit import Executor
from storage.database.url import parse_url
from storage.encryption.keyring import KeyRing
from storage.encryption.providers.configured import provider_for
from storage.errors import ConfigurationError, InvalidInput
from storage.extension import DeferredStore, load_class
from storage.files.backends.configured import open_backend
from storage.files.blobs import ContentRules, Contents
from storage.files.catalog import FileCatalog, delete_conversation_files
from storage.files.masking import FileMasking
from storage.files.quota import Quota
from storage.files.store import FileStore
from storage.identity import user_key
from storage.reporting.query.bounds import MAX_ROWS, TIMEOUT_SECONDS
from storage.secrets.model import UserSecrets
from storage.secrets.store import SecretsStore
from storage.settings.model import Settings
from storage.settings.store import SettingsStore

if TYPE_CHECKING:
    from sqlmodel.ext.asyncio.session import AsyncSession

    from storage.backup.loading import RestoreReport
    from storage.backup.saving import BackupReport
    from storage.doctor.finding import Report
    from storage.encryption.registry import SealedColumn
    from storage.encryption.rotation.verbs import KeyRotation
    from storage.files.disk_guard import DiskGuard
    from storage.files.maintenance.verbs import FileMaintenance
    from storage.masking.masker import Secrets, SecretValue
    from storage.masking.maskers import Maskers
    from storage.reporting.query.result import Parameter, QueryResult
    from storage.retention.verbs import Retention
    from storage.status import StorageStatus
    from storage.user_export import UserExport
    from storage.users import DeletedUser, UserInfo
    from storage.webhooks.delivery.process import Delivery
    from storage.webhooks.sending.egress import Egress
    from storage.webhooks.verbs import Webhooks

S = TypeVar("S")


class Storage:
    """An open storage: one database, one place for blobs, one key ring. Made by `Storage.open`.

    Use it from one event loop at a time; from several, one after the other.
    """

    def __init__(self, config: StorageConfig, database: Database, blobs: FileStore, keyring: KeyRing) -> None:
        self.config = config
        self.database = database
        self.blobs = blobs
        self.keyring = keyring
        self._delivery: Delivery | None = None

    @classmethod
    def open(cls, config: StorageConfig | str | None = None, **arguments: Any) -> Opening:
        """Open a storage: `async with Storage.open() as storage`, or `storage = await Storage.open()` and close().

        Args:
            config: a configuration, a database URL, or None for the environment, the configuration file and defaults.
            arguments: fields of StorageConfig that win over the environment; not together with a StorageConfig.

        Raises (when entered or awaited):
            ConfigurationError: a setting cannot be used as it stands.
            DatabaseUnavailable: the database cannot be reached or opened.
            SchemaTooNew: a newer release has migrated the database.
            SchemaOutdated: it needs migrating and migrate_on_open is False.
            KeyMissing, KeyMismatch, KeyUnavailable: the policy require_master_key is set, and the right master key is
                not at hand. Without the policy everything opens, with the secrets locked.
        """
        if isinstance(config, StorageConfig) and arguments:
            raise ConfigurationError("give Storage.open a StorageConfig or single settings, not both")
        return Opening(lambda: cls._open(_configured(config, arguments)))

    @classmethod
    async def _open(cls, config: StorageConfig) -> Storage:
        url = parse_url(config.database_url or config.sqlite_default())
        _check_models(config)
        async with AsyncExitStack() as opened:
            provider = await provider_for(config)
            opened.push_async_callback(provider.close)
            blobs = await open_backend(config)
            opened.push_async_callback(blobs.close)
            database = Database(
                url,
                queue_limit=config.write_queue_limit,
                pool_size=config.postgres_pool_size,
                command_timeout=config.postgres_command_timeout,
                prepared_statements=config.postgres_prepared_statements,
                transaction_timeout=config.transaction_timeout,
            )
            opened.push_async_callback(database.close)
            if is_wanted():
                database.telemetry = DatabaseTelemetry(url.dialect)
            await ensure(database, url, upgrade_allowed=config.migrate_on_open)
            keyring = KeyRing(database, provider, may_generate=not config.require_master_key)
            await keyring.start()
            if config.require_master_key:
                keyring.require_unlocked()
            storage = cls(config, database, blobs, keyring)
            await storage._begin_web_hooks()
            opened.pop_all()  # from here on they are the storage's to close
        return storage

    async def _begin_web_hooks(self) -> None:
        if self.config.file_store_web_hook_url:
            from storage.webhooks.endpoints.configured import ensure_configured

            await ensure_configured(self.database, self.keyring, self._egress, self.config)
        from storage.webhooks.delivery.process import Delivery, announce

        if self.config.webhook_delivery:
            contents = Contents(self.blobs, self.keyring)
            self._delivery = Delivery(
                self.config, self.database, self.keyring, contents, self._egress, read_status=self.webhooks.status
            )
            self._delivery.start()
        else:
            announce(self.database)

    def user(self, user_id: str | None = None) -> UserStorage:
        """The stores of one user; None is the one local user of a desktop install. Costs nothing: rows appear with use.

        Raises:
            InvalidInput: an id that is empty, longer than 255 bytes, or has control characters.
        """
        return UserStorage(self, user_key(user_id))

    @cached_property
    def keys(self) -> KeyRotation:
        """All keys as a whole: rotation, re-encryption, the doctor. See storage.encryption.rotation.verbs."""
        from storage.encryption.rotation.verbs import KeyRotation

        return KeyRotation(self.database, self.keyring, _sealed_columns())

    @cached_property
    def files(self) -> FileMaintenance:
        """Everyone's files as a whole: verify, collect, export, repack, copy. See storage.files.maintenance.verbs."""
        from storage.files.maintenance.verbs import FileMaintenance

        config = self.config
        return FileMaintenance(
            self.database,
            self.blobs,
            self.keyring,
            config.small_files_in_database,
            seal=config.seal_files,
            guard=self.disk_guard,
        )

    @cached_property
    def disk_guard(self) -> DiskGuard:
        """Looks at the room on this machine's disks before contents are stored. See storage.files.disk_guard."""
        from storage.files.disk_guard import guard_for

        return guard_for(self.config, self.database.url, self.blobs)

    @cached_property
    def retention(self) -> Retention:
        """How long conversations and events are kept. See storage.retention.verbs."""
        from storage.retention.verbs import Retention

        return Retention(self.database, self.config)

    @cached_property
    def webhooks(self) -> Webhooks:
        """Everyone's web hooks, and the operator's own, which hear of everyone. See storage.webhooks.verbs."""
        return self.webhooks_of(None, self.database)

    def webhooks_of(self, owner: str | None, executor: Executor) -> Webhooks:
        """The web hooks of a user in stored form, or of the operator (None), in a database or a transaction."""
        from storage.webhooks.verbs import Webhooks

        return Webhooks(
            executor,
            self.keyring,
            self._egress,
            owner,
            attempt_seconds=self.config.webhook_timeout,
            wake=self._wake_delivery,
            counts=self._count_attempts,
        )

    @cached_property
    def _egress(self) -> Egress:
        from storage.webhooks.sending.egress import Egress, parse

        url = self.config.file_store_web_hook_url
        try:
            # Whoever may configure this URL may configure the allow-list too.
            trusted = [parse(url).authority] if url else []
        except InvalidInput as error:
            raise ConfigurationError(f"file_store_web_hook_url: {error}") from error
        return Egress(self.config.webhook_allowed_networks, trusted)

    def _wake_delivery(self) -> None:
        if self._delivery is not None:
            self._delivery.dispatcher.wake()

    def _count_attempts(self) -> dict[str, int]:
        return {} if self._delivery is None else dict(self._delivery.attempts.counts)

    @cached_property
    def maskers(self) -> Maskers:
        """Every user's secrets, as files and `user.secrets.masker()` take them; see storage.masking.maskers."""
        from storage.masking.maskers import Maskers

        replaced = self.config.secrets_store_class is not None
        others = self._secrets_elsewhere if replaced else None
        maskers = Maskers(self.keyring, _sealed_columns(), self.config.shortest_masked_secret, others)
        self.database.on_commit(maskers.on_commit)
        return maskers

    async def _secrets_elsewhere(self, user_id: str) -> list[SecretValue]:
        """The secrets of a store that replaces ours."""
        from storage.secrets.store import secret_values

        return secret_values(await self.user(user_id).secrets.load())

    def on_commit(self, hook: CommitHook) -> Callable[[], None]:
        """Have `hook` called with the list of changes after each commit. See Database.on_commit."""
        return self.database.on_commit(hook)

    def session(self, *, read_only: bool = False) -> AbstractAsyncContextManager[AsyncSession]:
        """A SQLModel AsyncSession on the same database, for any query of your own. See Database.session."""
        return self.database.session(read_only=read_only)

    async def query(
        self,
        sql: str,
        parameters: Mapping[str, Parameter] | None = None,
        *,
        user: str | None = None,
        max_rows: int = MAX_ROWS,
        timeout: float = TIMEOUT_SECONDS,
    ) -> QueryResult:
        """Ask a question in SQL over the report views; the database refuses everything else.

        See storage.reporting.query.asking.ask for the arguments and errors, and storage.reporting.views for the views.
        """
        from storage.reporting.query.asking import ask

        return await ask(self.database.url, sql, parameters, user=user, max_rows=max_rows, timeout=timeout)

    async def status(self) -> StorageStatus:
        """What is stored, where, and whether all is well. See storage.status.StorageStatus."""
        from storage.status import read_status

        return await read_status(
            self.config, self.database, self.keyring, self.blobs, guard=self.disk_guard, webhooks=self.webhooks
        )

    async def doctor(
        self, *, fix: bool = False, only: Collection[str] = (), told: Callable[[str], None] | None = None
    ) -> Report:
        """Look for whatever is wrong, and mend the safe part of it with `fix`. See storage.doctor.examination.examine.

        Raises:
            InvalidInput: there is no check of a name in `only`.
        """
        from storage.doctor.examination import examine
        from storage.doctor.parts import OpenParts, Patient

        parts = OpenParts(self.keyring, self.blobs, self.disk_guard, self.keys, self.files, self.webhooks)
        return await examine(Patient(self.config, self.database, parts), fix=fix, only=only, told=told)

    async def list_users(self) -> list[UserInfo]:
        """Everyone who has something stored. See storage.users.list_users."""
        from storage.users import list_users

        return await list_users(self.database)

    async def delete_user(self, user_id: str | None) -> DeletedUser:
        """Remove a user's data keys, rows and files, for good. See storage.users.delete_user for what that promises."""
        from storage.users import delete_user

        deleted = await delete_user(self.database, self.keyring, self.blobs, user_id)
        self.maskers.forget(deleted.user_id)
        return deleted

    async def export_user(
        self,
        user_id: str | None,
        target: str | Path,
        *,
        reveal: bool = False,
        progress: Callable[[int, int | None], None] | None = None,
    ) -> UserExport:
        """Write everything of one user as files that a person can read. See storage.user_export.export_user."""
        from storage.user_export import Belongings, export_user

        user = self.user(user_id)
        belongings = Belongings(self.database.url, self.files, user.settings, user.secrets)
        return await export_user(belongings, user_id, Path(target), reveal=reveal, progress=progress)

    async def backup(
        self, target: str | Path, *, files: bool = False, progress: Callable[[int, int | None], None] | None = None
    ) -> BackupReport:
        """Write everything to an archive that restores onto either database. See storage.backup.saving.back_up."""
        from storage.backup.saving import back_up

        return await back_up(self.database.url, self.blobs, Path(target), files=files, progress=progress)

    @classmethod
    async def restore(
        cls,
        source: str | Path,
        config: StorageConfig | str | None = None,
        *,
        progress: Callable[[int, int | None], None] | None = None,
        **arguments: Any,
    ) -> RestoreReport:
        """Put an archive into an empty storage, named as for `open`. See storage.backup.loading.restore."""
        from storage.backup.restoring import restore_from

        return await restore_from(Path(source), _configured(config, arguments), progress=progress)

    async def close(self) -> None:
        """Finish what was accepted and let go of everything. Closing twice does nothing."""
        async with AsyncExitStack() as closing:
            closing.push_async_callback(self.keyring.master_keys.provider.close)
            closing.push_async_callback(self.blobs.close)
            closing.push_async_callback(self.database.close)
            if self._delivery is not None:
                closing.push_async_callback(self._delivery.close)

    def __repr__(self) -> str:
        return f"<Storage {self.database.url.display}>"


class Opening:
    """What `Storage.open` returns: await it, or enter it with `async with`."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._storage: Storage | None = None

    def __await__(self) -> Generator[Any, None, Storage]:
        return cast("Generator[Any, None, Storage]", self._make().__await__())

    async def __aenter__(self) -> Storage:
        self._storage = await self
        return self._storage

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._storage is not None:
            await self._storage.close()


class _Stores:
    """The four stores of one user, on a database or inside a transaction."""

    def __init__(self, storage: Storage, user_id: str, executor: Executor) -> None:
        self._storage = storage
        self._executor = executor
        self.user_id = user_id

    @cached_property
    def conversations(self) -> ConversationStore:
        """Conversations' metadata; see storage.conversations.store."""
        replaced: ConversationStore | None = self._replaced("conversation_store_class", ConversationStore)
        if replaced is not None:
            return replaced
        from storage.conversations.sql import SQLConversationStore

        model = self._model("conversation_model", ConversationMetadata)
        return SQLConversationStore(
            self._executor, self.user_id, self._storage.keyring, model, on_delete=delete_conversation_files
        )

    @cached_property
    def settings(self) -> SettingsStore:
        """The user's settings; see storage.settings.store."""
        replaced: SettingsStore | None = self._replaced("settings_store_class", SettingsStore)
        if replaced is not None:
            return replaced
        from storage.settings.sql import SQLSettingsStore

        model = self._model("settings_model", Settings)
        return SQLSettingsStore(self._executor, self.user_id, self._storage.keyring, model)

    @cached_property
    def secrets(self) -> SecretsStore:
        """Provider tokens and custom secrets; see storage.secrets.store."""
        replaced: SecretsStore | None = self._replaced("secrets_store_class", SecretsStore)
        if replaced is not None:
            return replaced
        from storage.secrets.sql import SQLSecretsStore

        model = self._model("secrets_model", UserSecrets)
        return SQLSecretsStore(self._executor, self.user_id, self._storage.keyring, model, self._storage.maskers)

    @cached_property
    def files(self) -> FileCatalog:
        """The user's files; see storage.files.store."""

        async def secrets(*, every: bool) -> Secrets:
            return await self._storage.maskers.secrets(self._executor, self.user_id, every=every)

        config = self._storage.config
        quota = Quota(config.quota_bytes, config.quota_files)
        return FileCatalog(
            self._executor,
            self._storage.blobs,
            self.user_id,
            FileMasking(secrets, config.masked_paths),
            keyring=self._storage.keyring,
            rules=ContentRules(config.small_files_in_database, config.seal_files, config.max_file_bytes),
            quota=None if quota == Quota() else quota,
            guard=self._storage.disk_guard,
            webhooks=lambda: self.webhooks,
        )

    @cached_property
    def webhooks(self) -> Webhooks:
        """The user's own web hooks; see storage.webhooks.verbs."""
        return self._storage.webhooks_of(self.user_id, self._executor)

    def _model(self, setting: str, base: type[S]) -> type[S]:
        dotted_path = getattr(self._storage.config, setting)
        return base if dotted_path is None else load_class(setting, dotted_path, base)

    def _replaced(self, setting: str, interface: type[Any]) -> Any:
        config = self._storage.config
        dotted_path = getattr(config, setting)
        if dotted_path is None:
            return None
        if self._executor.in_transaction:
            raise ConfigurationError(f"{dotted_path} ({setting}) replaces this store and has no part in transactions")
        store_class: Any = load_class(setting, dotted_path, interface)
        return DeferredStore(store_class, lambda: store_class.get_instance(config, self.user_id))


class UserStorage(_Stores):
    """The stores of one user: conversations, settings, secrets and files. Made by `storage.user(…)`."""

    def __init__(self, storage: Storage, user_id: str) -> None:
        super().__init__(storage, user_id, storage.database)

    @asynccontextmanager
    async def transaction(self, timeout: float | None = None) -> AsyncIterator[UserTransaction]:
        """All or nothing over several stores: `async with alice.transaction() as tx: await tx.settings.update(…)`.

        Reads see the transaction's own writes; web hooks and on_commit hooks hear of it only if it commits. Not
        nested, and within its deadline: see Database.transaction, also for the errors.

        Args:
            timeout: seconds it may stay open; the configured transaction_timeout if None.
        """
        async with self._storage.database.transaction(timeout) as executor:
            yield UserTransaction(self._storage, self.user_id, executor)

    def __repr__(self) -> str:
        return f"<UserStorage {self.user_id!r} of {self._storage!r}>"


class UserTransaction(_Stores):
    """The same stores inside a transaction. Made by `UserStorage.transaction`."""

    def user(self, user_id: str | None) -> Self:
        """The stores of another user in the same transaction, for an operation that concerns both."""
        return type(self)(self._storage, user_key(user_id), self._executor)

    def __repr__(self) -> str:
        return f"<UserTransaction {self.user_id!r}>"


def _configured(config: StorageConfig | str | None, arguments: dict[str, Any]) -> StorageConfig:
    if isinstance(config, StorageConfig):
        return config
    return StorageConfig.load(**(arguments if config is None else {**arguments, "database_url": config}))


def _sealed_columns() -> tuple[SealedColumn, ...]:
    """Every sealed column of every feature."""
    import storage.tables  # noqa: F401 - the features' tables register theirs
    from storage.encryption.registry import sealed_columns

    return sealed_columns()


def _check_models(config: StorageConfig) -> None:
    """Find a misspelt dotted path when opening, not at the first request."""
    for setting, base in (
        ("conversation_model", ConversationMetadata),
        ("settings_model", Settings),
        ("secrets_model", UserSecrets),
        ("conversation_store_class", ConversationStore),
        ("settings_store_class", SettingsStore),
        ("secrets_store_class", SecretsStore),
    ):
        if (dotted_path := getattr(config, setting)) is not None:
            load_class(setting, dotted_path, base)
