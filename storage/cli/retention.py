"""`storage retention`: how long conversations and events are kept; what would go, and its removal."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

from cyclopts import App, Group, Parameter

from storage.cli.connection import DEFAULT, AsJSON, Connection, EveryUser, flag, opened
from storage.cli.output import Column, count, line, moment, pairs, progress, show_json, size, table
from storage.cli.prompt import confirm

if TYPE_CHECKING:
    from storage.retention.policy import RetentionPolicy
    from storage.retention.verbs import RetentionTrial

T = TypeVar("T")

app = App(name="retention", help="Keep conversations and events only for so long, or so many.")


@Parameter(name="*", group=Group("Rules", sort_key=50))
@dataclass(frozen=True)
class Rules:
    """What is to go; a rule that is not given is the configuration's."""

    conversations_older_than: Annotated[
        timedelta | None,
        Parameter(help="Conversations that began longer ago, as 365d; conversation_retention_days if not given."),
    ] = None
    conversations_idle_for: Annotated[
        timedelta | None,
        Parameter(
            help="Conversations that neither changed nor got a file for so long; conversation_idle_days if not given."
        ),
    ] = None
    conversations_per_user: Annotated[
        int | None,
        Parameter(help="All but so many of each user, those that changed last; conversations_per_user if not given."),
    ] = None
    events_older_than: Annotated[
        timedelta | None,
        Parameter(help="Events that happened longer ago; event_retention_days if not given."),
    ] = None
    events_per_user: Annotated[
        int | None,
        Parameter(help="All but the latest so many events of each user; events_per_user if not given."),
    ] = None

    def policy(self, configured: RetentionPolicy) -> RetentionPolicy:
        """The configured policy, with what was given in the place of its rules.

        Raises:
            InvalidInput: no rule at all, or a value that is none.
        """
        from storage.errors import InvalidInput

        policy = replace(
            configured,
            conversation_age=_given(self.conversations_older_than, configured.conversation_age),
            conversation_idle=_given(self.conversations_idle_for, configured.conversation_idle),
            conversations_per_user=_given(self.conversations_per_user, configured.conversations_per_user),
            event_age=_given(self.events_older_than, configured.event_age),
            events_per_user=_given(self.events_per_user, configured.events_per_user),
        )
        if policy.is_empty:
            raise InvalidInput(
                "there is no rule by which anything would go; give one, such as --conversations-idle-for 365d, or set"
                " conversation_idle_days"
            )
        return policy


_CONFIGURED: Final = Rules()

_REASONS = {"age": "too old", "idle": "idle", "cap": "too many"}


@app.command
async def plan(
    *,
    rules: Rules = _CONFIGURED,
    user: EveryUser = None,
    connection: Connection = DEFAULT,
    json: AsJSON = False,
) -> None:
    """Show what `storage retention run` would remove now. Changes nothing.

    JSON: `{policy: {conversation_age, conversation_idle, conversations_per_user, event_age, events_per_user}, users,
    conversations: {reason: number}, sub_conversations, files, bytes, events_by_age, events_by_cap, first: [{user_id,
    conversation_id, reason, updated_at}]}`; times of the policy are seconds, a reason is `"age"`, `"idle"` or `"cap"`.
    """
    async with opened(connection) as storage:
        policy = rules.policy(storage.retention.policy)
        trial = await storage.retention.trial(policy, user_id=user)
    if json:
        show_json({"policy": _as_json(policy), **asdict(trial)})
        return
    _show_policy(policy)
    _show(trial)


@app.command
async def run(
    *,
    rules: Rules = _CONFIGURED,
    collect: Annotated[
        bool, flag("Then remove contents that no file names any more, as `storage files collect` does.")
    ] = False,
    yes: Annotated[bool, flag("Do not ask.")] = False,
    user: EveryUser = None,
    connection: Connection = DEFAULT,
    json: AsJSON = False,
) -> None:
    """Remove the conversations and events that are too old, too long unused, or too many, as the configuration says.

    Conversations go with their sub-conversations and files, and web hooks hear of it; one that is used meanwhile stays.
    It removes little at a time, so that everybody else can go on writing, and may be interrupted and run again. On a
    terminal it shows what will go and asks; without one it needs --yes. What the files took is freed by `storage files
    collect`, a day later at the earliest.

    JSON: `{conversations, files, events, left}`: what was removed, sub-conversations among the conversations; left were
    used after it was decided that they go. With --collect also `{collected: {…}}` as `storage files collect` has it.
    """
    collected = None
    async with opened(connection) as storage:
        policy = rules.policy(storage.retention.policy)
        if not yes:
            trial = await storage.retention.trial(policy, user_id=user)
            if not json:
                _show_policy(policy)
                _show(trial)
            number = count(sum(trial.conversations.values()), "conversation")
            confirm("remove", f"This removes {number} with {count(trial.files, 'file')} for good.", yes=False)
        with progress("removing", "conversations", quiet=json) as move:
            done = await storage.retention.run(policy, user_id=user, progress=move)
        if collect:
            collected = await storage.files.collect()
    if json:
        more = {} if collected is None else {"collected": asdict(collected)}
        show_json({**asdict(done), **more})
        return
    line(
        f"removed {count(done.conversations, 'conversation')}, {count(done.files, 'file')}"
        f" and {count(done.events, 'event')}"
    )
    if done.left:
        line(f"left {count(done.left, 'conversation')} that were used meanwhile")
    if collected is not None:
        line(f"removed {count(collected.blobs + collected.rows, 'content')}, {size(collected.bytes)}")


def _given(value: T | None, configured: T | None) -> T | None:
    return configured if value is None else value


def _as_json(policy: RetentionPolicy) -> dict[str, float | int | None]:
    return {
        name: value.total_seconds() if isinstance(value, timedelta) else value for name, value in asdict(policy).items()
    }


def _show_policy(policy: RetentionPolicy) -> None:
    pairs(
        [
            ("conversations older than", policy.conversation_age),
            ("conversations idle for", policy.conversation_idle),
            ("conversations per user", policy.conversations_per_user),
            ("events older than", policy.event_age),
            ("events per user", policy.events_per_user),
        ]
    )
    line()


def _show(trial: RetentionTrial) -> None:
    if trial.first:
        table(
            [Column("Conversation"), Column("User", wrap=True), Column("Last changed (UTC)"), Column("Why")],
            [
                (each.conversation_id, each.user_id, moment(each.updated_at), _REASONS[each.reason])
                for each in trial.first
            ],
        )
        number = sum(trial.conversations.values())
        if number > len(trial.first):
            line(f"and {number - len(trial.first):,} more")
        line()
    reasons = ", ".join(f"{number:,} {_REASONS[reason]}" for reason, number in trial.conversations.items())
    line(
        f"{count(sum(trial.conversations.values()), 'conversation')} of {count(trial.users, 'user')} would go"
        + (f" ({reasons})" if reasons else "")
        + f", with {count(trial.sub_conversations, 'sub-conversation')} and {count(trial.files, 'file')},"
        f" {size(trial.bytes)}"
    )
    line(f"{count(trial.events_by_age, 'event')} would go that are too old, {trial.events_by_cap:,} that are too many")
