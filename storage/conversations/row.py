"""Between a conversation and its row: the binder (model to parameters) and the decoder (row to model).

Rows come from this library's own validated writes, so the plain model is put together without validating it again; a
subclass is validated, because what it declares beyond the columns is JSON to the database.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, Generic, TypeVar

import orjson
from pydantic import Secret, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticSerializationError

from storage.conversations.model import ConversationMetadata, ConversationTrigger, SealedRest, invalid
from storage.conversations.table import SEALED_EXTRA, ConversationTable
from storage.database.statement import Row
from storage.encryption.envelope import SealContext
from storage.encryption.keyset import KeySet
from storage.errors import DatabaseError, EncryptionError, InvalidInput, KeyUnavailable, Tampered
from storage.identity import LOCAL_USER
from storage.providers import ProviderType
from storage.secret_fields import exposed, field_value, holds_secret, secret_fields
from storage.secret_models import secret_bytes, validated

M = TypeVar("M", bound=ConversationMetadata)

MODEL_FIELDS: Final = tuple(ConversationMetadata.model_fields)
FIELDS: Final = tuple(name for name in MODEL_FIELDS if name != "user_id")
"""Fields that are read from the row. The owner is not: every statement asks for one user's rows."""

COLUMNS: Final = tuple(ConversationTable.__table__.c[name] for name in (*FIELDS, "extra", "sealed_extra"))  # type: ignore[attr-defined]
"""What every SELECT of conversations selects first, in this order."""
EXTRA: Final = len(FIELDS)
SEALED: Final = EXTRA + 1
VERSION: Final = FIELDS.index("version")
CONVERSATION_ID: Final = FIELDS.index("conversation_id")

_TEMPLATE: Final = dict.fromkeys(MODEL_FIELDS)
_FIELD_SET: Final = set(MODEL_FIELDS)
_TRIGGERS: Final = {member.value: member for member in ConversationTrigger}
_PROVIDERS: Final = {member.value: member for member in ProviderType}


@dataclass(slots=True)
class BoundRow:
    """A conversation as parameters of a statement; what has to be sealed is sealed inside the unit of work.

    Attributes:
        parameters: by column name, all but `sealed_extra` in their final form.
        secrets: what to seal, None if there is nothing.
        sealed: sealed bytes to keep as they are, when there is nothing to seal.
        unread: whether the secrets that were stored could not be opened: what is not among `secrets` is not known to be
            unset.
    """

    parameters: dict[str, Any]
    secrets: dict[str, Any] | None = field(default=None, repr=False)
    sealed: bytes | None = field(default=None, repr=False)
    unread: bool = False

    def sealed_with(self, keys: KeySet | None, stored: bytes | None = None) -> dict[str, Any]:
        """The parameters, with the secrets sealed.

        Args:
            keys: None if there is nothing to seal.
            stored: if `unread`, what the row holds. What opens by now is kept beside the secrets that are set; what
                does not is replaced, on purpose.

        Raises:
            KeyUnavailable: the key of `stored` is out of reach for now.
        """
        sealed = self.sealed
        if self.secrets is not None and keys is not None:
            for name, value in self.secrets.items():
                secret_bytes(name, value)  # refuses what must not be stored, by its name
            context, secrets = SEALED_EXTRA.context(self.parameters), self.secrets
            if self.unread and stored is not None:
                secrets = {**_opened_or_nothing(keys, context, stored), **secrets}
            sealed = keys.seal(context, secret_bytes("the secret fields", secrets))
        return {**self.parameters, "sealed_extra": sealed}


