"""The inbox: a consumer's effects happen once, however often a message is delivered."""

from participants.inbox.inbox import Inbox, message_id

__all__ = ["Inbox", "message_id"]
