"""A record that kills whoever drives it is set aside with one alert, and everything else goes on."""

from coordinator.alerts import AlertKind
from coordinator.faults.points import install
from tests.properties.world import Case, Died, World, _process


class Poison:
    """Whoever ends the Kafka branch dies, while it works."""

    def __init__(self, world):
        self.world, self.works, self.struck = world, True, 0

    async def run(self, point, effect, labels):
        if _process.get() in self.world.dead:
            raise Died
        if self.works and point == "kafka.end.commit":
            self.struck += 1
            self.world.dead.add(_process.get())
            raise Died
        return await effect()


async def test_a_transaction_that_kills_every_process_is_set_aside():
    """Five adopters die of it; the sixth raises the alert, lives, and commits others. Resolved, it is finished."""
    world = World(Case())
    poison = Poison(world)
    install(poison)
    try:
        assert await world._in_a() == "died"
        for _ in range(5):
            await succeed(world)
        assert poison.struck == 6
        survivor = await succeed(world)
        assert survivor not in world.dead
        assert poison.struck == 6, "it is not driven any more"
        (gid,) = world.memory.rows
        assert list(world.memory.alerts) == [(gid, AlertKind.POISON)]
        await succeed(world)
        assert len(world.memory.alerts) == 1
        assert not world.memory.rows[gid].done
        poison.works = False
        alerts = world.processes[survivor].recovery.sweep.alerts
        await alerts.resolve_alert(gid, AlertKind.POISON, by="ann", reason="fixed")
        await succeed(world)
        assert world.memory.rows[gid].done
        assert len(world.topics.messages) == 1
    finally:
        install(None)


async def succeed(world) -> str:
    """The last process' lease runs out, and the next one recovers; its name."""
    world.clock.now_s += 100
    name = f"B{len(world.processes)}"
    token = _process.set(name)
    try:
        process = await world.process(name)
        await process.recover()
    except BaseExceptionGroup as group:
        if group.subgroup(Died) is None:
            raise
    except Died:
        pass
    finally:
        _process.reset(token)
    return name
