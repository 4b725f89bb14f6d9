"""Countermeasures for the isolation that sagas lack: semantic locks, and reading again before writing."""

from participants.isolation.reread import Changed, reread
from participants.isolation.semantic_lock import HeldLock, SemanticLocks

__all__ = ["Changed", "HeldLock", "SemanticLocks", "reread"]
