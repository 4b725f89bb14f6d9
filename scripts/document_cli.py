"""The command line's reference, made by walking its own commands."""

import re
from collections.abc import Iterator
from typing import Any

import typer

from coordinator.cli import app


def describe_commands() -> str:
    """A section for every command: its own help text, its usage, and its options with their variables."""
    root = typer.main.get_command(app)
    return "\n\n".join(_sections(root, root.context_class(root, info_name="coordinator")))


def _sections(command: Any, context: Any) -> Iterator[str]:
    """Of a command, or of all that a group has. (The classes are click's, which typer brings under another name.)"""
    if hasattr(command, "commands"):
        for name, child in command.commands.items():
            if not child.hidden:
                yield from _sections(child, child.context_class(child, info_name=name, parent=context))
        return
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    parts = [f"## {context.command_path}", _text(command.help or ""), f"```text\n{usage}\n```"]
    rows = [_row(parameter) for parameter in command.params if not getattr(parameter, "hidden", False)]
    if rows:
        parts.append("\n".join(["| option | variable | default | |", "|---|---|---|---|", *rows]))
    yield "\n\n".join(parts)


def _row(parameter: Any) -> str:
    names = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
    if parameter.param_type_name == "argument":
        names = f"`{parameter.name.upper()}`"
    variables = [parameter.envvar] if isinstance(parameter.envvar, str) else parameter.envvar or []
    variable = ", ".join(f"`{each}`" for each in variables)
    default = "required" if parameter.required else "" if parameter.default in (None, "") else f"`{parameter.default}`"
    return f"| {names} | {variable} | {default} | {getattr(parameter, 'help', None) or ''} |"


def _text(text: str) -> str:
    """A docstring as Markdown reads it: without the form feed by which click would cut it, and its examples as code."""
    return re.sub(r"(?m)^(?=coordinator )", "    ", text.split("\f", maxsplit=1)[0].strip())
