"""Reading the documents: the blocks of code of a page, and what a shell block calls."""

import ast
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from tests.helpers import ROOT

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_OPTION = re.compile(r"--[a-z][a-z-]*")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: language, text, the line it begins on, and whether another block is just before."""

    language: str
    text: str
    line: int
    is_next: bool = False


@dataclass(frozen=True)
class Call:
    """A call of a tool: its file from the root on, its words, and the options among them."""

    tool: str
    words: tuple[str, ...]

    @property
    def options(self) -> list[str]:
        return [word.partition("=")[0] for word in self.words if _OPTION.match(word)]

    @property
    def subcommand(self) -> tuple[str, ...]:
        """Of ``tools/reproduce.py``: what it is told to do."""
        return self.words[:1] if self.tool == "tools/reproduce.py" else ()


def pages() -> list[Path]:
    """README.md and every page of docs/, without the reports of benchmarks."""
    found = sorted((ROOT / "docs").rglob("*.md"))
    return [ROOT / "README.md", *(page for page in found if "benchmark" not in page.parts)]


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found, end = [], -1
    for match in _FENCE.finditer(text):
        is_next = end >= 0 and not text[end : match.start()].strip()
        found.append(Block(match[1], match[2], text.count("\n", 0, match.start(2)) + 1, is_next))
        end = match.end()
    return found


def table_rows(table: str) -> list[list[str]]:
    """Return the cells of a Markdown table below its head."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]


def calls(block: Block) -> list[Call]:
    """Return the calls of tools in a shell block, whatever launcher stands before them."""
    found = []
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        for place, word in enumerate(words):
            if word.startswith("tools/") and word.endswith((".py", ".sbatch")):
                found.append(Call(word, tuple(words[place + 1 :])))
                break
    return found


def message_templates(folder: Path) -> list[str]:
    """Every string of the modules in a folder, with ``…`` for each value that is put in."""
    found = []
    for file in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                found.append(re.sub("…+", "…", "".join(map(str, parts))))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found
