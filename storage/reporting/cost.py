"""What conversations cost: in total, by model, by month and by repository; one statement for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import bindparam, func, literal_column, select

from storage.database.statement import Row, Statement
from storage.database.unit import Executor
from storage.identity import user_key
from storage.reporting.month import month_of
from storage.reporting.views.expressions import total, total_usd
from storage.tables import ConversationTable

TOP_REPOSITORIES: Final = 10
"""How many repositories a report names: as many as a person compares at a glance."""

_DECIMALS: Final = 9
"""Of US dollars: far below a token's price, and above what adding floats in another order changes."""

_conversation: Final[Any] = ConversationTable.__table__  # type: ignore[attr-defined]
_c: Final = _conversation.c


@dataclass(frozen=True, slots=True)
class CostLine:
    """The conversations of one group, added up.

    Attributes:
        name: the model, month (`2025-11`, of creation, UTC) or repository; None for conversations without one.
        conversations: how many.
        cost: US dollars.
        prompt_tokens: and the others: tokens, summed.
    """

    name: str | None
    conversations: int
    cost: float
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


@dataclass(frozen=True, slots=True)
class CostReport:
    """What was spent. `by_model` and `top_repositories` have the dearest first, `by_month` the earliest."""

    total: CostLine
    by_model: list[CostLine]
    by_month: list[CostLine]
    top_repositories: list[CostLine]


async def cost_report(executor: Executor, user_id: str | None = None, *, top: int = TOP_REPOSITORIES) -> CostReport:
    """Add up the conversations of one user, or of everybody if `user_id` is None. Reads the whole table.

    Args:
        executor: a Database or an open Transaction.
        user_id: the user; None is everybody (and not the local user).
        top: the most repositories to name.

    Raises:
        InvalidInput: a user id that cannot be one.
        DatabaseError: the database failed.
    """
    statements = _EVERYBODY if user_id is None else _ONE_USER
    parameters = {} if user_id is None else {"user_id": user_key(user_id)}

    async def lines(kind: str, **more: Any) -> list[CostLine]:
        rows = await executor.read(statements[kind], {**parameters, **more}, scan=True)
        return [_line(row) for row in rows]

    (total,) = await lines("total")
    return CostReport(total, await lines("model"), await lines("month"), await lines("repository", top=top))


def _line(row: Row) -> CostLine:
    name, conversations, cost, *tokens = row
    return CostLine(name, int(conversations), round(float(cost), _DECIMALS), *(int(number) for number in tokens))


def _statement(kind: str, *, of_one_user: bool) -> Statement:
    cost = total_usd(_c.accumulated_cost).label("cost")
    tokens = [total(column) for column in (_c.prompt_tokens, _c.completion_tokens, _c.total_tokens)]
    group = _GROUPS[kind]
    name = literal_column("NULL") if group is None else group
    query = select(name.label("name"), func.count().label("conversations"), cost, *tokens).select_from(_conversation)
    if of_one_user:
        query = query.where(_c.user_id == bindparam("user_id"))
    if kind == "repository":
        query = query.where(_c.selected_repository.is_not(None))
    if group is not None:
        query = query.group_by(group)
        # The name makes the order of equal costs the same on every run and both databases.
        query = query.order_by(group) if kind == "month" else query.order_by(cost.desc(), group)
    if kind == "repository":
        query = query.limit(bindparam("top"))
    whose = "of_user" if of_one_user else "of_everybody"
    return Statement(f"report.cost_by_{kind}_{whose}", query)


_GROUPS: Final[dict[str, Any]] = {
    "total": None,
    "model": _c.llm_model,
    "month": month_of(_c.created_at),
    "repository": _c.selected_repository,
}
_EVERYBODY: Final = {kind: _statement(kind, of_one_user=False) for kind in _GROUPS}
_ONE_USER: Final = {kind: _statement(kind, of_one_user=True) for kind in _GROUPS}
