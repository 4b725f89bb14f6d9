"""A record as a row of the journal, and back."""

import json
from collections.abc import Mapping
from typing import Any

from coordinator.ports import Record, Standing
from coordinator.protocol.model import Branch, BranchName, Gid, OnNo, Recipe, Role, Vote

_as_json = json.JSONEncoder(separators=(",", ":")).encode


def branches_json(record: Record) -> str:
    """The branches with their votes and evidence, as the journal's JSON. The first one carries the place in a trace."""
    branches: list[dict[str, Any]] = [
        {
            "name": name,
            "role": branch.role,
            "on_no": branch.on_no,
            "backed": branch.backed,
            "vote": record.votes.get(name),
            "evidence": dict(record.evidence.get(name, {})),
        }
        for name, branch in record.branches.items()
    ]
    if record.traceparent and branches:
        branches[0]["traceparent"] = record.traceparent
    return _as_json(branches)


def record_of(row: Mapping[str, Any]) -> Record:
    """The record that a row holds."""
    branches = json.loads(row["branches"])
    return Record(
        gid=Gid(row["gid"]),
        name=row["name"],
        recipe=Recipe(row["recipe"]),
        standing=Standing(row["standing"]),
        branches={
            BranchName(b["name"]): Branch(
                name=BranchName(b["name"]), role=Role(b["role"]), on_no=OnNo(b["on_no"]), backed=b["backed"]
            )
            for b in branches
        },
        votes={BranchName(b["name"]): Vote(b["vote"]) for b in branches if b["vote"]},
        evidence={BranchName(b["name"]): b["evidence"] for b in branches if b["evidence"]},
        reason=row["reason"],
        key=row["idempotency_key"],
        outbox=row["outbox"],
        adoptions=row["adoptions"],
        reigns=row["reigns"],
        traceparent=branches[0].get("traceparent", "") if branches else "",
    )
