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
        self._folder = f"users/{account.user}/" if account.user else ""

    async def run(self) -> None:
        """Import the settings, then the secrets."""
        self._report.flaws.extend(self._account.flaws)
        part = self._report.user(self._stores.user_id)
        try:
            await self._settings(part.settings)
        except (EncryptionError, InvalidInput) as error:
            part.settings.skipped += 1
            self._flaw("rejected", "settings.json", f"was not imported: {error}")
        try:
            await self._secrets(part.secrets)
        except (EncryptionError, InvalidInput) as error:
            part.secrets.skipped += len(self._account.secrets or ())
            self._flaw("rejected", "secrets.json", f"was not imported: {error}")

    async def _settings(self, tally: Tally) -> None:
        if self._account.settings is None:
            return
        values = dict(self._account.settings)
        wanted = self._fitting(Settings, values, lambda location: values.pop(str(location[0]), None))
        stored = await self._stores.settings.load()
        if stored is None:
            tally.imported += 1
        elif _says(stored, wanted):
            tally.unchanged += 1
            return
        elif self._overwrite:
            tally.overwritten += 1
        else:
            tally.kept += 1
            self._flaw("kept-existing", "settings.json", "differs from the settings in the storage, which were kept")
            return
        if not self._report.dry_run:
            await self._stores.settings.store(wanted)

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
                self._flaw("kept-existing", "secrets.json", told)
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
            file = "settings.json" if model is Settings else "secrets.json"
            for location, message in {tuple(problem["loc"]): problem["msg"] for problem in problems}.items():
                drop(location)
                where = ".".join(str(part) for part in location)
                self._flaw("settings-invalid" if model is Settings else "bad-value", file, f"{where}: {message}")

    def _flaw(self, code: str, file: str, message: str) -> None:
        self._report.flaws.append(Flaw(code, self._folder + file, message))


def _says(stored: BaseModel, wanted: BaseModel) -> bool:
    """Whether what is stored says all that is wanted; a subclass of an application's may say more."""
    there: dict[str, Any] = exposed(stored)
    return all(name in there and there[name] == value for name, value in exposed(wanted).items())
