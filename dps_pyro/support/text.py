"""Text from outside, made fit to be kept and shown."""

from __future__ import annotations

__all__ = ["clean"]


def clean(text: str, longest: int | None = None) -> str:
    """The text in one line, in characters that can be written: half of a surrogate pair, which Python's strings may
    hold and no file can, becomes a question mark; so does a control character. `longest` cuts it."""
    kept = text if longest is None else text[: 4 * longest]
    written = kept.encode("utf-8", "replace").decode("utf-8")
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in written).split())
    return line if longest is None or len(line) <= longest else line[: longest - 3] + "..."
