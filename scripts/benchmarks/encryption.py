"""Seal and open, load twenty secrets, rewrap and re-encrypt a hundred thousand: each against its floor or its peers.

Contenders take turns in every round, so that what else the machine does hits them alike; quote the ratios. The two
rotations run one after the other on the same rows.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import os
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from rich.console import Console
from rich.table import Table
from sqlalchemy import text
from sqlalchemy_utils.types.encrypted.encrypted_type import AesGcmEngine

from storage import Storage, StorageConfig
from storage.clock import now
from storage.database.unit import Unit, execute_many
from storage.encryption.envelope import DataKey, SealContext, open_sealed, seal
from storage.encryption.keyset import KeySet
from storage.identity import new_id
from storage.secrets import statements as sql
from tests.servers.postgres import PostgresServer

VALUE = base64.b64encode(os.urandom(150)).decode()
"""200 characters, about as long as a token with its signature."""
CONTEXT = SealContext("custom_secret.value/1", "ada", str(new_id()), "DATABASE_URL")
CALLS = 2000
"""Seals in one round; some tens of milliseconds for every contender."""
LOADS = 50
SECRETS = 20
AT_ONCE = 64
"""Users that are set up at once."""


def seal_and_open(rounds: int) -> None:
    """200 bytes, sealed and opened again; one thread, no database."""
    key, fernet = DataKey.generate(), Fernet(Fernet.generate_key())
    engine = AesGcmEngine()
    engine._update_key(base64.b64encode(os.urandom(32)).decode())  # noqa: SLF001 - its only way
    # More values than a data key keeps the derivation of; then one, which it keeps.
    ours = [seal(key, CONTEXT, VALUE.encode()) for _ in range(CALLS)]
    theirs, token = engine.encrypt(VALUE), fernet.encrypt(VALUE.encode())
    calls: dict[str, dict[str, Callable[[int], Any]]] = {
        "seal": {
            "agent-storage": lambda _: seal(key, CONTEXT, VALUE.encode()),
            "sqlalchemy-utils AesGcmEngine": lambda _: engine.encrypt(VALUE),
            "Fernet": lambda _: fernet.encrypt(VALUE.encode()),
        },
        "open": {
            "agent-storage": lambda number: open_sealed(key, CONTEXT, ours[number]).decode(),
            "sqlalchemy-utils AesGcmEngine": lambda _: engine.decrypt(theirs),
            "Fernet": lambda _: fernet.decrypt(token).decode(),
        },
        "open again": {
            "agent-storage": lambda _: open_sealed(key, CONTEXT, ours[0]).decode(),
            "sqlalchemy-utils AesGcmEngine": lambda _: engine.decrypt(theirs),
            "Fernet": lambda _: fernet.decrypt(token).decode(),
        },
    }
    table = Table(title=f"{len(VALUE)} bytes")
    table.add_column("operation")
    for name in calls["seal"]:
        table.add_column(f"{name}, µs", justify="right")
    table.add_column("AesGcmEngine / ours", justify="right")
    table.add_column("Fernet / ours", justify="right")
    for operation, contenders in calls.items():
        taken: dict[str, list[float]] = {name: [] for name in contenders}
        for round_ in range(rounds + 1):
            for name, call in contenders.items():
                started = perf_counter()
                for number in range(CALLS):
                    call(number)
                if round_:  # the first one warms caches
                    taken[name].append((perf_counter() - started) / CALLS * 1e6)
        mine, engines, fernets = (median(values) for values in taken.values())
        table.add_row(
            operation,
            *[f"{micro:.1f}" for micro in (mine, engines, fernets)],
            f"{engines / mine:.1f}",
            f"{fernets / mine:.1f}",
        )
    Console(width=120).print(table)


@asynccontextmanager
async def opened(url: str, folder: Path, *master_keys: str) -> Any:
    """A storage with these master keys, the first one active."""
    config = StorageConfig(database_url=url, data_dir=folder, file_store="memory", master_key=",".join(master_keys))
    async with Storage.open(config) as storage:
        yield storage


def new_master_key() -> str:
    """32 random bytes in base64."""
    return base64.b64encode(os.urandom(32)).decode()


async def load(url: str, folder: Path, rounds: int) -> dict[str, float]:
    """Microseconds for `SecretsStore.load()` of twenty secrets, and for its unavoidable parts.

    The read is the same statement on the same rows. Bare AES-GCM is a cipher made and a value decrypted, twenty times,
    since every value has a key of its own. `first` is a load after the user's keys were forgotten.
    """
    async with opened(url, folder, new_master_key()) as storage:
        secrets = storage.user("ada").secrets
        for number in range(SECRETS):
            await secrets.set_custom_secret(f"SECRET_{number}", VALUE, "what it is for")
        key, nonce, associated = os.urandom(32), os.urandom(12), os.urandom(120)
        sealed = AESGCM(key).encrypt(nonce, VALUE.encode(), associated)

        async def read() -> None:
            await storage.database.read(sql.ALL, {"owner": "ada"})

        async def bare() -> None:
            for _ in range(SECRETS):
                AESGCM(key).decrypt(nonce, sealed, associated).decode()

        async def first() -> None:
            storage.keyring.forget("ada")
            await secrets.load()

        contenders: dict[str, Callable[[], Awaitable[Any]]] = {
            "load": secrets.load,
            "first": first,
            "read": read,
            "bare": bare,
        }
        taken: dict[str, list[float]] = {name: [] for name in contenders}
        for round_ in range(rounds + 1):
            for name, call in contenders.items():
                started = perf_counter()
                for _ in range(LOADS):
                    await call()
                if round_:
                    taken[name].append((perf_counter() - started) / LOADS * 1e6)
        return {name: median(values) for name, values in taken.items()}


async def fill(storage: Storage, users: int, secrets: int) -> None:
    """A data key and `secrets` custom secrets for each of `users`."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(user: str) -> None:
        def unit(keys: KeySet) -> Unit[None]:
            moment = now()
            rows: list[dict[str, Any]] = []
            for number in range(secrets):
                row = {"id": new_id(), "user_id": user, "name": f"SECRET_{number}", "description": ""}
                sealed = keys.seal(sql.CUSTOM.sealed.context(row), VALUE.encode())
                rows.append({**row, "value": sealed, "created_at": moment, "updated_at": moment})
            yield from execute_many(sql.CUSTOM.insert, rows)

        async with gate:
            await storage.keyring.run(storage.database, user, unit)

    await asyncio.gather(*[one(f"user-{number:06}") for number in range(users)])
    async with storage.session() as session:
        connection = await session.connection()
        await connection.execute(text("ANALYZE"))  # what autovacuum does within a minute
        await session.commit()


