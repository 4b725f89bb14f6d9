"""Writing to the log of sagas until it answers."""

import logging
import random
from collections.abc import Awaitable, Callable

from coordinator import limits
from coordinator.engine.performer import UNKNOWN
from coordinator.errors import Unavailable
from coordinator.ports import Clock

logger = logging.getLogger(__name__)


async def insist(gid: str, write: Callable[[], Awaitable[None]], *, clock: Clock, chance: random.Random) -> None:
    """Do *write* until its answer comes: whatever is repeated finds itself there. Raises what is a no (`Replaced`)."""
    pause_s = limits.FINISH_BACKOFF_S
    while True:
        try:
            return await write()
        except (Unavailable, *UNKNOWN) as failure:
            logger.warning("what became of saga %s is not written yet: %r", gid, failure)
            await clock.sleep(chance.uniform(0, pause_s))
            pause_s = min(limits.FINISH_BACKOFF_MAX_S, 2 * pause_s)
