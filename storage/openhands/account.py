"""settings.json and secrets.json of a state directory, as plain values that the stores accept.

A masked key (`**********`) is what a display writes over a value: importing it would
replace a key by asterisks. Likewise one that is encrypted and cannot be opened is left out.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Final

from storage.openhands.flaws import Flaw
from storage.openhands.legacy_values import LegacyValues
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
    """A user's settings and secrets as found; None where there were none. Both may hold keys in clear.

    Attributes:
        user: None when the source names none.
        settings_path: where the settings were found, for flaws.
        secrets_path: where the secrets were found, for flaws.
        withheld: names of settings that the source has, masked or encrypted, and that are not in `settings`.
        unopened: how many secrets are encrypted and could not be opened; they are not in `secrets`.
    """

    user: str | None
    settings: dict[str, Any] | None = field(default=None, repr=False)
    secrets: SecretValues | None = None
    flaws: list[Flaw] = field(default_factory=list)
    settings_path: str = "settings.json"
    secrets_path: str = "secrets.json"
    withheld: set[str] = field(default_factory=set)
    unopened: int = 0


_PLAIN: Final = LegacyValues(plain_tokens=True)


def read_settings(data: bytes, path: str, account: Account, values: LegacyValues = _PLAIN) -> None:
    """Put the settings into `account`; secrets that an older release kept among them go to its secrets."""
    raw = _object(data, path, "settings-broken", account.flaws)
    if raw is not None:
        take_settings(raw, path, account, values)


def read_secrets(data: bytes, path: str, account: Account, values: LegacyValues = _PLAIN) -> None:
    """Put the secrets into `account`. They win over those that the settings held."""
    raw = _object(data, path, "secrets-broken", account.flaws)
    if raw is not None:
        take_secrets(raw, path, account, values)


def take_settings(raw: dict[str, Any], path: str, account: Account, values: LegacyValues) -> None:
    """As read_settings, for what settings.json says: an object of texts that databases store."""
    reading = _Reading(path, account, values)
    settings: dict[str, Any] = {}
    for name, value in raw.items():
        if name in _NESTED_SECRETS:
            if isinstance(value, dict) and reading.at(f"{path}:{name}").take_secrets(value):
                reading.flaw("secrets-in-settings", f"{name} holds secrets; they were put with the secrets")
            continue
        clear = reading.clear(value, name)
        if clear is _LEFT_OUT:
            account.withheld.add(name)
            continue
        if name not in SETTINGS_FIELDS:
            reading.flaw("unknown-field", f"{name} has no column; it was kept among the extra fields")
        settings[name] = clear
    account.settings = settings
    account.settings_path = path


def take_secrets(raw: dict[str, Any], path: str, account: Account, values: LegacyValues) -> None:
    """As read_secrets, for what secrets.json says: an object of texts that databases store."""
    if account.secrets is None:
        account.secrets = SecretValues()
    account.secrets_path = path
    reading = _Reading(path, account, values)
    reading.take_secrets(raw)
    for name, value in raw.items():
        if name in ("provider_tokens", "custom_secrets") or value is None:
            continue
        clear = reading.clear(value, name)
        if clear is _LEFT_OUT:
            reading.count_unopened(value)
            continue
        account.secrets.others[name] = clear
        reading.flaw("unknown-field", f"{name} is not known; it was kept as a secret")


def is_masked(value: Any) -> bool:
    """Whether the value is nothing but asterisks."""
    return isinstance(value, str) and _MASK.fullmatch(value.strip()) is not None


_LEFT_OUT: Final = object()


class _Reading:
    """Values of one place, made clear; what cannot be is left out and becomes a flaw."""

    def __init__(self, path: str, account: Account, values: LegacyValues) -> None:
        self._path = path
        self._account = account
        self._values = values

    def at(self, path: str) -> _Reading:
        return _Reading(path, self._account, self._values)

    def flaw(self, code: str, message: str) -> None:
        self._account.flaws.append(Flaw(code, self._path, message))

    def clear(self, value: Any, where: str) -> Any:
        """The value decrypted and without masks, at any depth; _LEFT_OUT if nothing is left of it."""
        if isinstance(value, str):
            return self._text(value, where)
        if isinstance(value, dict):
            inside = [(key, self.clear(item, f"{where}.{key}")) for key, item in value.items()]
            return {key: item for key, item in inside if item is not _LEFT_OUT}
        if isinstance(value, list):
            items = [self.clear(item, f"{where}[{index}]") for index, item in enumerate(value)]
            return [item for item in items if item is not _LEFT_OUT]
        return value

    def take_secrets(self, raw: dict[str, Any]) -> bool:
        """Put tokens and custom secrets into the account; whether there was one."""
        found = SecretValues()
        for name, value in self._named(raw, "provider_tokens"):
            token = self._provider_token(name, value)
            if token is not None:
                found.provider_tokens[name] = token
        for name, value in self._named(raw, "custom_secrets"):
            secret = self._custom_secret(name, value)
            if secret is not None:
                found.custom_secrets[name] = secret
        if found:
            self._account.secrets = self._account.secrets or SecretValues()
            self._account.secrets.provider_tokens.update(found.provider_tokens)
            self._account.secrets.custom_secrets.update(found.custom_secrets)
        return bool(found)

    def _text(self, value: str, where: str) -> Any:
        opened = self._values.open(value)
        if is_masked(opened):  # a mask that was taken for the value may have been encrypted, too
            self.flaw("masked-secret", f"{where} is masked; it was not imported")
            return _LEFT_OUT
        if opened is None:
            if self._values.has_secret:
                reason = "is encrypted, and not with the JWT secret at hand"
            else:
                reason = "is encrypted and needs --jwt-secret-file"
            self.flaw("encrypted-secret", f"{where} {reason}; it was not imported")
            return _LEFT_OUT
        if opened == value:
            return value
        clean, replaced = storable(opened)
        if replaced:
            self.flaw("bad-character", f"{where} held characters that no database stores; they were replaced")
        return clean

    def _provider_token(self, name: str, value: Any) -> dict[str, str | None] | None:
        where = f"provider_tokens.{name}"
        entry = {"token": value} if isinstance(value, str) else value
        if not isinstance(entry, dict):
            self.flaw("bad-value", f"{where} is not an object; skipped")
            return None
        token = entry.get("token")
        if not token or not isinstance(token, str):
            self.flaw("empty-token", f"{where} has no token; skipped")
            return None
        token = self._secret(token, where)
        if token is None:
            return None
        if name not in KNOWN_PROVIDERS:
            self.flaw("unknown-provider", f"{where} is not a known provider; it was kept")
        return {"token": token, "host": _optional(entry.get("host")), "user_id": _optional(entry.get("user_id"))}

    def _custom_secret(self, name: str, value: Any) -> dict[str, str] | None:
        where = f"custom_secrets.{name}"
        entry = {"secret": value} if isinstance(value, str) else value
        secret = entry.get("secret") if isinstance(entry, dict) else None
        if not isinstance(entry, dict) or not isinstance(secret, str):
            self.flaw("bad-value", f"{where} holds no text; skipped")
            return None
        secret = self._secret(secret, where)
        if secret is None:
            return None
        if not secret:
            self.flaw("empty-secret", f"{where} is empty; it was imported empty")
        description = self.clear(_optional(entry.get("description")) or "", f"{where}.description")
        return {"secret": secret, "description": "" if description is _LEFT_OUT else description}

    def _secret(self, value: str, where: str) -> str | None:
        clear = self._text(value, where)
        if clear is _LEFT_OUT:
            self.count_unopened(value)
            return None
        return str(clear)

    def count_unopened(self, value: Any) -> None:
        self._account.unopened += isinstance(value, str) and self._values.open(value) is None

    def _named(self, raw: dict[str, Any], key: str) -> list[tuple[str, Any]]:
        entries = raw.get(key)
        if entries is None:
            return []
        if not isinstance(entries, dict):
            self.flaw("bad-value", f"{key} is not an object; skipped")
            return []
        return [(name, value) for name, value in entries.items() if name]


def _optional(value: Any) -> str | None:
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) and value != "" else None


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
