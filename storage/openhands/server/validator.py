"""Who may connect to a conversation's socket."""

from __future__ import annotations

from openhands.storage.conversation.conversation_validator import ConversationValidator
from socketio.exceptions import ConnectionRefusedError as Refused

from storage.errors import InvalidInput
from storage.openhands.process_storage import process_storage


class SQLConversationValidator(ConversationValidator):  # type: ignore[misc]
    """Lets in whoever asks for a conversation that there is, and makes none.

    OpenHands' own asks its file store, whatever store is configured, and writes metadata for any id. A deployment of
    several users overrides `user_of`.
    """

    async def validate(
        self, conversation_id: str, cookies_str: str, authorization_header: str | None = None
    ) -> str | None:
        """The user whose conversation it is, None for the local one.

        Raises:
            socketio.exceptions.ConnectionRefusedError: the user has no such conversation.
        """
        user_id = await self.user_of(cookies_str, authorization_header)
        place = process_storage()
        try:
            found = await place.portal.await_(place.storage.user(user_id).conversations.exists, conversation_id)
        except InvalidInput:
            found = False  # a text that is nobody's id, whatever the browser sent
        if not found:
            raise Refused("there is no such conversation")
        return user_id

    async def user_of(self, cookies: str, authorization: str | None) -> str | None:
        """Who asks; the one local user unless overridden."""
        return None
