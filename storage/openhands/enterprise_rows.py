"""What a user has in the tables of OpenHands' enterprise edition, in the form of settings.json and secrets.json.

Releases differ: first all settings were in `user_settings`; later they were spread over `user`, `org_member` and the
user's own row of `org`, and the language model's went into `agent_settings`. Whatever columns there are are used.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from storage.openhands.account import SETTINGS_FIELDS, Account, take_secrets, take_settings
from storage.openhands.flaws import Flaw
from storage.openhands.legacy_values import LegacyValues
from storage.openhands.metadata import storable
from storage.openhands.source_database import SourceRow

KEYED_BY_USER: Final = {
    "user_settings": "keycloak_user_id",
    "custom_secrets": "keycloak_user_id",
    "user_secrets": "keycloak_user_id",  # the former name of custom_secrets
    "auth_tokens": "keycloak_user_id",
    "user": "id",
    "org_member": "user_id",
    "org": "id",  # a user's personal organisation has the user's id
}
"""Table → the column with the user's id."""

# The installation's own accounts: whose row it is, what was billed and agreed to.
_BOOKKEEPING: Final = frozenset(
    (
        "id",
        "keycloak_user_id",
        "org_id",
        "already_migrated",
        "migration_status",
        "created_at",
        "updated_at",
        "billing_margin",
        "accepted_tos",
    )
)
# Of the later tables only these are settings, by the name without the marks `_` (encrypted) and `default_`.
_SHARED_FIELDS: Final = SETTINGS_FIELDS | {"llm_api_key_for_byor", "llm_profiles", "registered_marketplaces"}
_OBJECTS: Final = frozenset({"llm_profiles", "mcp_config"})  # which a release may encrypt as one text
_MERGED: Final = ("agent_settings", "conversation_settings")
# Where the later releases put settings that have a field of their own here.
_LIFTED: Final = {
    "agent_settings": ("agent", "mcp_config"),
    "conversation_settings": ("max_iterations", "confirmation_mode", "security_analyzer"),
}
_RENEWAL: Final = ("refresh_token", "access_token_expires_at", "refresh_token_expires_at")
_ORGANIZATION_KEYS: Final = ("_llm_api_key", "_search_api_key", "_sandbox_api_key", "_default_llm_api_key_for_byor")


@dataclass(slots=True)
class UserRows:
    """One user's rows by table, in the order of their ids; they hold keys."""

    user: str
    tables: dict[str, list[SourceRow]] = field(default_factory=dict, repr=False)

    def of(self, *tables: str) -> list[SourceRow]:
        """The rows of these tables, of one table after the other."""
        return [row for table in tables for row in self.tables.get(table, [])]

    @property
    def organization(self) -> str:
        """The organisation that the user works in; the personal one when nothing says otherwise."""
        for row in self.of("user"):
            if row.get("current_org_id"):
                return str(row["current_org_id"])
        return self.user


def account_of(rows: UserRows, values: LegacyValues) -> Account:
    """The user's settings and secrets in clear, with flaws for what cannot be."""
    account = Account(rows.user)
    settings = _settings(rows, values, account)
    if settings:
        table = "user_settings" if rows.of("user_settings") else "user"
        path = f"{table}/{rows.user}"
        take_settings(_clean(settings, path, account), path, account, values)
    if tokens := _provider_tokens(rows, values):
        path = f"auth_tokens/{rows.user}"
        take_secrets(_clean(tokens, path, account), path, account, values)
    if secrets := _custom_secrets(rows, values, account):
        path = f"custom_secrets/{rows.user}"
        take_secrets({"custom_secrets": _clean(secrets, path, account)}, path, account, values)
    return account


def holds_keys(organization: SourceRow) -> bool:
    """Whether a row of `org` has a key of its own."""
    return any(organization.get(name) for name in (*_ORGANIZATION_KEYS, "llm_profiles"))


# ---- settings


