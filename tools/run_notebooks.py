#!/usr/bin/env python
"""Run the notebooks of docs/notebooks from top to bottom and store their outputs.

The logs of trainings are not stored, nor are warnings, which name files of this machine.
"""

from __future__ import annotations

import argparse
import base64
import io
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
from PIL import Image

NOTEBOOKS = Path(__file__).resolve().parents[1] / "docs" / "notebooks"


def run(notebook: Path, folder: Path, parameters: Mapping[str, Any] | None = None) -> NotebookNode:
    """Run a notebook in a folder and return it with its outputs; the file stays as it is.

    Parameters are new values for names that the cell tagged "parameters" assigns.
    """
    content = nbformat.read(notebook, as_version=4)
    if parameters:
        place = next(i for i, cell in enumerate(content.cells) if "parameters" in cell.metadata.get("tags", []))
        known = content.cells[place].source
        if unknown := [name for name in parameters if name not in known]:
            raise ValueError(f"a parameter must be a name that {notebook.name} assigns, got {unknown[0]!r}")
        source = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
        content.cells.insert(place + 1, nbformat.v4.new_code_cell(source))

    def announce(cell: NotebookNode, cell_index: int) -> None:
        if cell.cell_type == "code":
            print(f"cell {cell_index + 1}", flush=True)

    resources = {"metadata": {"path": str(folder)}}
    return NotebookClient(content, timeout=None, resources=resources, on_cell_start=announce).execute()


def strip(content: NotebookNode) -> None:
    """Remove logs, warnings and the times of cells, and keep pictures as JPEG, a fraction of PNG's size."""
    for cell in content.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            kept = () if "log" in cell.metadata.get("tags", []) else ("stdout",)
            cell.outputs = [o for o in cell.outputs if o.output_type != "stream" or o.name in kept]
            for data in (output.data for output in cell.outputs if "image/png" in output.get("data", {})):
                picture, stream = Image.open(io.BytesIO(base64.b64decode(data.pop("image/png")))), io.BytesIO()
                picture.convert("RGB").save(stream, "JPEG", quality=80)
                data["image/jpeg"] = base64.b64encode(stream.getvalue()).decode()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python tools/run_notebooks.py docs/notebooks/detection.ipynb",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("notebooks", type=Path, nargs="*", help="default: all of docs/notebooks")
    text = 'for example {"ITERATIONS": 20}; nothing is stored then'
    parser.add_argument("--parameters", type=json.loads, metavar="JSON", help=text)
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
