"""Which parts of a configuration are secret: every key and password of it, and no word that a file may well contain."""

from __future__ import annotations

import json
from typing import Any

import pytest

from storage.masking.credentials import LONGEST_BY_LINES, in_json, in_text

KEY = "k3y-0123456789abcdef"

MCP = {
    "sse_servers": [{"url": "https://user:passw0rd1@sse.example.com/sse", "api_key": "sse-key-1"}],
    "shttp_servers": [
        {
            "url": f"https://mcp.example.com/api/{KEY}/mcp?tavilyApiKey=tvly-1&region=europe",
            "api_key": None,
            "timeout": 60,
        }
    ],
    "stdio_servers": [
        {
            "name": "filesystem",
            "command": "npx",
            "args": [
                "-y",
                "@modelcontextprotocol/server-filesystem",
                "--api-key",
                "flag-value-1",
                "--token=flag-value-2",
                "--header",
                "Authorization: Bearer header-value-1",
                "-e",
                "DB_PASSWORD=variable-value-1",
                "postgresql://agent:passw0rd2@db.example.com/prod",
                "/workspace",
                "--verbose",
            ],
            "env": {
                "NODE_ENV": "production",
                "LOG_LEVEL": "debug",
                "HOME": "/home/agent/work",
                "SERVICE_URL": "https://service.example.com/v1",
                "HOST": "service.example.com:8443",
                "PORT": "8080",
                "GITHUB_TOKEN": "ghp_1",
                "PASSPHRASE": "correct",
                "SOME_THING": "x9Qw-unnamed-value",
            },
        }
    ],
    "servers": {
        "remote": {
            "type": "streamable-http",
            "headers": {
                "Content-Type": "application/json",
                "Accept": "application/json, text/event-stream",
                "User-Agent": "agent/1.2 (x86)",
                "X-Custom": "custom-header-1",
                "Authorization": "Basic dXNlcjpwYXNz",
            },
            "auth": {"kind": "oauth", "client": {"id": "client-1", "secret": "client-secret-1"}},
        }
    },
}


def test_of_a_configuration_its_keys_are_masked_and_nothing_else() -> None:
    assert sorted(in_json(MCP)) == sorted(
        [
            "passw0rd1",
            "sse-key-1",
            KEY,
            "tvly-1",
            "flag-value-1",
            "flag-value-2",
            "Bearer header-value-1",
            "header-value-1",
            "variable-value-1",
            "passw0rd2",
            "ghp_1",
            "correct",
            "x9Qw-unnamed-value",
            "custom-header-1",
            "Basic dXNlcjpwYXNz",
            "dXNlcjpwYXNz",
            # below `auth`, whatever its name
            "oauth",
            "client-1",
            "client-secret-1",
        ]
    )


@pytest.mark.parametrize(
    "name",
    [
        "api_key",
        "apiKey",
        "API_KEY",
        "x-api-key",
        "api_key_2",
        "token",
        "access_token",
        "authToken",
        "client_secret",
        "password",
        "PGPASSWORD",
        "db-password",
        "passphrase",
        "Authorization",
        "private_key",
        "Cookie",
        "GH_PAT",
    ],
)
def test_a_name_tells_a_key(name: str) -> None:
    assert list(in_json({"deep": [{name: "value"}]})) == ["value"]
    assert list(in_json({name: {"a": ["value"]}})) == ["value"]


@pytest.mark.parametrize("name", ["url", "model", "keyboard", "monkey", "tokenizer", "max_tokens", "author", "command"])
def test_a_name_that_only_resembles_one_tells_nothing(name: str) -> None:
    assert list(in_json({name: "value-of-it"})) == []


def test_declared_fields_are_masked_as_a_whole() -> None:
    value = {"pin": "word", "codes": ["1111-2222"], "webhook": {"a": "h00k-value", "name": "hook"}}
    assert sorted(in_json(value, declared=True)) == ["1111-2222", "h00k-value", "word"]
    headers = {"X-Token": "plain", "Content-Type": "application/json"}
    assert list(in_json(headers, declared=True)) == ["plain"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("just-a-token", ["just-a-token"]),
        (" padded-token\n", [" padded-token\n", "padded-token"]),
        ("Bearer abc.def", ["Bearer abc.def", "abc.def"]),
        ("https://me:p%40ss@h.example.com/x", ["https://me:p%40ss@h.example.com/x", "p%40ss", "p@ss"]),
        ("https://only-user@h.example.com/", ["https://only-user@h.example.com/", "only-user"]),
        (
            "https://hooks.slack.com/services/T0000/B0000/abcdefgh12345678",
            ["https://hooks.slack.com/services/T0000/B0000/abcdefgh12345678", "abcdefgh12345678"],
        ),
        ("http://[broken", ["http://[broken"]),
        ("one\ntwo\n", ["one\ntwo\n", "one\ntwo", "one", "two"]),
        ("-----BEGIN X-----\nMIIB\n==========\n-----END X-----", None),
        ('{"type": "service_account", "private_key": "pem", "project_id": "project"}', None),
        ('["not json', ['["not json']),
    ],
)
def test_a_text_that_is_secret_as_a_whole_is_also_masked_by_its_parts(text: str, found: list[str] | None) -> None:
    if found is None:
        found = [text, "MIIB"] if text.startswith("-") else [text, "pem"]
    assert list(in_text(text)) == found


def test_a_long_text_is_not_masked_line_by_line() -> None:
    text = "0123456789abcdef\n" * (LONGEST_BY_LINES // 16)
    assert set(in_text(text)) == {text, text.strip()}


@pytest.mark.parametrize("value", [None, True, 1, 1.5, "", [], {}, "word", {"api_key": None, "token": True}])
def test_values_without_a_secret_have_none(value: Any) -> None:
    assert list(in_json(value)) == []


def test_a_number_under_a_name_that_says_so_is_a_secret() -> None:
    assert list(in_json({"pin_password": 12345678})) == ["12345678"]


def test_json_inside_a_text_is_looked_into() -> None:
    assert list(in_json({"args": [json.dumps({"api_key": "inner-key"})]})) == ["inner-key"]
