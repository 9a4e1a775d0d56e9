"""Where a file of a state directory is kept: whose it is, and at which path of that user's catalogue.

OpenHands' paths name the user, the catalogue's do not. The importer, the file store and the exporter agree by this.
"""

from __future__ import annotations

from typing import Final

from storage.identity import LOCAL_USER

USERS: Final = "users"
CONVERSATIONS: Final = "conversations"
SESSIONS: Final = "sessions"


def owner_and_path(path: str) -> tuple[str | None, str]:
    """Whose file or folder is at a path of a state directory (None: nobody's in particular), and the catalogue's path.

    `users/<user>/conversations/<id>/…` is that user's `sessions/<id>/…`, and `users/<user>/conversations/` their
    `sessions/`. Anything else below `users/<user>/` is that user's as well, at the same path. The rest is nobody's:
    the local user's, unless told otherwise.

    A leading `/` or `./` is dropped. A trailing `/` stays and says that a folder is meant: without it,
    `users/<user>/conversations/<name>` is a file beside the conversations.
    """
    relative = path.removeprefix("./").removeprefix("/")
    match relative.split("/"):
        case ["users", user, "conversations", *inside] if user and inside:
            if len(inside) > 1 or inside == [""]:
                return user, "/".join((SESSIONS, *inside))
            return user, relative
        case ["users", user, _, *_] if user:
            return user, relative
        case _:
            return None, relative


def home_path(user: str | None, path: str) -> str:
    """Where in a state directory a user's file goes; owner_and_path leads back to every path that it gave out.

    Args:
        user: whose it is; the local user's files are nobody's, and keep their paths.
        path: in the user's catalogue. What neither belongs to a conversation nor lies below `users/<user>/` goes to
            the user's folder.
    """
    if user is None or user == LOCAL_USER:
        return path
    match path.split("/"):
        case ["sessions", *inside] if len(inside) > 1 or inside == [""]:
            return "/".join((USERS, user, CONVERSATIONS, *inside))
        case ["users", name, _, *_] if name == user:
            return path
        case _:
            return f"{USERS}/{user}/{path}"
