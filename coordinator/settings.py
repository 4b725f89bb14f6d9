"""Configuration from a file and the environment, read once and validated at the start.

    [policies.default]                     # coordinator.toml, or the file that COORDINATOR_CONFIG names
    kind = "rollback"
    within_s = 5

    [policies.create-post]
    kind = "retry"
    attempts = 3
    then = { kind = "backup-polling", push_within_s = 0.5 }

    [budgets.payments]                     # of a participant that steps of sagas name
    in_flight = 20
    per_second = 100

    # For operators' commands; a service hands its own to `Coordinator`.
    journal = "postgresql://localhost/app"
    participants = { db = "postgresql://localhost/app", events = "kafka://localhost:9092" }

The environment wins over the file: `COORDINATOR_POLICIES='{"create-post": {"kind": "park"}}'`, `COORDINATOR_LEASE_S=5`.
What code passes for a single transaction wins over both.
"""

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from coordinator import limits
from coordinator.errors import Misconfigured
from coordinator.protocol.calls import CallBudget
from coordinator.protocol.policy import BackupPolling, Park, Retry, Rollback

CONFIG_VARIABLE = "COORDINATOR_CONFIG"
DEFAULT_FILE = Path("coordinator.toml")

Policy = Annotated[Rollback | BackupPolling | Retry | Park, Field(discriminator="kind")]


class ParticipantSettings(BaseModel):
    """Where a participant is (`postgresql://…` or `kafka://host:port,host:port`), and how to be let in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: SecretStr
    options: dict[str, SecretStr] = Field(default_factory=dict)
    """For Kafka: `security_protocol`, `sasl_mechanism`, `sasl_plain_username`, `sasl_plain_password`."""

    @model_validator(mode="before")
    @classmethod
    def _from_url(cls, given: Any) -> Any:
        return {"url": given} if isinstance(given, str) else given


class Settings(BaseSettings):
    """Everything that can be configured, with its default. Durations are in seconds."""

    model_config = SettingsConfigDict(env_prefix="COORDINATOR_", frozen=True, extra="forbid")

    journal: SecretStr | None = None
    """The URL of the database that holds the journal, for operators' commands."""
    participants: dict[str, ParticipantSettings] = Field(default_factory=dict)
    """The participants by name, for operators' commands: a URL, or a URL with options."""
    policies: dict[str, Policy] = Field(default_factory=dict)
    """Failure policies by transaction name; "default" is for all names that are not listed."""
    budgets: dict[str, CallBudget] = Field(default_factory=dict)
    """How much sagas may ask of a participant at once and a second; "default" is for all that are not listed."""
    lease_s: float = Field(default=limits.LEASE_S, gt=0)
    """How long a process that stopped answering keeps its transactions before another one takes over."""
    recovery_s: float = Field(default=limits.RECOVERY_PERIOD_S, gt=0)
    """How often this process looks for what others left."""
    presume_abort_after_s: float = Field(default=limits.PRESUME_ABORT_AFTER_S, gt=0)
    """The age from which a prepared branch without a record is presumed to be aborted."""
    presume_abort_looks_apart_s: float = Field(default=limits.PRESUME_ABORT_LOOKS_APART_S, ge=0)
    """How far apart the two looks must be that agree on it."""
    settle_within_s: float = Field(default=limits.SETTLE_WITHIN_S, gt=0)
    """How long a caller waits for the second phase of what is decided."""
    observe_s: float = Field(default=limits.OBSERVE_PERIOD_S, gt=0)
    """How often what the metrics' gauges show is looked at; never, where no metrics are exported."""
    prefix: str | None = Field(default=None, pattern=r"^[a-z0-9]{4,12}$")
    """What all ids of this application begin with; without it, what its journal made up when its tables were made.

    What a server holds under it, and the journal does not know of, is aborted: each journal needs another.
    """

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Code before environment before file."""
        path = _file()
        if CONFIG_VARIABLE in os.environ and not path.is_file():
            raise Misconfigured(f"{CONFIG_VARIABLE} names {path}, and there is no such file")
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=path)


def _file() -> Path:
    return Path(os.environ.get(CONFIG_VARIABLE, str(DEFAULT_FILE)))


def load(**overrides: object) -> Settings:
    """The settings of this process. Raises `Misconfigured` that names the field, the value and the reason."""
    try:
        return Settings(**overrides)  # type: ignore[arg-type]  # Validated by pydantic, field by field.
    except tomllib.TOMLDecodeError as invalid:
        raise Misconfigured(f"{_file()} is no TOML: {invalid}") from invalid
    except ValidationError as invalid:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in invalid.errors())
        raise Misconfigured(f"the configuration is not valid: {problems}") from invalid
