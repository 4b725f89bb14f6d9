"""Whether two functions are one: a definition may be built twice, and a saga that runs is gone on with by either."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

Files = Mapping[int, Path]
"""The files of functions, by the ids of their code."""


def files(functions: Iterable[Any]) -> Files:
    """Where each was written. To be asked when they are defined: the directory may change that a name starts from."""
    codes = (getattr(getattr(each, "func", each), "__code__", None) for each in functions)
    return {id(code): _resolved(code) for code in codes if code is not None}


def same_function(one: Any, other: Any, known: Files, within: tuple[Any, ...] = ()) -> bool:
    """Whether they do the same: the same code of the same file, with the same values around it.

    The same code in two files (a template, say) may mean other things by the names of its module. One file may have
    been read twice, as a module and as what was started.
    *known*: what `files` said of them.
    *within*: the functions around which this is one of those values; one that calls itself is among them.
    """
    if one is other or any(one is each for each in within) or _equal(one, other):
        return True
    if isinstance(one, partial) and isinstance(other, partial):
        return same_function(one.func, other.func, known) and (one.args, one.keywords) == (other.args, other.keywords)
    code, bound = (getattr(one, "__code__", one), getattr(one, "__self__", None))
    others = getattr(other, "__code__", other)
    if code != others or bound is not getattr(other, "__self__", None):
        return False
    if (known.get(id(code)) or _resolved(code)) != (known.get(id(others)) or _resolved(others)):
        return False
    around = zip(_around(one), _around(other), strict=True)
    return all(same_function(mine, theirs, known, (*within, one)) for mine, theirs in around)


def _resolved(code: Any) -> Path:
    name = Path(getattr(code, "co_filename", ""))
    try:
        return name.resolve()
    except OSError:  # The directory that it starts from is gone.
        return name


def _equal(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except Exception:  # noqa: BLE001 - what cannot be compared is not equal.
        return False


def _around(function: Callable[..., Any]) -> list[Any]:
    """The values that a function has from where it was written."""
    cells = getattr(function, "__closure__", None) or ()
    return [getattr(cell, "cell_contents", None) for cell in cells]