class ModelCodec(Generic[M]):
    """Binds and decodes one class of models: ConversationMetadata itself, or a subclass with more fields."""

    def __init__(self, model: type[M]) -> None:
        if not model.__pydantic_complete__:
            model.model_rebuild()
        self.model = model
        self.secret_names = secret_fields(model)
        self._is_plain = model is ConversationMetadata
        self._declared = model.model_fields.keys() - _FIELD_SET - self.secret_names

    # ---- to the row

    def bind(self, metadata: ConversationMetadata, user_id: str) -> BoundRow:
        """The row of `metadata` for `user_id`, validated once more: lists are edited in place and copies not validated.

        Raises:
            InvalidInput: a value does not fit, belongs to another user, or has no JSON form.
        """
        what = f"conversation {metadata.conversation_id!r}"
        if metadata.user_id not in (None, user_id):
            raise InvalidInput(f"{what} says user_id={metadata.user_id!r}, but this is the store of {user_id!r}")
        values: dict[str, Any] = {**metadata.__dict__, **(metadata.model_extra or {})}
        # Straight from where pydantic keeps it: its own way to a private attribute takes microseconds.
        rest: SealedRest | None = (metadata.__pydantic_private__ or {}).get("_sealed_rest")
        if rest is not None and rest.problem is not None and any(values[name] is None for name in self.secret_names):
            # A required secret that could not be opened is None, which its class would refuse.
            valid: ConversationMetadata = metadata
            columns = validated(ConversationMetadata, {name: values[name] for name in MODEL_FIELDS}, what)
        else:
            valid = columns = validated(self.model, values, what)
        # The dict of a model that was just made here, and that nobody else holds.
        parameters = columns.__dict__
        if not self._is_plain:
            parameters = {name: parameters[name] for name in MODEL_FIELDS}
        parameters["user_id"] = user_id
        parameters["version"] = 1
        parameters["extra"] = self.extra_fields(valid)
        bound = BoundRow(parameters)
        self._bind_secrets(bound, valid, rest)
        return bound

    def extra_fields(self, metadata: ConversationMetadata) -> dict[str, Any]:
        """The fields without a column of their own, as JSON; the secret ones are left out.

        Raises:
            InvalidInput: one has no JSON form, or holds a secret that its class does not declare.
        """
        unknown = metadata.model_extra or {}
        if not unknown and not self._declared:
            return {}
        names = self._declared | unknown.keys()
        for name in names:
            if holds_secret(field_value(metadata, name)):
                raise InvalidInput(
                    f"the field {name!r} holds a secret without being declared: use a subclass of"
                    " ConversationMetadata that declares it SecretStr, so that it is sealed"
                )
        try:
            return metadata.model_dump(mode="json", by_alias=False, include=names, round_trip=True, warnings="error")
        except (PydanticSerializationError, RecursionError) as error:
            raise InvalidInput(f"one of the fields {sorted(names)} cannot be stored as JSON: {error}") from error

    def secrets(self, metadata: ConversationMetadata) -> dict[str, Any]:
        """The secret fields that are set, in plain, as JSON."""
        values = {name: getattr(metadata, name) for name in self.secret_names}
        return {name: exposed(value) for name, value in values.items() if _is_set(self.model.model_fields[name], value)}

    def _bind_secrets(self, bound: BoundRow, metadata: ConversationMetadata, rest: SealedRest | None) -> None:
        secrets = self.secrets(metadata) if self.secret_names else {}
        place = (bound.parameters["user_id"], bound.parameters["conversation_id"])
        if rest is not None and (rest.user_id, rest.conversation_id) == place:
            if not secrets and not (self.secret_names and rest.problem is None):
                bound.sealed = rest.sealed
                return
            secrets = {**rest.undeclared.get_secret_value(), **secrets}
            bound.unread = rest.problem is not None
        bound.secrets = secrets or None

    # ---- from the row

    def decode(self, row: Row, user_id: str, keys: KeySet | EncryptionError | None = None) -> M:
        """The conversation in a row that starts with COLUMNS.

        Args:
            row: as selected.
            user_id: its stored owner.
            keys: to open its secrets with, or why there are none.

        Raises:
            DatabaseError: the stored fields do not fit what the subclass declares.
        """
        shown = None if user_id == LOCAL_USER else user_id
        values: dict[str, Any] = _TEMPLATE.copy()
        values.update(zip(FIELDS, row, strict=False))
        values["user_id"] = shown
        if (trigger := values["trigger"]) is not None:
            values["trigger"] = _TRIGGERS.get(trigger, trigger)
        if (provider := values["git_provider"]) is not None:
            values["git_provider"] = _PROVIDERS.get(provider, provider)
        if self._is_plain:
            rest = row[SEALED]
            if rest is not None:
                rest = SealedRest(user_id, values["conversation_id"], rest)
            return _assembled(self.model, values, row[EXTRA], rest)
        rest = None
        if row[SEALED] is not None:
            rest, opened = self._open(row[SEALED], user_id, values["conversation_id"], keys)
            values.update(opened)
        values.update({name: value for name, value in row[EXTRA].items() if name not in values})
        found = self._validated(values, unreadable=rest is not None and rest.problem is not None)
        found._sealed_rest = rest  # noqa: SLF001 - the store's own attribute
        return found

    def _open(
        self, sealed: bytes, user_id: str, conversation_id: str, keys: KeySet | EncryptionError | None
    ) -> tuple[SealedRest, Mapping[str, Any]]:
        """What stays hidden of the sealed fields, and the ones that the model declares."""
        if not self.secret_names:
            return SealedRest(user_id, conversation_id, sealed), {}
        context = SealContext(SEALED_EXTRA.label, user_id, conversation_id)
        try:
            if not isinstance(keys, KeySet):
                raise keys if keys is not None else EncryptionError("the secrets of this conversation were not opened")
            fields = _opened(keys, context, sealed)
        except EncryptionError as error:
            return SealedRest(user_id, conversation_id, sealed, problem=f"{type(error).__name__}: {error}"), {}
        undeclared = {name: value for name, value in fields.items() if name not in self.secret_names}
        rest = SealedRest(user_id, conversation_id, sealed, Secret(undeclared))
        return rest, {name: value for name, value in fields.items() if name in self.secret_names}

    def _validated(self, values: dict[str, Any], *, unreadable: bool) -> M:
        try:
            return self.model.model_validate(values, by_alias=False, by_name=True)
        except ValidationError as error:
            missing = {str(problem["loc"][0]) for problem in error.errors() if problem["type"] == "missing"}
            only_missing = len(missing) == error.error_count()
            what = (
                f"the stored conversation {values['conversation_id']!r} does not fit {self.model.__qualname__}; give"
                " new fields a default, and convert old values in a field_validator"
            )
            problem = str(invalid(error, what))
        if unreadable and only_missing and missing <= self.secret_names:
            constructed: Any = self.model.model_construct
            found: M = constructed(**values, **dict.fromkeys(missing))
            return found
        raise DatabaseError(problem)


