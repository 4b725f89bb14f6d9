"""The privileges of `docs/operating.md`, one by one, so that each can be left out."""

import argparse
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from tests.docs.pages import ROOT, part
from tests.integration.kafka.access import (
    CLUSTER,
    DESCRIBE_CONFIGS,
    LITERAL,
    PREFIXED,
    READ,
    TOPIC,
    TRANSACTIONAL_ID,
    TWO_PHASE_COMMIT,
    WRITE,
    Rule,
)

PAGE = ROOT / "docs" / "operating.md"
_GRANT = re.compile(r"GRANT (?P<privileges>[A-Z, ]+) ON (?P<kind>(?:[A-Z]+ )?)(?P<objects>[^;]+?) TO (?P<role>\w+);")
_OPERATIONS = {
    "Read": READ,
    "Write": WRITE,
    "DescribeConfigs": DESCRIBE_CONFIGS,
    "TwoPhaseCommit": TWO_PHASE_COMMIT,
}
_PATTERNS = {"literal": LITERAL, "prefixed": PREFIXED}


@dataclass(frozen=True, slots=True)
class Privilege:
    """One privilege on one object for one role."""

    name: str
    kind: str
    on: str
    role: str

    @property
    def grant(self) -> str:
        """The statement that gives it."""
        return f"GRANT {self.name} ON {self.kind}{self.on} TO {self.role}"

    @property
    def revoke(self) -> str:
        """The statement that takes it away."""
        return f"REVOKE {self.name} ON {self.kind}{self.on} FROM {self.role}"


def granted(name: str) -> list[Privilege]:
    """Every privilege that the part *name* of the page grants; nothing else may stand in a part of grants."""
    return [
        Privilege(privilege.strip(), match["kind"], target.strip(), match["role"])
        for match in _GRANT.finditer(part(PAGE, name))
        for privilege in match["privileges"].split(",")
        for target in match["objects"].split(",")
    ]


def rules() -> Iterator[Rule]:
    """The rule that each `kafka-acls.sh` command of the page makes."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    for option in ("bootstrap-server", "allow-principal", "operation", "transactional-id", "topic"):
        parser.add_argument(f"--{option}")
    parser.add_argument("--resource-pattern-type", choices=_PATTERNS, default="literal")
    parser.add_argument("--cluster", action="store_true")
    parser.add_argument("--add", action="store_true", required=True)
    for line in part(PAGE, "acls").splitlines():
        program, *words = shlex.split(line)
        asked = parser.parse_args(words)
        assert program == "kafka-acls.sh"
        assert asked.allow_principal == "User:app"
        operation, pattern = _OPERATIONS[asked.operation], _PATTERNS[asked.resource_pattern_type]
        if asked.cluster:
            yield Rule(CLUSTER, "kafka-cluster", operation)
        elif asked.topic:
            yield Rule(TOPIC, asked.topic, operation, pattern)
        else:
            yield Rule(TRANSACTIONAL_ID, asked.transactional_id, operation, pattern)
