"""One HTML file that holds all pictures."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

_STYLE = """
body { font-family: system-ui, sans-serif; margin: 2rem auto; max-width: 1250px; padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #ccc; }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; border: 1px solid #ddd; }
figcaption { color: #555; font-size: .9rem; } table { border-collapse: collapse; }
td, th { padding: .2rem .8rem; border-bottom: 1px solid #ddd; text-align: left; }
td + td { text-align: right; font-variant-numeric: tabular-nums; }
"""


@dataclass
class Section:
    """A part of the page.

    Attributes:
        title: its heading.
        text: what it shows, a sentence or two.
        pictures: PNG files and their captions, in order.
    """

    title: str
    text: str
    pictures: Sequence[tuple[Path, str]] = field(default_factory=list)


def make_page(title: str, facts: Mapping[str, str], sections: Sequence[Section]) -> str:
    """The page, with no link to another file.

    Args:
        title: of the page.
        facts: names and values, shown in a table at the top.
        sections: in order.
    """
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>\n" for name, value in facts.items())
    parts = [f"<h1>{escape(title)}</h1>\n<table>\n{rows}</table>\n"]
    for section in sections:
        parts.append(f"<h2>{escape(section.title)}</h2>\n<p>{escape(section.text)}</p>\n")
        parts += [_figure(file, caption) for file, caption in section.pictures]
    head = f'<meta charset="utf-8">\n<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n'
    return f'<!doctype html>\n<html lang="en">\n<head>\n{head}</head>\n<body>\n{"".join(parts)}</body>\n</html>\n'


def _figure(file: Path, caption: str) -> str:
    data = base64.b64encode(file.read_bytes()).decode()
    image = f'<img src="data:image/png;base64,{data}" alt="{escape(caption, quote=True)}">'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>\n"
