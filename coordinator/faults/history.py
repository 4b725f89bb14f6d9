"""The history of what was asked and what was answered, one JSON object a line, for a checker to read afterwards.

Phases are Jepsen's: *invoke*, then *ok* (it happened), *fail* (it certainly did not) or *info* (nobody can say: never
to be taken for fail). Lines are written whole and flushed, so that a killed process leaves every line it finished.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, Self

Phase = Literal["invoke", "ok", "fail", "info"]


@dataclass(slots=True)
class History:
    """Appends to one JSONL file. Several processes may write files of their own and merge them by time."""

    path: Path
    node: str
    _file: IO[str] | None = None

    def __enter__(self) -> Self:
        """Open the file for appending."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a", encoding="utf-8", buffering=1)
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def write(self, operation: str, phase: Phase, *, gid: str = "", **value: Any) -> None:
        """One line: `{t, node, op, phase, gid, value}`, with *t* in seconds of the wall clock of this machine."""
        assert self._file is not None, "a history is written inside its `with` block"
        line = {"t": time.time(), "node": self.node, "op": operation, "phase": phase, "gid": gid, "value": value}
        self._file.write(json.dumps(line, separators=(",", ":"), default=str) + "\n")


def read(*paths: Path) -> list[dict[str, Any]]:
    """All lines of all *paths*, in the order of their times. A last line that was cut off by a kill is left out."""
    lines: list[dict[str, Any]] = []
    for path in paths:
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                continue
    return sorted(lines, key=lambda line: line["t"])
