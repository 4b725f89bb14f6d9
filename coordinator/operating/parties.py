"""The participants that an operator's command talks to, by what the settings or the command line say of them."""

from collections.abc import Mapping
from typing import Any

from coordinator.errors import InvalidDefinition
from coordinator.gids import valid_branch
from coordinator.protocol.model import BranchName
from coordinator.settings import ParticipantSettings
from participants import Kafka, KafkaSecurity, Postgres

Party = Postgres | Kafka


def parties(settings: Mapping[str, ParticipantSettings]) -> dict[BranchName, Party]:
    """A participant for each URL; none is opened yet. Raises `InvalidDefinition` for a URL of no known kind."""
    made: dict[BranchName, Party] = {}
    for name, party in settings.items():
        made[valid_branch(name)] = _party(name, party)
    return made


def bootstrap_of(url: str) -> str:
    """`host:port,host:port` of a `kafka://` URL."""
    return url.removeprefix("kafka://").rstrip("/")


def _party(name: str, party: ParticipantSettings) -> Party:
    url = party.url.get_secret_value()
    options: dict[str, Any] = {key: value.get_secret_value() for key, value in party.options.items()}
    made: Party
    if url.startswith(("postgresql://", "postgres://")):
        made = Postgres(url, pool=2, connect_options=options)
    elif url.startswith("kafka://"):
        try:
            made = Kafka(bootstrap_of(url), security=KafkaSecurity(**options))
        except TypeError as unknown:
            raise InvalidDefinition(f"{name}: {unknown}") from unknown
    else:
        kind = url.partition(":")[0]
        raise InvalidDefinition(f"{name}: {kind!r} is no kind of participant; there are postgresql:// and kafka://")
    made.name = BranchName(name)
    return made
