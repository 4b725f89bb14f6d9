"""What a cluster can do is asked when it is opened, and no answer is not a no."""

from types import SimpleNamespace

import pytest

from coordinator.errors import Misconfigured, Unavailable
from coordinator.ports import Ability
from participants import Kafka

BOTH, PUBLISH = {Ability.PUBLISH, Ability.PREPARE}, {Ability.PUBLISH}


@pytest.mark.parametrize(
    ("wanted", "answer", "abilities"),
    [
        (True, Unavailable("its coordinator moves"), BOTH),
        (None, Unavailable("its coordinator moves"), PUBLISH),
        (None, Misconfigured("it does not serve it"), PUBLISH),
        (True, Misconfigured("it does not serve it"), None),
    ],
)
async def test_a_cluster_that_cannot_say_whether_it_prepares(wanted, answer, abilities):
    """Who demanded two-phase gets it, unless a broker said no; a broker that is only away is no reason to refuse."""
    kafka = Kafka("127.0.0.1:1", two_phase=wanted)

    async def six() -> int:
        return 6

    async def no_ids():
        raise answer

    async def away():
        raise Unavailable("away")

    kafka.cluster = SimpleNamespace(check=six)
    kafka.ordinary = SimpleNamespace(take=away, put_back_unused=lambda pooled: None)
    kafka.two_phase = SimpleNamespace(take=no_ids)
    if abilities is None:
        with pytest.raises(Misconfigured, match="KIP-939"):
            await kafka.open()
    else:
        assert await kafka.open() == abilities