async def rotate(url: str, folder: Path, users: int, secrets: int, rounds: int) -> tuple[float, float]:
    """Seconds for a rewrap of all data keys under another master key, and for a reencrypt of everything."""
    one, other = new_master_key(), new_master_key()
    async with opened(url, folder, one) as storage:
        await fill(storage, users, secrets)
    rewraps, reencrypts = [], []
    for _ in range(rounds):
        one, other = other, one
        async with opened(url, folder, one, other) as storage:
            started = perf_counter()
            rewrapped = await storage.keys.rewrap()
            rewraps.append(perf_counter() - started)
            started = perf_counter()
            reencrypted = await storage.keys.reencrypt()
            reencrypts.append(perf_counter() - started)
        done = (rewrapped.moved, reencrypted.users, reencrypted.resealed)
        if done != (users, users, users * secrets):
            raise SystemExit(f"{users} data keys and {users * secrets} secrets were expected to be done, not {done}")
    return median(rewraps), median(reencrypts)


def show_load(figures: Sequence[tuple[str, dict[str, float]]]) -> None:
    """Print what loading takes, by database."""
    table = Table(title=f"SecretsStore.load() with {SECRETS} secrets of {len(VALUE)} bytes")
    for name in ("database", "load, µs", "first, µs", "one read, µs", "AES-GCM, µs", "load / (read + AES-GCM)"):
        table.add_column(name, justify="left" if name == "database" else "right")
    for database, row in figures:
        ratio = row["load"] / (row["read"] + row["bare"])
        table.add_row(database, *[f"{row[name]:,.0f}" for name in ("load", "first", "read", "bare")], f"{ratio:.2f}")
    Console(width=120).print(table)


def show_rotation(figures: Sequence[tuple[str, tuple[float, float]]], users: int, secrets: int) -> None:
    """Print what the rotations take, by database."""
    table = Table(title=f"{users:,} users' data keys, {users * secrets:,} secrets of {len(VALUE)} bytes")
    for name in ("database", "rewrap, s", "reencrypt, s", "reencrypt / rewrap", "secrets/s"):
        table.add_column(name, justify="left" if name == "database" else "right")
    for database, (rewrap, reencrypt) in figures:
        speed = users * secrets / reencrypt
        row = (f"{rewrap:.2f}", f"{reencrypt:.1f}", f"{reencrypt / rewrap:.1f}", f"{speed:,.0f}")
        table.add_row(database, *row)
    Console(width=120).print(table)


def main() -> None:
    """Measure without a database, then on SQLite, then on PostgreSQL."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--secrets", type=int, default=10, help="secrets of each user")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rotations", type=int, default=1, help="rounds of rewrap and reencrypt; 0 leaves them out")
    parser.add_argument("--sqlite-only", action="store_true")
    options = parser.parse_args()
    seal_and_open(options.rounds)
    loads: list[tuple[str, dict[str, float]]] = []
    rotations: list[tuple[str, tuple[float, float]]] = []

    def measure(database: str, new_url: Callable[[], str], folder: Path) -> None:
        loads.append((database, asyncio.run(load(new_url(), folder, options.rounds))))
        if options.rotations:
            figures = asyncio.run(rotate(new_url(), folder, options.users, options.secrets, options.rotations))
            rotations.append((database, figures))

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measure("SQLite, WAL, synchronous=FULL", lambda: f"sqlite:///{folder / new_id().hex}.db", folder)
        if not options.sqlite_only:
            with PostgresServer() as server:
                measure("PostgreSQL, unix socket, fsync off", server.create_database, folder)
    show_load(loads)
    if rotations:
        show_rotation(rotations, options.users, options.secrets)


if __name__ == "__main__":
    main()
