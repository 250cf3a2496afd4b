"""Markdown that several tables are made of."""

from __future__ import annotations


def row(*cells: str) -> str:
    """A row of a table."""
    return "| " + " | ".join(cells) + " |"


def head(first: str, *others: str) -> list[str]:
    """The two rows that a table begins with; all columns but the first are aligned to the right."""
    return [row(first, *others), row("---", *["---:"] * len(others))]
