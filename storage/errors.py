"""Every error that this library raises on purpose, as one tree under StorageError.

Callers catch by kind; messages say what was wrong, what was expected and what to do next, and never carry a secret.
"""

from __future__ import annotations


class StorageError(Exception):
    """Base of all errors of this library."""


class InvalidInput(StorageError, ValueError):
    """An argument is not acceptable; the message names it and the rule. Nothing was changed."""


class ConfigurationError(StorageError, ValueError):
    """The configuration cannot be used as it stands; the message names the field and how to mend it."""


class NotFound(StorageError, FileNotFoundError):
    """What was asked for does not exist for this user.

    Also a FileNotFoundError, because callers of the seed system catch that.
    """


class ConversationNotFound(NotFound):
    """No conversation with this id belongs to this user."""


class FileNotFound(NotFound):
    """No file is stored at this path for this user."""


class SecretNotFound(NotFound):
    """No secret of this name is stored for this user."""


class Conflict(StorageError):
    """The change contradicts what is stored now. Read again, decide again."""


class VersionConflict(Conflict):
    """The row was changed by someone else since `expected_version` was read."""


class IdentifierTaken(Conflict):
    """The identifier cannot be used by this user; choose another one."""


class UniqueViolation(Conflict):
    """A unique constraint of the database refused a row."""


class KeyInUse(Conflict):
    """The master key is in use, so it cannot be retired or given up; the message says what to run first."""


# ---- database


class DatabaseError(StorageError):
    """The database refused or failed; the driver's error is the cause (`__cause__`)."""


class DatabaseUnavailable(DatabaseError):
    """The database cannot be reached or opened."""


class DatabaseBusy(DatabaseError):
    """Another process or connection held the database for longer than the busy timeout."""


class SchemaTooNew(DatabaseError):
    """The database was migrated by a newer release than this one; upgrade this installation."""


class SchemaOutdated(DatabaseError):
    """The database needs a migration and upgrading at open was turned off."""


class StorageClosed(DatabaseError):
    """The storage is closed, or was never opened."""


class ForkDetected(DatabaseError):
    """The process was forked after the storage was opened. Open the storage after the fork instead."""


class TransactionClosed(DatabaseError):
    """The transaction was committed or rolled back already."""


class TransactionTimeout(DatabaseError):
    """The transaction stayed open past its deadline and was rolled back."""


class TransactionAborted(DatabaseError):
    """PostgreSQL broke a circle of waiting transactions by failing this call. Run the whole transaction again.

    Single calls are run again by themselves; so this is met only inside a `transaction()` block.
    """


class NestedTransaction(DatabaseError):
    """A call that would wait for the transaction which the same task holds open."""


# ---- encryption


class EncryptionError(StorageError):
    """A secret could not be sealed or opened."""


class KeyMissing(EncryptionError):
    """No master key is configured, and the database holds secrets that need one."""


class KeyMismatch(EncryptionError):
    """The configured master key is not the one that the stored secrets were sealed under."""


class KeyUnavailable(EncryptionError):
    """The master key exists but cannot be used now (permissions, or a provider that is down)."""


class Tampered(EncryptionError):
    """A sealed value was altered, moved from another place, or is not a sealed value at all."""


class UnsealedValue(EncryptionError, ValueError):
    """Something that is not a sealed value was about to be written into a sealed column."""


# ---- files


class FileStoreError(StorageError):
    """A file backend failed; the backend's error is the cause (`__cause__`)."""


class FileCorrupted(FileStoreError):
    """A blob is missing, or its bytes do not have the sha256 that the catalogue recorded."""


class FileStoreUnavailable(FileStoreError):
    """The backend cannot be reached or failed in a way that may pass."""


class FileStoreThrottled(FileStoreUnavailable):
    """The backend asks for fewer requests, and went on asking while they were repeated. Try again later."""


class BucketNotFound(FileStoreError):
    """There is no bucket of the configured name at the configured endpoint, or in the configured project."""


class FileStoreFull(FileStoreError):
    """The backend has no room left; what was there before is still whole."""


class DiskSpaceLow(FileStoreFull):
    """Less would be left of a disk than `disk_refuse_bytes` keeps free. Nothing was stored; all else goes on."""


class FileAccessDenied(FileStoreError):
    """The backend refused access; what was there before is still whole."""


class FileTooLarge(InvalidInput):
    """The content is longer than `max_file_bytes` allows. Nothing was stored."""


class QuotaExceeded(StorageError):
    """With this change the user would have more bytes or more files than the quota allows. Nothing was changed."""


class FileExists(Conflict, FileExistsError):
    """A file is at the path already, and the write was to create one (`if_absent`). Nothing was changed."""


class FileChanged(Conflict):
    """The file is gone or is not the one whose etag the write expected (`if_match`). Nothing was changed."""


class NotSupported(StorageError):
    """This backend cannot do what was asked; the message names one that can."""


class PathRejected(InvalidInput):
    """The path breaks the path rule (see storage.files.paths)."""


# ---- web hooks


class EndpointNotFound(NotFound):
    """No web hook endpoint with this id belongs to this user."""


class DeliveryNotFound(NotFound):
    """No dead letter with this id waits at this endpoint."""


class EgressRefused(StorageError):
    """The address is not one that web hooks may be sent to; the message names the setting that allows it."""


class SignatureInvalid(StorageError):
    """A web hook that was received is not signed by one of the secrets, or not at this time."""


# ---- questions


class QueryError(StorageError):
    """A question in SQL was not answered. Nothing was changed: a question never changes anything."""


class QueryRefused(QueryError):
    """It wants more than to read the report views."""


class QueryInvalid(QueryError, ValueError):
    """The database does not understand it, or it fails on a value; the message is the database's."""


class QueryTimeout(QueryError):
    """It took longer than it may."""


class QueryTooLarge(QueryError):
    """The result, or the statement once its parts are put together, is larger than it may be."""


class QuerySetupMissing(QueryError):
    """PostgreSQL has no roles for questions, and its user may not make them; the message says what to run."""


# ---- backup


class BackupError(StorageError):
    """A backup was not made, or not restored. What was there before is whole."""


class ArchiveDamaged(BackupError):
    """The archive is not what was written, or is none; the message names the part. Nothing was restored."""


class ArchiveTooNew(BackupError):
    """A newer release has made the archive. Nothing was restored."""


class TargetNotEmpty(BackupError):
    """There is something already where the archive is to go. Nothing was changed."""
