"""Line charts as SVG, by hand: a median per point, and whiskers from the least to the greatest round."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 190, 40, 50
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Those of Okabe and Ito, which everybody can tell apart."""

Point = tuple[float, float, float, float]
"""x, and the median, the least and the greatest y."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Values to pixels, along one side of the plot; *doubling* for values that are steps of a factor."""

    low: float
    high: float
    begin: float
    end: float
    doubling: bool

    def at(self, value: float) -> float:
        """Where *value* is drawn."""
        low, high, value = (math.log(v) if self.doubling else v for v in (self.low, self.high, value))
        return self.begin + (self.end - self.begin) * (value - low) / ((high - low) or 1)


def round_step(span: float) -> float:
    """A step of 1, 2 or 5 times a power of ten that divides *span* into four to ten parts."""
    power = 10 ** math.floor(math.log10(span / 4))
    return next(step * power for step in (5, 2, 1) if span / (step * power) >= 4)


def chart(title: str, x_label: str, y_label: str, lines: Mapping[str, Sequence[Point]]) -> str:
    """One chart. x grows by factors; y begins at zero."""
    points = [point for line in lines.values() for point in line]
    xs = sorted({x for x, *_ in points})
    top = max(greatest for *_, greatest in points)
    step = round_step(top)
    ceiling = step * math.ceil(top / step)
    across = Axis(xs[0], xs[-1], LEFT, WIDTH - RIGHT, doubling=xs[0] > 0)
    up = Axis(0, ceiling, HEIGHT - BOTTOM, TOP, doubling=False)
    head = f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
    drawn = [
        f'<svg {head} font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="14" font-weight="bold">{escape(title)}</text>',
        *_x_axis(xs, across, x_label),
        *_y_axis(step, ceiling, up, y_label),
    ]
    ends = _apart([up.at(line[-1][1]) for line in lines.values()])
    for (name, line), colour, end in zip(lines.items(), COLOURS, ends, strict=False):
        drawn += _line(name, line, colour, across, up, end)
    return "\n".join([*drawn, "</svg>", ""])


def _x_axis(xs: Sequence[float], across: Axis, label: str) -> list[str]:
    floor = HEIGHT - BOTTOM
    return [
        f'<line x1="{LEFT}" y1="{floor}" x2="{WIDTH - RIGHT}" y2="{floor}" stroke="black"/>',
        *(f'<text x="{across.at(x):.1f}" y="{floor + 17}" text-anchor="middle">{x:g}</text>' for x in xs),
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">{escape(label)}</text>',
    ]


def _y_axis(step: float, ceiling: float, up: Axis, label: str) -> list[str]:
    middle = (TOP + HEIGHT - BOTTOM) / 2
    turned = f'text-anchor="middle" transform="rotate(-90 16 {middle})"'
    drawn = [f'<text x="16" y="{middle}" {turned}>{escape(label)}</text>']
    for number in range(round(ceiling / step) + 1):
        y = up.at(number * step)
        drawn.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="#dddddd"/>')
        drawn.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number * step:g}</text>')
    return drawn


def _apart(heights: Sequence[float], least: float = 14) -> list[float]:
    """Labels where their lines end, moved down until none hides another."""
    placed = dict.fromkeys(range(len(heights)), 0.0)
    floor = -math.inf
    for index in sorted(placed, key=lambda i: heights[i]):
        placed[index] = floor = max(heights[index], floor + least)
    return list(placed.values())


def _line(name: str, line: Sequence[Point], colour: str, across: Axis, up: Axis, label_y: float) -> list[str]:
    path = " ".join(f"{across.at(x):.1f},{up.at(median):.1f}" for x, median, *_ in line)
    drawn = [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>']
    for x, median, least, greatest in line:
        at = across.at(x)
        whisker = f'x1="{at:.1f}" y1="{up.at(least):.1f}" x2="{at:.1f}" y2="{up.at(greatest):.1f}"'
        drawn.append(f'<line {whisker} stroke="{colour}"/>')
        drawn.append(f'<circle cx="{at:.1f}" cy="{up.at(median):.1f}" r="3" fill="{colour}"/>')
    drawn.append(f'<text x="{WIDTH - RIGHT + 8}" y="{label_y + 4:.1f}" fill="{colour}">{escape(name)}</text>')
    return drawn
