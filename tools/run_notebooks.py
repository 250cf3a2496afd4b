#!/usr/bin/env python
"""Run the notebooks of docs/notebooks from top to bottom and store what they show.

The long logs of trainings are left out of what is stored, and so are warnings, which name the files of the machine.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

NOTEBOOKS = Path(__file__).resolve().parents[1] / "docs" / "notebooks"
PARAMETERS, LOG = "parameters", "log"  # tags of cells


def run(notebook: Path, folder: Path, parameters: Mapping[str, Any] | None = None) -> NotebookNode:
    """The notebook with the outputs that its cells have, each run after the one above.

    Args:
        notebook: the file, which stays as it is.
        folder: where the kernel works.
        parameters: values for names that the cell tagged "parameters" assigns.

    Raises:
        ValueError: there is no such cell, or it does not assign one of the names.
        CellExecutionError: a cell raised an error.
    """
    content = nbformat.read(notebook, as_version=4)
    if parameters:
        _set_parameters(content, parameters, notebook)

    def progress(cell: NotebookNode, cell_index: int) -> None:
        if cell.cell_type == "code":
            print(f"{notebook.name}: cell {cell_index + 1} of {len(content.cells)}", flush=True)

    client = NotebookClient(
        content, timeout=None, resources={"metadata": {"path": str(folder)}}, on_cell_start=progress
    )
    client.execute()
    return content


def _set_parameters(content: NotebookNode, parameters: Mapping[str, Any], notebook: Path) -> None:
    """Put assignments after the cell of parameters, as papermill does."""
    tagged = [i for i, cell in enumerate(content.cells) if PARAMETERS in cell.metadata.get("tags", ())]
    if not tagged:
        raise ValueError(f"{notebook} has no cell with the tag {PARAMETERS!r}")
    known: dict[str, Any] = {}
    exec(content.cells[tagged[0]].source, known)
    for name in parameters:
        if name not in known:
            raise ValueError(f"parameter must be one that {notebook.name} assigns, got {name!r}")
    source = "".join(f"{name} = {value!r}\n" for name, value in parameters.items())
    content.cells.insert(tagged[0] + 1, nbformat.v4.new_code_cell(source))


def strip(content: NotebookNode) -> None:
    """Leave out logs, warnings, and the times of cells."""
    for cell in content.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if _is_kept(output, cell.metadata.get("tags", ()))]


def _is_kept(output: NotebookNode, tags: Sequence[str]) -> bool:
    return output.output_type != "stream" or (output.name == "stdout" and LOG not in tags)


def build_argument_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python tools/run_notebooks.py docs/notebooks/detection.ipynb",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("notebooks", type=Path, nargs="*", help="default: all of docs/notebooks")
    parser.add_argument(
        "--parameters", type=json.loads, metavar="JSON", help='for example {"ITERATIONS": 20}; nothing is stored then'
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run and store."""
    parser = build_argument_parser()
    args = parser.parse_args(arguments)
    for notebook in args.notebooks or sorted(NOTEBOOKS.glob("*.ipynb")):
        start = time.perf_counter()
        try:
            with tempfile.TemporaryDirectory() as folder:
                content = run(notebook, Path(folder), args.parameters)
        except (OSError, ValueError) as error:
            parser.error(str(error))
        except CellExecutionError as error:
            sys.exit(f"{notebook}: {error}")
        if not args.parameters:
            strip(content)
            temporary = notebook.with_suffix(".ipynb.part")
            nbformat.write(content, temporary)
            temporary.replace(notebook)
        print(f"{notebook}: {time.perf_counter() - start:.0f} s" + ("" if args.parameters else ", stored"), flush=True)


if __name__ == "__main__":
    main()
