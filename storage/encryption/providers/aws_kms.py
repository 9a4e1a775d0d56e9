"""Master keys that never leave AWS KMS: this process only sends data keys there to be wrapped and unwrapped.

Whoever copies database and server still needs the permission to use the key, and each use is in CloudTrail. The
credentials need kms:Encrypt, kms:Decrypt and kms:DescribeKey.

A wrapped data key is `0x02 | tag[16] | KMS's ciphertext`. KMS binds a ciphertext to its encryption context, which
CloudTrail shows in the clear; so the context has only the hash of what the data key is bound to::

    {"agent-storage": "data-key/1", "bound-to": base64(SHA-256(associated data))}

The tag, SHA-256 of the key's ARN cut to 16 bytes, tells a wrapped key that was moved to another master key without
asking KMS. Of a multi-Region key only its id counts, so that replicas open each other's.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import os
import re
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, Self

from storage.encryption.envelope import KEY_ID_BYTES
from storage.encryption.providers.aws_kms_errors import is_lasting, lasting, typed
from storage.encryption.providers.provider import KeyProvider, ProviderHealth, RegisteredKey
from storage.errors import ConfigurationError, KeyMismatch, KeyMissing, KeyUnavailable, StorageError, Tampered

if TYPE_CHECKING:
    from storage.config import StorageConfig

MOST_AT_ONCE: Final = 16
"""Calls, each on a thread of its own. 16 at 50 ms each are 320 data keys a second, far below AWS's quota."""

# Three tries of these end within the 15 s that the key ring waits, with the pauses between them.
CONNECT_SECONDS: Final = 2
READ_SECONDS: Final = 3
ATTEMPTS: Final = 3

_FORMAT: Final = b"\x02"
_TAG_BYTES: Final = 16
_LONGEST_CIPHERTEXT: Final = 6144
"""What KMS takes, in bytes; those of data keys have some 200."""

_CHECK: Final = b"aws-kms/1\x00"
"""How our check values begin: `aws-kms/1\\0 | length of ARN[2] | ARN | ciphertext of _CHECK_TEXT`."""
_CHECK_TEXT: Final = b"agent-storage/kek-check/1"

_THREADS: Final = "storage-kms"

_TELLING_LOGGERS: Final = ("botocore.endpoint", "botocore.parsers")
"""They log requests and answers whole at DEBUG, and with them the data keys."""

_USABLE_STATES: Final = frozenset({"Enabled", "Updating"})


