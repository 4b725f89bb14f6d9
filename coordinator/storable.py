"""Text as every database keeps it: what services and errors say may hold characters that none takes for text."""

from coordinator import limits


def storable(text: str) -> str:
    """*text*, cut off where it is long, with a question mark for each NUL and each half of a surrogate pair."""
    return text[: limits.ANSWER_CHARACTERS_MAX].replace("\0", "?").encode(errors="replace").decode()
