"""A saga drawn from its shape: as plain text, and as SVG. Steps in one layer may run at the same time.

A step's layer is the longest way to it. Arrows that follow from others are left out, and one that passes a layer has a
place of its own there, so that it crosses no step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

from coordinator.protocol.saga_shape import Kind, Shape, StepName


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """What is drawn: *undone_by* names the compensation of a step, *waits* says for what it waits."""

    title: str
    shape: Shape
    undone_by: Mapping[StepName, str]
    waits: Mapping[StepName, str]

    def says(self, name: StepName) -> str:
        """What is to be known of a step beside its name."""
        if name == self.shape.pivot:
            return "pivot: from here it only goes forward"
        if name in self.undone_by:
            return f"undone by {self.undone_by[name]}"
        return self.waits.get(name, "")


def text(picture: Picture) -> str:
    """One line for each step, by layers; what a step comes after, where that is not the whole layer before it."""
    rows: list[tuple[str, str]] = []
    above: list[StepName] = []
    for number, layer in enumerate(layers(picture.shape), 1):
        for place, name in enumerate(layer):
            after = [before for before, later in arrows(picture.shape) if later == name]
            says = [picture.says(name), "" if set(after) == set(above) else f"after {', '.join(after) or 'nothing'}"]
            rows.append(
                (f"{number if not place else '':>3}  {_branch(place, len(layer))}{name}", "; ".join(filter(None, says)))
            )
        above = layer
    width = max(len(left) for left, _ in rows)
    return "\n".join([picture.title, *(f"{left:<{width}}  {says}".rstrip() for left, says in rows)])


def layers(shape: Shape) -> list[list[StepName]]:
    """The steps by the longest way to them."""
    depth: dict[StepName, int] = {}
    for name, step in shape.steps.items():
        depth[name] = max((depth[before] + 1 for before in step.after), default=0)
    return [[name for name in shape.steps if depth[name] == each] for each in range(max(depth.values()) + 1)]


def arrows(shape: Shape) -> list[tuple[StepName, StepName]]:
    """What comes directly after what, without what follows from that."""
    return [
        (before, name)
        for name, step in shape.steps.items()
        for before in dict.fromkeys(step.after)
        if not any(name in shape.dependents[between] for between in shape.dependents[before])
    ]


# ── SVG ──

_CHARACTER, _PAD, _HEIGHT, _GAP, _ROW, _MARGIN, _TITLE, _LANE = 7.2, 14, 46, 28, 90, 20, 30, 24
_STYLE = (
    "text{font:13px ui-sans-serif,system-ui,sans-serif;fill:#1f2937;text-anchor:middle}"
    ".title{font-weight:600;text-anchor:start}.says{font-size:11px;fill:#4b5563}"
    "rect{fill:#eff6ff;stroke:#3b82f6}.pivot rect{fill:#fef3c7;stroke:#b45309;stroke-width:2}"
    ".forward rect{fill:#ecfdf5;stroke:#059669}.wait rect{fill:#f9fafb;stroke:#6b7280;stroke-dasharray:4 3}"
    ".arrow{fill:none;stroke:#6b7280}marker path{fill:#6b7280}"
)

_MARKER = (
    '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0L8 4L0 8z"/></marker></defs>'
)


class _Place(NamedTuple):
    """Something in a layer: a step, or an arrow that passes it (then *width* is a lane's)."""

    key: tuple[StepName, StepName | None]
    width: float


def svg(picture: Picture) -> str:
    """A whole SVG document; it needs nothing else."""
    rows = _rows(picture)
    inner = max(sum(place.width for place in row) + _GAP * (len(row) - 1) for row in rows)
    width = max(inner, len(picture.title) * _CHARACTER) + 2 * _MARGIN
    height = _TITLE + len(rows) * _ROW - (_ROW - _HEIGHT) + 2 * _MARGIN
    middle = _middles(rows, width)
    tops = [_MARGIN + _TITLE + number * _ROW for number in range(len(rows))]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img"><title>{escape(picture.title)}</title><style>{_STYLE}</style>'
    )
    title = f'<text class="title" x="{_MARGIN}" y="{_MARGIN + 12}">{escape(picture.title)}</text>'
    parts = [head, _MARKER, title]
    parts += [_arrow(before, after, picture.shape, middle, tops) for before, after in arrows(picture.shape)]
    for row, top in zip(rows, tops, strict=True):
        parts += [_box(picture, place, middle[place.key], top) for place in row if place.key[1] is None]
    return "\n".join([*parts, "</svg>\n"])


def _rows(picture: Picture) -> list[list[_Place]]:
    layered = layers(picture.shape)
    level = {name: number for number, layer in enumerate(layered) for name in layer}
    rows = [[_Place((name, None), _box_width(picture, name)) for name in layer] for layer in layered]
    for before, after in arrows(picture.shape):
        for passed in range(level[before] + 1, level[after]):
            rows[passed].append(_Place((before, after), _LANE))
    return rows


def _middles(rows: Sequence[Sequence[_Place]], width: float) -> dict[tuple[StepName, StepName | None], float]:
    """The middle of everything in its row; rows stand in the middle of the picture."""
    found = {}
    for row in rows:
        left = (width - sum(place.width for place in row) - _GAP * (len(row) - 1)) / 2
        for place in row:
            found[place.key] = left + place.width / 2
            left += place.width + _GAP
    return found


def _arrow(
    before: StepName,
    after: StepName,
    shape: Shape,
    middle: Mapping[tuple[StepName, StepName | None], float],
    tops: Sequence[float],
) -> str:
    level = {name: number for number, layer in enumerate(layers(shape)) for name in layer}
    x, y = middle[before, None], tops[level[before]] + _HEIGHT
    path = f"M{x:g} {y:g}"
    for row in range(level[before] + 1, level[after] + 1):
        arrives = row == level[after]
        to_x, top = middle[after, None] if arrives else middle[before, after], tops[row]
        path += f"C{x:g} {y + 22:g} {to_x:g} {top - 22:g} {to_x:g} {top:g}"
        if not arrives:
            path += f"V{top + _HEIGHT:g}"
        x, y = to_x, top + _HEIGHT
    return f'<path class="arrow" marker-end="url(#head)" d="{path}"/>'


def _box(picture: Picture, place: _Place, middle: float, top: float) -> str:
    name, says = place.key[0], picture.says(place.key[0])
    lines = [f'<text x="{middle:g}" y="{top + (20 if says else 28):g}">{escape(name)}</text>']
    if says:
        lines.append(f'<text class="says" x="{middle:g}" y="{top + 36:g}">{escape(says)}</text>')
    rectangle = (
        f'<rect x="{middle - place.width / 2:g}" y="{top:g}" width="{place.width:g}" height="{_HEIGHT}" rx="6"/>'
    )
    return f'<g class="{_look(picture.shape, name)}">{rectangle}{"".join(lines)}</g>'


def _look(shape: Shape, name: StepName) -> str:
    if name == shape.pivot:
        return "pivot"
    if shape.steps[name].kind is not Kind.ACTION:
        return "wait"
    return "forward" if name in shape.behind_pivot else "step"


def _box_width(picture: Picture, name: StepName) -> float:
    return max(len(name), 0.87 * len(picture.says(name))) * _CHARACTER + 2 * _PAD


def _branch(place: int, of: int) -> str:
    if of == 1:
        return ""
    return "┌ " if place == 0 else "└ " if place == of - 1 else "├ "
