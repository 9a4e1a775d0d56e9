"""What OpenHands' own routes make of some requests, as one line of JSON; run by test_routes with two kinds of stores.

A program of its own, because a process has one server: its modules choose the stores while they are imported.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
from fastapi import FastAPI
from openhands.core.config import load_openhands_config
from openhands.events.action import MessageAction
from openhands.events.stream import EventSource, EventStream
from openhands.server import shared
from openhands.server.routes import secrets, settings
from openhands.server.services.conversation_service import setup_init_conversation_settings
from openhands.storage.conversation.conversation_validator import create_conversation_validator
from openhands.utils.utils import create_registry_and_conversation_stats

FULL = {
    "language": "fr",
    "agent": "CodeActAgent",
    "max_iterations": 50,
    "llm_model": "openai/gpt-4o",
    "llm_api_key": "sk-first",
    "llm_base_url": "https://llm.example.com",
    "search_api_key": "tvly-first",
    "remote_runtime_resource_factor": 2,
    "enable_sound_notifications": True,
    "user_consents_to_analytics": False,
    "max_budget_per_task": 4.5,
    "condenser_max_size": 120,
    "email": "a@example.com",
    "git_user_name": "a",
    "mcp_config": {
        "sse_servers": [{"url": "https://x.example.com/sse", "api_key": "mcp-key"}],
        "stdio_servers": [{"name": "s", "command": "uvx", "args": ["y"], "env": {"K": "v"}}],
        "shttp_servers": [],
    },
}
SETTINGS: list[dict[str, Any]] = [
    FULL,
    {"llm_model": "openai/o1"},
    {"llm_base_url": "https://other.example.com", "language": "de"},
    {"llm_base_url": "", "llm_api_key": "sk-second", "llm_model": "anthropic/claude-3-5-sonnet-20241022"},
    {"mcp_config": {"sse_servers": [], "stdio_servers": [], "shttp_servers": ["https://z.example.com/mcp"]}},
    {"llm_api_key": "", "search_api_key": "tvly-second", "disabled_skills": ["x"]},
    {"condenser_max_size": 3},
    FULL,
]
SECRETS: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "/api/secrets", {"name": "A", "value": "value of A", "description": "first"}),
    ("POST", "/api/secrets", {"name": "B", "value": "value of B"}),
    ("POST", "/api/secrets", {"name": "A", "value": "again"}),
    ("POST", "/api/add-git-providers", {"provider_tokens": {"github": {"token": "ghp-1", "host": "git.example.com"}}}),
    ("PUT", "/api/secrets/A", {"name": "C", "description": "renamed"}),
    ("PUT", "/api/secrets/none", {"name": "D"}),
    ("POST", "/api/add-git-providers", {"provider_tokens": {"github": {"token": "", "host": "new.example.com"}}}),
    (
        "POST",
        "/api/add-git-providers",
        {"provider_tokens": {"github": {"token": ""}, "gitlab": {"token": "glpat-2", "user_id": "u"}}},
    ),
    ("DELETE", "/api/secrets/B", {}),
    ("DELETE", "/api/secrets/B", {}),
    ("POST", "/api/secrets", {"name": "E", "value": "value of E"}),
]


async def told() -> dict[str, Any]:
    """Every answer, and after each what the stores hold, secrets in clear."""
    app = FastAPI()
    app.include_router(settings.app)
    app.include_router(secrets.app)

    async def no_check(*_: Any) -> str:
        return ""  # the real one asks the forge

    secrets.check_provider_tokens = no_check
    answers: list[Any] = []
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://server") as client:
        answers.append((await client.get("/api/settings")).status_code)
        for body in SETTINGS:
            answer = await client.post("/api/settings", json=body)
            answers.append((answer.status_code, (await client.get("/api/settings")).json(), await held()))
        answers.append((await client.get("/api/secrets")).json())
        for method, path, body in SECRETS:
            answer = await client.request(method, path, json=body or None)
            answers.append((method, path, answer.status_code, (await client.get("/api/secrets")).json(), await held()))
        init = await setup_init_conversation_settings(None, "c1", [])
        tokens = {
            provider.value: token.token.get_secret_value() for provider, token in init.git_provider_tokens.items()
        }
        custom = {name: secret.secret.get_secret_value() for name, secret in init.custom_secrets.items()}
        answers.append((await client.post("/api/unset-provider-tokens")).status_code)
        answers.append(await held())
    return {"answers": answers, "tokens": tokens, "custom": custom, **files(custom)}


async def held() -> Any:
    whole = {"mode": "json", "context": {"expose_secrets": True}}
    stores = (shared.SettingsStoreImpl, shared.SecretsStoreImpl)
    found = [await (await store.get_instance(shared.config, None)).load() for store in stores]
    held_settings, held_secrets = (None if each is None else each.model_dump(**whole) for each in found)
    # No secrets at all and no file of them are the same to every caller.
    return held_settings, held_secrets or {"provider_tokens": {}, "custom_secrets": {}}


def files(custom: dict[str, str]) -> dict[str, Any]:
    """What an agent's session does with files: events through the stream, figures of models beside them."""
    stream = EventStream("c1", shared.file_store)
    stream.set_secrets(custom)
    for text in ("it is value of E", "nothing"):
        stream.add_event(MessageAction(content=text), EventSource.USER)
    stream.close()
    written = [json.loads(shared.file_store.read(f"sessions/c1/events/{number}.json")) for number in (0, 1)]
    stats = create_registry_and_conversation_stats(load_openhands_config(), "c1", None)[1]
    return {
        "events": [{name: each[name] for name in ("message", "args", "action")} for each in written],
        "listed": sorted(shared.file_store.list("sessions/c1/events")),
        "store": type(shared.file_store).__name__,
        "stats": type(stats.file_store).__name__,
        "validator": type(create_conversation_validator()).__name__,
    }


if __name__ == "__main__":
    print("RESULT " + json.dumps(asyncio.run(told())))
