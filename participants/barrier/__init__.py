"""The barrier: what a step, a branch or a message does happens once, and never after it was undone."""

from participants.barrier.barrier import Barrier, Passage
from participants.barrier.decision import Call, Direction, Standing, Verdict
from participants.barrier.drivers import Asyncpg, Psycopg, SqlAlchemy

__all__ = ["Asyncpg", "Barrier", "Call", "Direction", "Passage", "Psycopg", "SqlAlchemy", "Standing", "Verdict"]