class AWSKMS(KeyProvider):
    """Symmetric keys of AWS KMS; the first one that is not retired wraps, all unwrap.

    Credentials and region come from where boto3 looks for them. AWS's own yearly rotation of a key's material needs
    nothing here: the ARN stays. When an alias is pointed at another key, name the old key behind it until `rewrap`
    has moved the data keys.

    Args:
        key_ids: ids, ARNs or aliases (`alias/…`) in order.
        endpoint_url: another endpoint than the region's own.
    """

    name = "aws-kms"

    def __init__(self, key_ids: Sequence[str], endpoint_url: str | None = None) -> None:
        self._key_ids = tuple(dict.fromkeys(key_ids))
        self._endpoint_url = endpoint_url
        self._threads = ThreadPoolExecutor(MOST_AT_ONCE, thread_name_prefix=_THREADS)
        self._clients: dict[str | None, Any] = {}
        self._making_clients = threading.Lock()  # a boto3 session is not safe to share, its clients are
        # By configured id, as of the last `health`.
        self._arns: dict[str, str] = {}
        self._failures: dict[str, StorageError] = {}
        # By identity (see `_identity`).
        self._enrolled: dict[str, RegisteredKey] = {}
        self._retired: frozenset[str] = frozenset()
        self._by_id: dict[bytes, str] = {}  # the ARN by which to call
        _keep_keys_out_of_logs()

    @classmethod
    async def get_instance(cls, config: StorageConfig) -> Self:
        if not config.aws_kms_key_ids:
            raise ConfigurationError(
                "key_provider is 'aws-kms', and aws_kms_key_ids (STORAGE_AWS_KMS_KEY_IDS) names no key; give its id, "
                "ARN or alias"
            )
        await asyncio.to_thread(_import_boto3)
        return cls(config.aws_kms_key_ids, config.aws_kms_endpoint_url)

    async def close(self) -> None:
        self._threads.shutdown(wait=False)
        for client in self._clients.values():
            client.close()

    @property
    def where(self) -> str:
        return f"AWS KMS ({', '.join(self._key_ids)})"

    @property
    def active_id(self) -> bytes | None:
        arn = self._arns.get(self._active() or "")
        enrolled = None if arn is None else self._enrolled.get(_identity(arn))
        return None if enrolled is None else enrolled.kek_id

    async def health(self) -> ProviderHealth:
        """Look at every key. One that cannot be used is told, and an error only if it is the only one."""
        found = await asyncio.gather(*(self._describe(key_id) for key_id in self._key_ids))
        self._failures = {key_id: error for key_id, error in zip(self._key_ids, found, strict=True) if error}
        failures = list(self._failures.values())
        if len(failures) == len(self._key_ids):
            raise failures[0]
        usable = len(self._key_ids) - len(failures)
        return ProviderHealth(True, "; ".join([f"{usable} key(s) in {self.where}", *map(str, failures)]))

    async def identify(self, registered: Sequence[RegisteredKey]) -> frozenset[bytes]:
        if not self._arns:
            await self.health()
        names: dict[str | None, str] = {_identity(arn): key_id for key_id, arn in self._arns.items()}
        rows = [(row, named) for row in registered if (named := _named_in(row.check_value)) and named in names]
        found = await asyncio.gather(*(self._recognise(row, names[named]) for row, named in rows))
        held = [(row, named) for (row, named), error in zip(rows, found, strict=True) if error is None]
        failures = [error for error in found if error is not None and is_lasting(error)]
        if failures and not held:
            raise failures[0]
        live = {named for row, named in rows if not row.retired}
        self._retired = frozenset(named for _, named in rows) - live
        self._enrolled.update({named: row for row, named in held if not row.retired})
        return frozenset(row.kek_id for row, _ in held)

    async def enrol(self) -> RegisteredKey:
        key_id = self._active()
        if key_id is None:
            raise KeyMismatch(f"every master key in {self.where} was retired; name a further one in aws_kms_key_ids")
        if key_id not in self._arns:
            await self.health()
        if key_id in self._failures:
            raise self._failures[key_id]
        arn = self._arns[key_id]
        if (known := self._enrolled.get(_identity(arn))) is not None:
            return known
        kek_id = os.urandom(KEY_ID_BYTES)
        answer = await self._call("encrypt", arn, Plaintext=_CHECK_TEXT, EncryptionContext=_check_context(kek_id))
        encoded = arn.encode()
        check_value = _CHECK + len(encoded).to_bytes(2, "big") + encoded + answer["CiphertextBlob"]
        # Of two tasks that enrol at once, both get what the first one made.
        enrolled = self._enrolled.setdefault(_identity(arn), RegisteredKey(kek_id, check_value))
        self._by_id[enrolled.kek_id] = arn
        return enrolled

    async def wrap(self, kek_id: bytes, plaintext: bytes, associated_data: bytes) -> bytes:
        arn = self._arn(kek_id)
        answer = await self._call("encrypt", arn, Plaintext=plaintext, EncryptionContext=_context(associated_data))
        ciphertext: bytes = answer["CiphertextBlob"]
        return _FORMAT + _tag(arn) + ciphertext

    async def unwrap(self, kek_id: bytes, wrapped: bytes, associated_data: bytes) -> bytes:
        arn = self._arn(kek_id)
        prefix = _FORMAT + _tag(arn)
        if not wrapped.startswith(prefix) or not 0 < len(wrapped) - len(prefix) <= _LONGEST_CIPHERTEXT:
            raise Tampered(
                f"a wrapped data key cannot be opened with the AWS KMS key {arn}: it was altered, or belongs to "
                "another master key. Restore its row (table data_key) from a backup"
            )
        answer = await self._call(
            "decrypt", arn, CiphertextBlob=wrapped[len(prefix) :], EncryptionContext=_context(associated_data)
        )
        plaintext: bytes = answer["Plaintext"]
        return plaintext

    async def generate(self) -> None:
        raise KeyUnavailable("this program makes no keys in AWS KMS; make one there, and name it in aws_kms_key_ids")

    async def add(self) -> RegisteredKey:
        raise ConfigurationError(
            "this program makes no keys in AWS KMS; make one there, and append it to aws_kms_key_ids"
        )

    async def promote(self, kek_id: bytes) -> None:
        raise ConfigurationError(
            f"put the key {self._by_id.get(kek_id, kek_id.hex())} first in aws_kms_key_ids, and start again"
        )

    def __repr__(self) -> str:
        return f"AWSKMS({', '.join(self._key_ids)})"

    # ---- below: which key, and how to call

    def _active(self) -> str | None:
        """The configured id of the first key that is not retired."""
        retired = {key_id for key_id, arn in self._arns.items() if _identity(arn) in self._retired}
        return next((key_id for key_id in self._key_ids if key_id not in retired), None)

    def _arn(self, kek_id: bytes) -> str:
        arn = self._by_id.get(kek_id)
        if arn is None:
            raise KeyMissing(f"the master key {kek_id.hex()} is not in {self.where}")
        return arn

    async def _describe(self, key_id: str) -> StorageError | None:
        """Learn a key's ARN; what is wrong with the key, or None if it can be used."""
        try:
            found = (await self._call("describe_key", key_id))["KeyMetadata"]
        except StorageError as error:
            if is_lasting(error):
                return error
            raise
        self._arns[key_id] = found["Arn"]
        # The API promises neither; where one is missing, the first call of the key will tell.
        if found.get("KeySpec", "SYMMETRIC_DEFAULT") != "SYMMETRIC_DEFAULT":
            return lasting(ConfigurationError(f"the AWS KMS key {key_id} is not a symmetric key for encryption"))
        if (state := found.get("KeyState", "Enabled")) not in _USABLE_STATES:
            return lasting(KeyUnavailable(f"the AWS KMS key {key_id} is in the state {state}; enable it again"))
        return None

    async def _recognise(self, row: RegisteredKey, key_id: str) -> StorageError | None:
        """Have KMS open the check value once; None if it is that key's."""
        if row.kek_id in self._by_id:
            return None
        if key_id in self._failures:
            return self._failures[key_id]
        arn = self._arns[key_id]
        ciphertext = row.check_value[len(_CHECK) + 2 + _arn_length(row.check_value) :]
        if not 0 < len(ciphertext) <= _LONGEST_CIPHERTEXT:
            return _foreign(row)
        try:
            answer = await self._call(
                "decrypt", arn, CiphertextBlob=ciphertext, EncryptionContext=_check_context(row.kek_id)
            )
        except Tampered as error:
            return error
        except StorageError as error:
            if is_lasting(error):
                return error
            raise
        if answer["Plaintext"] != _CHECK_TEXT:
            return _foreign(row)
        self._by_id[row.kek_id] = arn
        return None

    async def _call(self, operation: str, key: str, **arguments: Any) -> dict[str, Any]:
        def call() -> dict[str, Any]:
            try:
                client = self._client(_region(key))
                answer: dict[str, Any] = getattr(client, operation)(KeyId=key, **arguments)
            except ConfigurationError:
                raise
            except Exception as error:  # noqa: BLE001 - botocore raises ValueError and others besides its own
                # Not as its cause: botocore's errors may carry a request's parameters.
                raise typed(key, error) from None
            return answer

        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def _client(self, region: str | None) -> Any:
        with self._making_clients:
            if region not in self._clients:
                boto3 = _import_boto3()
                from botocore.config import Config

                self._clients[region] = boto3.session.Session().client(
                    "kms",
                    region_name=region,
                    endpoint_url=self._endpoint_url,
                    config=Config(
                        connect_timeout=CONNECT_SECONDS,
                        read_timeout=READ_SECONDS,
                        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
                        max_pool_connections=MOST_AT_ONCE,
                    ),
                )
            return self._clients[region]


