"""A user's settings and secrets on their way into the stores: what is there already wins, unless told otherwise.

Without the master key everything that is not secret is imported all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from storage.errors import EncryptionError, InvalidInput
from storage.openhands.account import Account
from storage.openhands.flaws import Flaw
from storage.openhands.report import ImportReport, Tally
from storage.secret_fields import exposed
from storage.secret_models import secret_names
from storage.secrets.model import UserSecrets
from storage.settings.model import Settings

if TYPE_CHECKING:
    from storage.storage import UserStorage

M = TypeVar("M", bound=BaseModel)


class AccountImport:
    """One account's import. `run` counts into the report, one for the settings and one for each secret."""

    def __init__(self, account: Account, stores: UserStorage, report: ImportReport, *, overwrite: bool) -> None:
        self._account = account
        self._stores = stores
        self._report = report
        self._overwrite = overwrite

    async def run(self) -> None:
        """Import the settings, then the secrets."""
        self._report.flaws.extend(self._account.flaws)
        part = self._report.user(self._stores.user_id)
        part.secrets.skipped += self._account.unopened
        try:
            await self._settings(part.settings)
        except (EncryptionError, InvalidInput) as error:
            part.settings.skipped += 1
            self._flaw("rejected", self._account.settings_path, f"was not imported: {error}")
        try:
            await self._secrets(part.secrets)
        except (EncryptionError, InvalidInput) as error:
            part.secrets.skipped += len(self._account.secrets or ())
            self._flaw("rejected", self._account.secrets_path, f"was not imported: {error}")

    async def _settings(self, tally: Tally) -> None:
        if self._account.settings is None:
            return
        values = dict(self._account.settings)
        wanted = self._fitting(Settings, values, lambda location: values.pop(str(location[0]), None))
        stored = await self._stores.settings.load()
        if stored is None:
            if not self._report.dry_run:
                await self._first(wanted, values)
            tally.imported += 1
            return
        wanted = self._with_withheld(wanted, stored)
        differing = _differing(stored, wanted)
        if not differing:
            tally.unchanged += 1
            return
        # Keys that are missing, as after an import that could not open or seal them, take nothing's place.
        added = _only_keys_are_missing(stored, wanted, differing)
        if not added and not self._overwrite:
            tally.kept += 1
            told = "differs from the settings in the storage, which were kept"
            self._flaw("kept-existing", self._account.settings_path, told)
            return
        if not self._report.dry_run:
            await self._stores.settings.store(stored.model_copy(update=differing) if added else wanted)
        if added:
            tally.imported += 1
        else:
            tally.overwritten += 1

    async def _first(self, wanted: Settings, values: dict[str, Any]) -> None:
        """Store settings where there are none; without the keys among them if these cannot be sealed now."""
        try:
            await self._stores.settings.store(wanted)
        except EncryptionError as error:
            keys = sorted(name for name in secret_names(wanted) if values.get(name) is not None)
            await self._stores.settings.store(
                Settings.model_validate({name: value for name, value in values.items() if name not in keys})
            )
            self._flaw("rejected", self._account.settings_path, f"{', '.join(keys)}: not imported: {error}")

    def _with_withheld(self, wanted: Settings, stored: Settings) -> Settings:
        """With what is stored where the source's own is masked or could not be opened: overwriting deletes no key."""
        there = _in_clear(stored)
        kept = {name: there[name] for name in self._account.withheld if there.get(name) is not None}
        if stored.llm_base_url != wanted.llm_base_url:
            kept.pop("llm_api_key", None)  # it was set for that URL, and is not to be sent to another
        return wanted.model_copy(update=kept)

    async def _secrets(self, tally: Tally) -> None:
        if not self._account.secrets:
            return
        values: dict[str, Any] = {
            **self._account.secrets.others,
            "provider_tokens": dict(self._account.secrets.provider_tokens),
            "custom_secrets": dict(self._account.secrets.custom_secrets),
        }

        def drop(location: tuple[Any, ...]) -> None:
            inside = values[str(location[0])]
            if location[0] in ("provider_tokens", "custom_secrets") and len(location) > 1:
                inside.pop(str(location[1]), None)
            else:
                del values[str(location[0])]

        wanted = self._fitting(UserSecrets, values, drop)
        stored = await self._stores.secrets.load() or UserSecrets()
        counted = Tally()
        merged = {
            kind: self._merged(getattr(stored, kind), getattr(wanted, kind), f"{kind}.", counted)
            for kind in ("provider_tokens", "custom_secrets")
        }
        merged.update(self._merged(stored.model_extra or {}, wanted.model_extra or {}, "", counted))
        if (counted.imported or counted.overwritten) and not self._report.dry_run:
            await self._stores.secrets.store(stored.model_copy(update=merged))
        tally.add(counted)

    def _merged(self, stored: Any, wanted: Any, prefix: str, tally: Tally) -> dict[Any, Any]:
        merged = dict(stored)
        for name, value in wanted.items():
            if name not in merged:
                tally.imported += 1
            elif exposed(merged[name]) == exposed(value):
                tally.unchanged += 1
                continue
            elif self._overwrite:
                tally.overwritten += 1
            else:
                tally.kept += 1
                told = f"{prefix}{name} differs from the one in the storage, which was kept"
                self._flaw("kept-existing", self._account.secrets_path, told)
                continue
            merged[name] = value
        return merged

    def _fitting(self, model: type[M], values: dict[str, Any], drop: Callable[[tuple[Any, ...]], Any]) -> M:
        """The values as a model, without those that do not fit, which are reported."""
        while True:
            try:
                return model.model_validate(values)
            except ValidationError as error:
                problems = error.errors(include_input=False, include_url=False, include_context=False)
            # No way out of the loop but by dropping something: a problem without a place is not of one value.
            if any(not problem["loc"] for problem in problems):
                raise InvalidInput("; ".join(problem["msg"] for problem in problems))
            path = self._account.settings_path if model is Settings else self._account.secrets_path
            for location, message in {tuple(problem["loc"]): problem["msg"] for problem in problems}.items():
                drop(location)
                where = ".".join(str(part) for part in location)
                self._flaw("settings-invalid" if model is Settings else "bad-value", path, f"{where}: {message}")

    def _flaw(self, code: str, path: str, message: str) -> None:
        self._report.flaws.append(Flaw(code, path, message))


def _differing(stored: BaseModel, wanted: BaseModel) -> dict[str, Any]:
    """What is wanted and not said by what is stored; a subclass of an application's may say more."""
    there = _in_clear(stored)
    return {name: value for name, value in _in_clear(wanted).items() if name not in there or there[name] != value}


def _only_keys_are_missing(stored: Settings, wanted: Settings, differing: dict[str, Any]) -> bool:
    there = _in_clear(stored)
    return all(there.get(name) is None for name in differing) and differing.keys() <= set(secret_names(wanted))


def _in_clear(model: BaseModel) -> dict[str, Any]:
    """As `exposed`, which shows undeclared keys as masks."""
    return {**exposed(model), **exposed(model.model_extra or {})}
