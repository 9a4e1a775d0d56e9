"""settings.json and secrets.json of a state directory, as plain values that the stores accept.

A masked key (`**********`) is what a display writes over a value: importing it would
replace a key by asterisks.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Final

from storage.openhands.flaws import Flaw
from storage.openhands.metadata import KNOWN_PROVIDERS, storable

_MASK: Final = re.compile(r"\*{4,}")  # pydantic's SecretStr shows ten

# The fields of OpenHands 1.6.0, read from its settings model.
SETTINGS_FIELDS: Final = frozenset(
    (
        "language",
        "agent",
        "max_iterations",
        "security_analyzer",
        "confirmation_mode",
        "llm_model",
        "llm_api_key",
        "llm_base_url",
        "user_version",
        "remote_runtime_resource_factor",
        "enable_default_condenser",
        "enable_sound_notifications",
        "enable_proactive_conversation_starters",
        "enable_solvability_analysis",
        "user_consents_to_analytics",
        "sandbox_base_container_image",
        "sandbox_runtime_container_image",
        "mcp_config",
        "disabled_skills",
        "search_api_key",
        "sandbox_api_key",
        "max_budget_per_task",
        "condenser_max_size",
        "email",
        "email_verified",
        "git_user_name",
        "git_user_email",
        "v1_enabled",
        "sandbox_grouping_strategy",
    )
)
# Older releases kept tokens within the settings, under either name.
_NESTED_SECRETS: Final = ("secrets_store", "secret_store")


@dataclass(slots=True)
class SecretValues:
    """Secrets in clear, kept out of every `repr`.

    A provider's value has the keys token, host and user_id, a custom secret's secret and description; `others` are
    fields that this release does not know.
    """

    provider_tokens: dict[str, dict[str, str | None]] = field(default_factory=dict, repr=False)
    custom_secrets: dict[str, dict[str, str]] = field(default_factory=dict, repr=False)
    others: dict[str, Any] = field(default_factory=dict, repr=False)

    def __bool__(self) -> bool:
        return len(self) > 0

    def __len__(self) -> int:
        return len(self.provider_tokens) + len(self.custom_secrets) + len(self.others)


@dataclass(slots=True)
class Account:
    """A user's settings and secrets as found; None where there were none. Both may hold keys in clear."""

    user: str | None
    settings: dict[str, Any] | None = field(default=None, repr=False)
    secrets: SecretValues | None = None
    flaws: list[Flaw] = field(default_factory=list)


def read_settings(data: bytes, path: str, account: Account) -> None:
    """Put the settings into `account`; secrets that an older release kept among them go to its secrets."""
    raw = _object(data, path, "settings-broken", account.flaws)
    if raw is None:
        return
    settings: dict[str, Any] = {}
    for name, value in raw.items():
        if name in _NESTED_SECRETS:
            if isinstance(value, dict) and _take_secrets(value, f"{path}:{name}", account):
                account.flaws.append(
                    Flaw("secrets-in-settings", path, f"{name} holds secrets; they were put with the secrets")
                )
            continue
        if is_masked(value):
            account.flaws.append(Flaw("masked-secret", path, f"{name} is masked; it was not imported"))
            continue
        if name not in SETTINGS_FIELDS:
            account.flaws.append(
                Flaw("unknown-field", path, f"{name} has no column; it was kept among the extra fields")
            )
        settings[name] = _without_masks(value, name, path, account.flaws)
    account.settings = settings


def read_secrets(data: bytes, path: str, account: Account) -> None:
    """Put the secrets into `account`. They win over those that the settings held."""
    raw = _object(data, path, "secrets-broken", account.flaws)
    if raw is None:
        return
    if account.secrets is None:
        account.secrets = SecretValues()
    _take_secrets(raw, path, account)
    for name, value in raw.items():
        if name in ("provider_tokens", "custom_secrets") or value is None:
            continue
        if _masked_at(value, name, path, account.flaws):
            continue
        account.secrets.others[name] = _without_masks(value, name, path, account.flaws)
        account.flaws.append(Flaw("unknown-field", path, f"{name} is not known; it was kept as a secret"))


def is_masked(value: Any) -> bool:
    """Whether the value is nothing but asterisks."""
    return isinstance(value, str) and _MASK.fullmatch(value.strip()) is not None