def _settings(rows: UserRows, values: LegacyValues, account: Account) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    merged: dict[str, dict[str, Any]] = {name: {} for name in _MERGED}
    for layer in _layers(rows, account):
        for name, value in layer:
            kind = name.removesuffix("_diff")
            if kind in merged:
                if isinstance(value, dict):
                    _merge(merged[kind], value)
            elif value is not None:
                settings[name] = _opened_object(value, values) if name in _OBJECTS else value
    llm = merged["agent_settings"].get("llm")
    if isinstance(llm, dict):
        lifted = {f"llm_{name}": llm.pop(name) for name in ("model", "base_url", "api_key") if llm.get(name)}
        # The column is what the peer uses; the one in here may be a mask.
        settings = {**lifted, **settings, **{name: lifted[name] for name in lifted if name != "llm_api_key"}}
        if not llm:
            del merged["agent_settings"]["llm"]
    for kind, names in _LIFTED.items():
        settings.update({name: merged[kind].pop(name) for name in names if merged[kind].get(name) is not None})
        if merged[kind]:
            settings[kind] = merged[kind]
    return settings


def _layers(rows: UserRows, account: Account) -> Iterator[Iterable[tuple[str, Any]]]:
    """Columns and values, oldest table first: the later one's win."""
    first, *others = rows.of("user_settings") or [{}]
    if others:
        account.flaws.append(
            Flaw("duplicate-row", f"user_settings/{rows.user}", f"{len(others)} further rows of the user were left out")
        )
    yield [(name, value) for name, value in first.items() if name not in _BOOKKEEPING]
    yield from (_shared(row) for row in rows.of("org"))
    for row in rows.of("org_member"):
        if row.get("org_id") == rows.organization:
            # False: the organisation's key is the one in use.
            hidden = "_llm_api_key" if row.get("has_custom_llm_api_key") is False else None
            yield _shared({name: value for name, value in row.items() if name != hidden})
    yield from (_shared(row) for row in rows.of("user"))


def _shared(row: SourceRow) -> Iterator[tuple[str, Any]]:
    for column, value in row.items():
        name = column.removeprefix("_").removeprefix("default_")
        if name in _SHARED_FIELDS or name.removesuffix("_diff") in _MERGED:
            yield name, value


def _merge(into: dict[str, Any], other: dict[str, Any]) -> None:
    for name, value in other.items():
        if isinstance(value, dict) and isinstance(into.get(name), dict):
            _merge(into[name], value)
        else:
            into[name] = value


# ---- secrets


def _custom_secrets(rows: UserRows, values: LegacyValues, account: Account) -> dict[str, Any]:
    found: dict[str, Any] = {}
    mine = (None, rows.organization, rows.user)
    stored = rows.of("user_secrets", "custom_secrets")[::-1]
    # The organisation that the user works in goes first, and within one what was written last.
    for row in sorted(stored, key=lambda row: row.get("org_id") not in mine):
        together = _opened_object(row.get("custom_secrets"), values)  # the first release had one object for all
        if isinstance(together, dict):
            found = {**together, **found}
        name = row.get("secret_name")
        if name in found:
            told = f"custom_secrets.{name} is there twice; that of the current organisation, or the last, was taken"
            account.flaws.append(Flaw("duplicate-row", f"custom_secrets/{rows.user}", told))
        elif name:
            found[name] = {"secret": row.get("secret_value"), "description": row.get("description")}
    return found


def _provider_tokens(rows: UserRows, values: LegacyValues) -> dict[str, Any]:
    """The access tokens, and for each provider what renews it as a field of its own."""
    found: dict[str, Any] = {"provider_tokens": {}}
    for row in rows.of("auth_tokens"):
        provider = str(row.get("identity_provider") or "")
        found["provider_tokens"][provider] = {"token": row.get("access_token")}
        renewal = {name: row[name] for name in _RENEWAL if row.get(name) is not None}
        refresh = renewal.get("refresh_token")
        if refresh:
            # Without the token its times are of no use, and would be in the way when it is imported later.
            found[f"auth_tokens.{provider}"] = refresh if values.open(str(refresh)) is None else renewal
    return found if found["provider_tokens"] else {}


# ---- values


def _opened_object(value: Any, values: LegacyValues) -> Any:
    """An object whose JSON was encrypted as one text; anything else as it is."""
    opened = values.open(value) if isinstance(value, str) else None
    if opened is None:
        return value
    try:
        return json.loads(opened)
    except (ValueError, RecursionError):
        return value


def _clean(raw: dict[str, Any], path: str, account: Account) -> dict[str, Any]:
    try:
        clean, replaced = storable(raw)
    except ValueError:
        account.flaws.append(Flaw("bad-value", path, "is nested too deeply; it was skipped"))
        return {}
    if replaced:
        account.flaws.append(Flaw("bad-character", path, f"{replaced} values that no database stores were replaced"))
    result: dict[str, Any] = clean
    return result
