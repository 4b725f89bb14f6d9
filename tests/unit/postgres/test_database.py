"""Settings of a server that break the promise, each found when it is opened."""

import pytest

from coordinator.errors import Misconfigured
from coordinator.protocol.model import BranchName
from participants.postgres.database import examine

GOOD = {
    "database": 5,
    "version": 180_000,
    "slots": 10,
    "synchronous_commit": "on",
    "ends_prepared_after": "0",
    "standby": False,
    "backend": 7,
}
PROBLEMS = {
    "a standby": ({"standby": True}, "primary"),
    "a pooler, whose pids are its own": ({"backend": 8}, "pooler"),
    "a server that is too old": ({"version": 130_000}, "PostgreSQL 14"),
    "commits that are not durable": ({"synchronous_commit": "off"}, "synchronous_commit"),
    "a server that breaks promises": ({"ends_prepared_after": "10min"}, "prepared_orphaned_transaction_timeout = 0"),
}


class Answers:
    """A connection to a server with given settings: poolers and standbys are not among the tests' servers."""

    def __init__(self, **settings: object) -> None:
        self.settings = settings

    def get_server_pid(self) -> int:
        return 7

    async def fetchrow(self, query: str) -> dict[str, object]:
        return self.settings if "server_version_num" in query else {"system": "1", "timeline": 1}


async def test_a_server_as_it_should_be_is_taken():
    """With what identifies it."""
    server = await examine(Answers(**GOOD), BranchName("db"))
    assert (server.system, server.database, server.slots) == ("1", 5, 10)


@pytest.mark.parametrize(("change", "remedy"), PROBLEMS.values(), ids=PROBLEMS)
async def test_a_setting_that_breaks_the_promise_is_named(change, remedy):
    """And the transaction is never begun."""
    with pytest.raises(Misconfigured, match=remedy):
        await examine(Answers(**{**GOOD, **change}), BranchName("db"))