def _import_boto3() -> Any:
    try:
        import boto3
    except ImportError:
        raise ConfigurationError(
            "key_provider 'aws-kms' needs the package boto3; install it: pip install 'agent-storage[kms]'"
        ) from None
    return boto3


class _NotOfOurThreads(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        # Filters run on the thread that logs. The record has no thread's name where `logging.logThreads` is off.
        return not threading.current_thread().name.startswith(_THREADS)


_FILTER: Final = _NotOfOurThreads()


def _keep_keys_out_of_logs() -> None:
    """Silence what those loggers would say of our calls; others' calls in the same process stay logged."""
    for name in _TELLING_LOGGERS:
        logging.getLogger(name).addFilter(_FILTER)


def _region(key: str) -> str | None:
    """The region that an ARN names; None for an id or an alias."""
    arn = re.match(r"arn:[^:]+:kms:([^:]+):", key)
    return arn and arn[1]


def _identity(arn: str) -> str:
    """The ARN; of a multi-Region key its id (`mrk-…`), which the replicas share with the key and its material."""
    key_id = arn.rpartition("/")[2]
    return key_id if key_id.startswith("mrk-") else arn


def _tag(arn: str) -> bytes:
    return hashlib.sha256(_identity(arn).encode()).digest()[:_TAG_BYTES]


def _context(associated_data: bytes) -> dict[str, str]:
    digest = base64.b64encode(hashlib.sha256(associated_data).digest()).decode()
    return {"agent-storage": "data-key/1", "bound-to": digest}


def _check_context(kek_id: bytes) -> dict[str, str]:
    return {"agent-storage": "kek-check/1", "kek-id": kek_id.hex()}


def _foreign(row: RegisteredKey) -> Tampered:
    return Tampered(f"the check value of the master key {row.kek_id.hex()} was altered (table key_encryption_key)")


def _arn_length(check_value: bytes) -> int:
    return int.from_bytes(check_value[len(_CHECK) : len(_CHECK) + 2], "big")


def _named_in(check_value: bytes) -> str | None:
    """The identity of the key that a check value names; None if the check value is not of KMS."""
    if not check_value.startswith(_CHECK):
        return None
    start = len(_CHECK) + 2
    return _identity(check_value[start : start + _arn_length(check_value)].decode(errors="replace"))
