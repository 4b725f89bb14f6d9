"""A step that is a message: publish a command, and wait for the reply that carries its address back.

    checkout = Saga(
        "checkout",
        step(reserve, compensate=release),
        *command("charge", charge_command, topic="payments", participant="events", within=60, of=Charged),
        step(ship),
    )

The command goes through the outbox, and has one id for each saga and step, whatever crashes. It is delivered at least
once, so its consumer handles it with an inbox; or with a barrier (`Call.command`), where something undoes it. Whoever
answers copies the headers that `return_address` finds into the reply; whoever consumes replies hands them to
`deliver_reply`. A reply that comes twice, or too late, changes nothing.
"""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any, get_type_hints
from urllib.parse import quote

from pydantic import BaseModel
from pydantic_core import from_json

from coordinator.errors import InvalidDefinition, KeyReused, Unheard
from coordinator.gids import valid_gid
from coordinator.sagas.steps import (
    CONTEXT,
    REPLY,
    StepContext,
    StepDefinition,
    StepFunction,
    await_signal,
    signal_name,
    step,
    title,
)

SAGA_HEADER, STEP_HEADER, DIRECTION_HEADER = "saga-gid", "saga-step", "saga-direction"
Headers = Iterable[tuple[str, bytes | str | None]]
"""As any client has them: some give a value as text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What a command's function returns: *value* is the message, *key* orders it among others."""

    value: BaseModel | bytes | str
    key: bytes | str | None = None


def command(
    name: str,
    build: StepFunction,
    *,
    topic: str,
    participant: str,
    within: float | None = None,
    of: Any = None,
    compensate: StepFunction | None = None,
    after: Iterable[str] | str | None = None,
) -> Sequence[StepDefinition]:
    """Two steps: `NAME.sent` publishes what *build* returns (a `Command`), and *name* is done when the reply comes.

    *build* is an async function with the arguments of any step. Without a reply *within* seconds the step is refused,
    and the saga undone; *compensate* undoes the command then, and must bear that it was never carried out. Where it
    returns a `Command`, that is published to *topic* as well: for the same step, and with the other direction in its
    headers, so that a consumer with a barrier answers either order. *of* is the type of the reply, which is the step's
    output.
    """
    publishing = partial(_publishing, name=name, topic=topic, participant=participant)
    undo = None if compensate is None else publishing(compensate)
    sent = step(publishing(build), name=f"{name}.sent", compensate=undo, on_unknown="retry", after=after)
    answered = await_signal(name, within=within, of=of, after=f"{name}.sent")
    answered.signal = REPLY + name
    return sent, answered


def _publishing(function: StepFunction, *, name: str, topic: str, participant: str) -> StepFunction:
    """*function*, and what it returns is published: an action's command always, a compensation's where it is one."""
    if not inspect.iscoroutinefunction(function):
        raise InvalidDefinition(f"command {name!r} is built, and undone, by an async function, not by {function!r}")
    wants_context = CONTEXT in inspect.signature(function).parameters

    @wraps(function)
    async def publish(**arguments: Any) -> None:
        context: StepContext = arguments[CONTEXT]
        made = await function(**(arguments if wants_context else _without_context(arguments)))
        if context.direction == "compensation" and not isinstance(made, Command):
            return
        headers = {SAGA_HEADER: context.gid, STEP_HEADER: name, DIRECTION_HEADER: context.direction}
        # The journal forgets the key before a saga ends that waits for long. A consumer knows the message by its id.
        key = f"{context.gid}:{quote(name, safe='')}/{context.direction}"
        message = {"topic": topic, "value": made.value, "key": made.key, "headers": headers, "message_id": key}
        try:
            async with context.coordinator.transaction("saga-command", recipe="outbox", key=key) as transaction:
                await transaction.publish(participant, **message)
        except KeyReused:
            return  # It was published before, by an attempt whose end nobody saw.

    _takes_what(publish, function)
    return publish


def _takes_what(publish: StepFunction, function: StepFunction) -> None:
    """*publish* takes the arguments of *function*, and the context: a saga binds them by what a function says."""
    taken = inspect.signature(function).parameters
    context = inspect.Parameter(CONTEXT, inspect.Parameter.KEYWORD_ONLY)
    publish.__name__ = title(function)
    publish.__signature__ = inspect.Signature([*taken.values(), *([] if CONTEXT in taken else [context])])  # type: ignore[attr-defined]
    publish.__annotations__ = {
        **get_type_hints(getattr(function, "func", function), include_extras=True),
        "return": type(None),
    }


def _without_context(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name != CONTEXT}


def return_address(headers: Headers) -> Mapping[str, bytes]:
    """The headers of a command that its reply has to carry. Empty where it is no saga's."""
    return _found(headers, SAGA_HEADER, STEP_HEADER)


def command_of(headers: Headers) -> tuple[str, str, str]:
    """The saga's gid, the step and the direction ("action", or "compensation" for what undoes it) of a command.

    Raises `ValueError` for a record that is none.
    """
    found = _found(headers, SAGA_HEADER, STEP_HEADER, DIRECTION_HEADER)
    if len(found) != 3:
        raise ValueError(f"a saga's command has the headers {SAGA_HEADER!r}, {STEP_HEADER!r} and {DIRECTION_HEADER!r}")
    direction = found[DIRECTION_HEADER].decode()
    if direction not in ("action", "compensation"):
        raise ValueError(f"a saga's command is an action or a compensation, not {direction!r}")
    try:
        return valid_gid(found[SAGA_HEADER].decode()), signal_name(found[STEP_HEADER].decode()), direction
    except InvalidDefinition as failure:
        raise ValueError(f"it is no saga's command: {failure}") from failure


def _found(headers: Headers, *names: str) -> dict[str, bytes]:
    found = {name: value for name, value in headers if name in names and value is not None}
    return {name: value.encode() if isinstance(value, str) else value for name, value in found.items()}


async def deliver_reply(coordinator: Any, headers: Headers, value: bytes | None) -> bool:
    """Hand a reply to the saga that it is for: whether it is kept for it now.

    False: the saga has ended, or never was; or it was sent a thousand signals, and a reply to this command before.

    It can answer the command of its step, and nothing else: no signal that somebody else is to send, and no operator's
    word. May be called twice for one reply. Raises `ValueError` for a record that will never be a reply: set it aside,
    and go on. Whatever else is raised (`Unavailable` first of all) says nothing of the record: hand it over again.
    """
    address = return_address(headers)
    if len(address) != 2:
        raise ValueError(f"a reply carries the headers {SAGA_HEADER!r} and {STEP_HEADER!r} of its command")
    if value is None:
        raise ValueError("a reply has a value: this is a tombstone")
    gid, step_name = address[SAGA_HEADER].decode(), address[STEP_HEADER].decode()
    payload = from_json(value, allow_inf_nan=False)  # NaN is no JSON, and no journal takes it.
    try:
        await coordinator.sagas.reply(gid, step_name, payload)
    except Unheard:
        return False
    except InvalidDefinition as failure:
        raise ValueError(f"it cannot be a reply: {failure}") from failure
    return True