def _take_secrets(raw: dict[str, Any], path: str, account: Account) -> bool:
    found = SecretValues()
    for name, value in _named(raw, "provider_tokens", path, account.flaws):
        token = _provider_token(name, value, path, account.flaws)
        if token is not None:
            found.provider_tokens[name] = token
    for name, value in _named(raw, "custom_secrets", path, account.flaws):
        secret = _custom_secret(name, value, path, account.flaws)
        if secret is not None:
            found.custom_secrets[name] = secret
    if found:
        account.secrets = account.secrets or SecretValues()
        account.secrets.provider_tokens.update(found.provider_tokens)
        account.secrets.custom_secrets.update(found.custom_secrets)
    return bool(found)


def _provider_token(name: str, value: Any, path: str, flaws: list[Flaw]) -> dict[str, str | None] | None:
    where = f"provider_tokens.{name}"
    entry = {"token": value} if isinstance(value, str) else value
    if not isinstance(entry, dict):
        flaws.append(Flaw("bad-value", path, f"{where} is not an object; skipped"))
        return None
    token = entry.get("token")
    if is_masked(token):
        flaws.append(Flaw("masked-secret", path, f"{where} is masked; it was not imported"))
        return None
    if not token or not isinstance(token, str):
        flaws.append(Flaw("empty-token", path, f"{where} has no token; skipped"))
        return None
    if name not in KNOWN_PROVIDERS:
        flaws.append(Flaw("unknown-provider", path, f"{where} is not a known provider; it was kept"))
    return {"token": token, "host": _optional(entry.get("host")), "user_id": _optional(entry.get("user_id"))}


def _custom_secret(name: str, value: Any, path: str, flaws: list[Flaw]) -> dict[str, str] | None:
    where = f"custom_secrets.{name}"
    entry = {"secret": value} if isinstance(value, str) else value
    secret = entry.get("secret") if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or not isinstance(secret, str):
        flaws.append(Flaw("bad-value", path, f"{where} holds no text; skipped"))
        return None
    if is_masked(secret):
        flaws.append(Flaw("masked-secret", path, f"{where} is masked; it was not imported"))
        return None
    if not secret:
        flaws.append(Flaw("empty-secret", path, f"{where} is empty; it was imported empty"))
    return {"secret": secret, "description": _optional(entry.get("description")) or ""}


def _optional(value: Any) -> str | None:
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) and value != "" else None


def _named(raw: dict[str, Any], key: str, path: str, flaws: list[Flaw]) -> list[tuple[str, Any]]:
    entries = raw.get(key)
    if entries is None:
        return []
    if not isinstance(entries, dict):
        flaws.append(Flaw("bad-value", path, f"{key} is not an object; skipped"))
        return []
    return [(name, value) for name, value in entries.items() if name]


def _without_masks(value: Any, where: str, path: str, flaws: list[Flaw]) -> Any:
    """The value without the masked texts inside it: a masked member of an object or list is left out."""
    if isinstance(value, dict):
        inside = [(f"{where}.{key}", key, item) for key, item in value.items()]
        kept = [(spot, key, item) for spot, key, item in inside if not _masked_at(item, spot, path, flaws)]
        return {key: _without_masks(item, spot, path, flaws) for spot, key, item in kept}
    if isinstance(value, list):
        spots = [(f"{where}[{index}]", item) for index, item in enumerate(value)]
        left = [(spot, item) for spot, item in spots if not _masked_at(item, spot, path, flaws)]
        return [_without_masks(item, spot, path, flaws) for spot, item in left]
    return value


def _masked_at(value: Any, where: str, path: str, flaws: list[Flaw]) -> bool:
    if not is_masked(value):
        return False
    flaws.append(Flaw("masked-secret", path, f"{where} is masked; it was not imported"))
    return True


def _object(data: bytes, path: str, code: str, flaws: list[Flaw]) -> dict[str, Any] | None:
    try:
        raw = json.loads(data.decode("utf-8-sig"))
        if not isinstance(raw, dict):
            raise TypeError("it is not a JSON object")
        clean, replaced = storable(raw)
    except (ValueError, TypeError, RecursionError) as error:
        # A decoder's message quotes no content: only what it expected and where.
        reason = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error) or "nested too deeply"
        flaws.append(Flaw(code, path, f"cannot be read ({reason}); it was skipped and stays in the source"))
        return None
    if replaced:
        flaws.append(Flaw("bad-character", path, f"{replaced} values that no database stores were replaced"))
    result: dict[str, Any] = clean
    return result
