"""Which transaction's block the code that runs now is inside of: blocks do not nest."""

from contextvars import ContextVar

inside: ContextVar[str | None] = ContextVar("unanimity_transaction", default=None)
"""The name of that transaction; None where there is none."""
