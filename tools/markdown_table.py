"""Tables in Markdown, of cells that are formatted already."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tabulate import tabulate

_SIDES = {"l": "left", "r": "right"}


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]], align: str) -> str:
    """Return a Markdown table, with a newline at its end; cells are shown as they are.

    ``align`` has ``l`` or ``r`` for each column; the last letter also holds for the columns after it.
    """
    sides = [_SIDES[letter] for letter in align.ljust(len(head), align[-1])]
    return tabulate(list(rows), head, "pipe", disable_numparse=True, colalign=sides) + "\n"
