"""How `make docs` builds these pages, and the API reference from the docstrings."""

import re
from importlib.metadata import version as version_of
from typing import Any

from pygments.lexers.special import TextLexer

project = "unanimity"
author = "the unanimity project"
version = release = version_of("unanimity")
extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "index"
html_theme = "alabaster"
html_theme_options = {"description": "Postgres and Kafka commit together, or neither does", "page_width": "1100px"}
html_show_copyright = False
html_show_sourcelink = False

myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
default_role = "code"  # A docstring's `name` is code, as in Markdown.


def literal_blocks(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Our docstrings are plain text: what is indented after an empty line is literal, as it is in Markdown."""
    text = re.sub(r"(?m)^(?!\s|[*-] )(.*\S)\n\n(?=    )", r"\1\n\n::\n\n", "\n".join(lines))
    lines[:] = text.split("\n")


def setup(app: Any) -> None:
    """Sphinx calls it."""
    app.connect("autodoc-process-docstring", literal_blocks)
    app.add_lexer("mermaid", TextLexer)  # Drawn where the pages are read on the forge; here it is text.