@lru_cache(maxsize=256)
def codec_of(model: type[M]) -> ModelCodec[M]:
    """The codec of a class of models, made once."""
    return ModelCodec(model)


def _assembled(model: type[M], values: dict[str, Any], extra: dict[str, Any], rest: SealedRest | None) -> M:
    """A model without validation. `model_construct` does the same for any input and takes ten times as long."""
    found = model.__new__(model)
    put = object.__setattr__
    put(found, "__dict__", values)
    put(found, "__pydantic_fields_set__", _FIELD_SET.copy())
    put(found, "__pydantic_extra__", extra)
    put(found, "__pydantic_private__", {"_sealed_rest": rest})
    return found


def _opened(keys: KeySet, context: SealContext, sealed: bytes) -> dict[str, Any]:
    fields = orjson.loads(keys.open(context, sealed))
    if not isinstance(fields, dict):
        raise Tampered(f"the sealed fields of conversation {context.row_id!r} are no JSON object")
    return fields


def _opened_or_nothing(keys: KeySet, context: SealContext, sealed: bytes) -> dict[str, Any]:
    try:
        return _opened(keys, context, sealed)
    except KeyUnavailable:
        raise
    except EncryptionError:
        return {}


def _is_set(field: FieldInfo, value: Any) -> bool:
    if field.is_required():
        return value is not None
    return bool(value != field.get_default(call_default_factory=True, validated_data={}))


def same_content(parameters: Mapping[str, Any], row: Sequence[Any]) -> bool:
    """Whether a stored row holds just what `parameters` would store, apart from its version and sealed fields."""
    return parameters["extra"] == row[EXTRA] and all(
        parameters[name] == value for name, value in zip(FIELDS, row, strict=False) if name != "version"
    )
