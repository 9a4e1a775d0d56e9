"""A storage of two users whose names and titles would do harm in a page that did not escape them."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from storage import Storage
from tests.reporting.rows import conversation, delivery, endpoint, file, happened, save

MARCH = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
HOSTILE = "</script></style><script>window.broken = 1</script><img src=x onerror=\"window.broken = 2\"> & 'q'"
"""A title, a model, a repository and a trigger of it are stored."""
HOSTILE_USER = "<b onmouseover=window.broken=3>eve</b>"
ADA = "ada"


async def fill(storage: Storage) -> None:
    """Seven models over nine weeks, two users, files, and one web hook of each kind."""
    rows: list[Any] = []
    for number in range(21):
        used = 1_000 * (number + 1)
        rows.append(
            conversation(
                ADA if number % 3 else HOSTILE_USER,
                f"c{number:02}",
                title=HOSTILE if number == 20 else None if number == 3 else f"Change {number}",
                llm_model=HOSTILE if number % 7 == 6 else f"provider/model-{number % 7}",
                selected_repository=HOSTILE if number % 5 == 4 else None if number % 5 == 3 else f"acme/r{number % 5}",
                trigger=HOSTILE if number == 20 else "gui" if number % 2 else None,
                accumulated_cost=0.125 * (number + 1),
                prompt_tokens=used,
                completion_tokens=used // 10,
                total_tokens=used + used // 10,
                cache_read_tokens=used // 2,
                created_at=MARCH + timedelta(days=3 * number),
            )
        )
        rows.append(
            file(ADA if number % 2 else HOSTILE_USER, f"f{number}", 1_000_000, created_at=MARCH + timedelta(number))
        )
    await save(storage, *rows)
    await save(
        storage,
        endpoint(None, "https://ops.example.com/T0/secret-path?key=canary-in-url"),
        endpoint(
            ADA,
            "https://ada.example.com:8443/x",
            id=uuid.UUID(int=2),
            event_types=[],
            state="disabled",
            state_reason=HOSTILE,
        ),
    )
    # Far from the numbers that the database gives to events of its own.
    first = 1_001
    await save(
        storage,
        *(happened(ADA if number % 2 else HOSTILE_USER, first + number) for number in range(8)),
    )
    await save(
        storage,
        *(delivery(1, first + number, "delivered" if number < 7 else "pending") for number in range(8)),
        delivery(2, first + 1, "dead"),
        delivery(2, first + 3, "delivered"),
    )
