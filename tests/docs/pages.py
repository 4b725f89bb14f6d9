"""The fenced blocks of a page, with what is said about them in comments that readers do not see.

    <!-- file: service.py -->         the block is that file
    <!-- not run: why -->             the block is not run, for this reason
    <!-- part: roles -->              another test runs the block, and finds it by this name

A `text` block right after a `bash` block is what that prints; `…` in it stands for anything within a line.
"""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_FENCE = re.compile(
    r"(?:^<!-- (?P<mark>file|not run|part): (?P<said>.+?) -->\n)?^```(?P<kind>[^\n]*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block; *printed* is what the page says that it prints."""

    kind: str
    text: str
    line: int
    mark: str = ""
    said: str = ""
    printed: str | None = None


def blocks(page: Path) -> list[Block]:
    """All of *page*, in order. A block of output belongs to the command before it."""
    text, found = page.read_text(encoding="utf-8"), list[Block]()
    end_of_last = 0
    for match in _FENCE.finditer(text):
        follows = not text[end_of_last : match.start()].strip()
        end_of_last = match.end()
        if match["kind"] == "text" and follows and found and found[-1].kind == "bash":
            last = found.pop()
            found.append(Block(last.kind, last.text, last.line, last.mark, last.said, printed=match["text"]))
            continue
        line = text.count("\n", 0, match.start("text"))
        found.append(Block(match["kind"], match["text"], line, match["mark"] or "", match["said"] or ""))
    return found


def part(page: Path, name: str) -> str:
    """The text of the one block of *page* that is called *name*."""
    (found,) = [block.text for block in blocks(page) if (block.mark, block.said) == ("part", name)]
    return found


def as_shown(printed: str, shown: str) -> bool:
    """Whether *printed* is what the page shows, up to its `…` and to space at the ends of lines."""
    return re.fullmatch(_pattern(shown), _trimmed(printed)) is not None


def _pattern(shown: str) -> str:
    return ".*".join(re.escape(piece) for piece in _trimmed(shown).split("…"))


def _trimmed(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())
