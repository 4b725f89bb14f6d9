"""The barrier on Redis: a script decides, carries out the effect, and records both, while nothing else runs there.

Redis does not roll back, so the effect is handed over as commands. One command is had or not had; of several, those
before one that fails stay. What the effect depends on must be in its commands. A single server, not a cluster.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coordinator import limits
from coordinator.errors import InvalidDefinition, KeyReused, Refused, Replaced
from coordinator.gids import made_at
from participants.barrier.barrier import RETENTION_S, Passage, refuse_refusal
from participants.barrier.decision import STANDING, Call, Standing, State, Verdict, forgotten, key_of

SCRIPT = Path(__file__).with_suffix(".lua")
Command = Sequence[str | bytes | int | float]
"""A command's name, its key, and its other words; 7,000 of them at most."""
_WORDS_MAX = 7_000  # What the stack of a script has room for is a little less than 8,000.


class RedisBarrier:
    """The deliveries that one *scope* has let pass, by a `redis.asyncio.Redis` *client*.

    A step is forgotten *retention_s* after its last delivery, but for one whose marker is open. What is not here was
    never here only where its transaction is younger than that: see `Barrier`. Raises `InvalidDefinition` where the
    client decodes what it reads: a result is bytes, and these need not be text.
    """

    def __init__(self, scope: str, client: Any, *, retention_s: float = RETENTION_S) -> None:
        if client.get_encoder().decode_responses:
            raise InvalidDefinition("a barrier's results are bytes: give it a client without decode_responses=True")
        self.scope = scope
        self.retention_s = retention_s
        self._script = client.register_script(SCRIPT.read_bytes())

    async def enter(self, call: Call, *effect: Command, result: bytes | None = None, refused: bool = False) -> Passage:
        """What *call* may do; with `PROCEED` the *effect* has been carried out, and *result* kept.

        *refused*: it has no effect and never will have. Raises as `Barrier.enter`, and the client's own errors: those
        are no answer, so the delivery comes again.
        """
        refuse_refusal(call, refused)
        return await self._pass("enter", call, effect, result, refused)

    async def intend(self, call: Call) -> Passage:
        """Write the marker of an effect outside of this Redis, before the effect. See `Barrier.intend`."""
        return await self._pass("intend", call)

    async def settle(self, call: Call, *effect: Command, result: bytes | None = None, refused: bool = False) -> Verdict:
        """Settle the marker, and carry out the local *effect* with it. See `Barrier.settle`."""
        refuse_refusal(call, refused)
        return (await self._pass("settle", call, effect, result, refused)).verdict

    async def ask(self, call: Call) -> tuple[Standing, bytes | None]:
        """What became of the action, try or message *call*, and its answer. See `Barrier.ask`."""
        if call.direction is not call.direction.origin:
            raise InvalidDefinition(f"what became of a {call.direction} is not asked: repeat it until it is done")
        state, kept, _, _ = await self._run("ask", call)
        return STANDING[State(state.decode())], kept

    async def _pass(self, what: str, call: Call, *more: Any) -> Passage:
        verdict, kept, was_refused, answers = await self._run(what, call, *more)
        return Passage(Verdict(verdict.decode()), kept, bool(was_refused), tuple(answers))

    async def _run(
        self,
        what: str,
        call: Call,
        effect: Sequence[Command] = (),
        result: bytes | None = None,
        refused: bool = False,
    ) -> tuple[Any, ...]:
        origin, undoes = call.direction.origin.value, int(call.direction.undoes)
        arguments: list[Any] = [what, call.direction.value, origin, undoes, call.term, call.fingerprint]
        arguments += [round(self.retention_s * 1000), int(refused), int(result is not None), result or b""]
        made = made_at(call.gid)
        arguments += [made.timestamp() + self.retention_s - limits.CLOCKS_APART_S if made else b""]
        for command in effect:
            if isinstance(command, str | bytes) or not 2 <= len(command) <= _WORDS_MAX:
                raise InvalidDefinition(
                    "a command of the effect is a sequence of its name, its key, and its other words, "
                    f"{_WORDS_MAX} at most: {command!r:.200}"
                )
            arguments += [len(command), *command]
        keys = [f"barrier:{json.dumps(key_of(self.scope, call))}", *(command[1] for command in effect)]
        from redis.exceptions import ResponseError

        try:
            return tuple(await self._script(keys=keys, args=arguments))
        except ResponseError as error:
            raise self._meaning(call, error) from error

    def _meaning(self, call: Call, error: Exception) -> Exception:
        code, _, detail = str(error).partition(" ")
        if code == "BARRIERREPLACED":
            return Replaced(f"the {call} came from term {call.term}, and term {detail.split()[0]} was here before")
        if code == "BARRIERREUSED":
            return KeyReused(f"the {call} came before, with another payload")
        if code == "BARRIERFORGOTTEN" and (made := made_at(call.gid)):
            return forgotten(call, float(detail.split()[0]) - made.timestamp(), self.retention_s)
        return Refused(f"the {call} came, and {detail}") if code == "BARRIERREFUSED" else error
