"""The documents: every Python block runs, every command exists, the pages build without a warning."""

import contextlib
import importlib
import importlib.util
import io
import re
import runpy
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.documents.pages import Block, blocks, calls, message_templates, pages
from tests.helpers import ROOT, environment

TOOLS = sorted(
    str(file.relative_to(ROOT)) for file in (ROOT / "tools").glob("*.py") if file.read_text().startswith("#!")
)
FRAMEWORKS = ("detectron2", "mmseg")
# Libraries of single blocks, which are passed over without them.
OTHER_LIBRARIES = ("segmentation_models_pytorch", "transformers")
PAGES = [page for page in pages() if any(block.language == "python" for block in blocks(page))]
CALLS = [
    (page, call) for page in pages() for block in blocks(page) if block.language == "bash" for call in calls(block)
]


def name_of(value: object) -> str:
    return str(value.relative_to(ROOT)) if isinstance(value, Path) else ""


def printed(found: list[Block], place: int) -> str | None:
    """Return the output that the page shows for the block at a place."""
    follows = found[place + 1] if place + 1 < len(found) else None
    return follows.text if follows is not None and follows.language == "text" and follows.is_next else None


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_python_blocks_of_a_page_run_and_print_what_it_says(page, tmp_path, monkeypatch, capsys):
    for framework in FRAMEWORKS:
        if re.search(rf"^\s*(?:from|import) \S*\b{framework}\b", page.read_text(encoding="utf-8"), re.MULTILINE):
            pytest.importorskip(framework)
            importlib.import_module(f"resnest_backbones.{framework}")  # packages of frameworks print when imported
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": page.stem}
    found = blocks(page)
    for place, block in enumerate(found):
        missing = [name for name in OTHER_LIBRARIES if importlib.util.find_spec(name) is None]
        if block.language != "python" or any(f"from {name}" in block.text for name in missing):
            continue
        capsys.readouterr()
        # The empty lines let a traceback name the line of the page.
        exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), names)
        expected = printed(found, place)
        if expected is not None:
            assert capsys.readouterr().out == expected, f"{page.name}, line {block.line}"


def test_there_are_blocks_to_run():
    stems = "choosing index moving output-stride own-coco-data own-label-maps single-gpu troubleshooting"
    assert {page.stem for page in PAGES} >= set(stems.split())
    assert {call.tool for _, call in CALLS} >= {"tools/train_net.py", "tools/train_seg.py", "tools/reproduce.sbatch"}


@cache
def help_of(tool: str, subcommand: tuple[str, ...]) -> str:
    stream = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(stream):
        patch.setattr(sys, "argv", [tool, *subcommand, "--help"])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(str(ROOT / tool), run_name="__main__")
    assert caught.value.code == 0
    return stream.getvalue()


@pytest.mark.parametrize("tool", TOOLS)
def test_the_help_of_a_tool_has_an_example(tool):
    if tool.startswith(("tools/train_", "tools/test_", "tools/infer_")):
        pytest.importorskip("detectron2" if tool == "tools/train_net.py" else "mmseg")
    text = " ".join(help_of(tool, ()).split())
    assert tool in text or "example: resnest-backbones " in text  # of a command under another name


@pytest.mark.parametrize(("page", "call"), CALLS, ids=name_of)
def test_a_command_names_a_tool_options_and_configs_that_are_there(page, call):
    assert (ROOT / call.tool).is_file()
    for config in re.findall(r"configs/\S+?\.(?:yaml|py)\b", " ".join(call.words)):
        assert (ROOT / config).is_file(), config
    if call.tool.endswith(".sbatch"):  # which hands its options on
        text = help_of("tools/reproduce.py", ("run",))
    else:
        if importlib.util.find_spec("detectron2") is None or importlib.util.find_spec("mmseg") is None:
            pytest.skip("the tools' --help needs both frameworks")
        text = help_of(call.tool, call.subcommand)
    known = set(re.findall(r"--[a-z][a-z-]*", text))
    assert set(call.options) <= known


def test_the_keys_of_detectron2_in_commands_are_there():
    pytest.importorskip("detectron2")
    from detectron2.config import get_cfg

    from resnest_backbones.detectron2 import add_resnest_config
    from tests.helpers import flat

    cfg = get_cfg()
    add_resnest_config(cfg)
    known = flat(cfg).keys()
    keys = {word for _, call in CALLS for word in call.words if re.fullmatch(r"[A-Z][A-Z_]*\.[A-Z0-9_.]+", word)}
    assert "SOLVER.BASE_LR" in keys and keys <= known


def test_the_pages_build_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "site" / "api" / "core" / "index.html").read_text(encoding="utf-8")
    assert "resnest_backbones.build" in page and "output_stride" in page
    assert "<blockquote>" not in page, "an example in a docstring stands under no Examples:"


@pytest.mark.parametrize("page", [*pages(), ROOT / "MODEL_ZOO.md", ROOT / "CONTRIBUTING.md"], ids=name_of)
def test_code_fits_the_width_of_a_page(page):
    text = page.read_text(encoding="utf-8")
    # Messages, in blocks of text, are one line each, and wrap.
    lines = [line for block in blocks(page) if block.language != "text" for line in block.text.splitlines()]
    lines += re.findall(r"^ {4}.*", text, re.MULTILINE)
    assert [line for line in lines if len(line) > 120] == []


def test_the_messages_of_the_troubleshooting_page_are_those_of_the_package():
    known = message_templates(ROOT / "resnest_backbones")
    found = blocks(ROOT / "docs" / "troubleshooting.md")
    outputs = [place + 1 for place, block in enumerate(found) if block.language == "python" if printed(found, place)]
    messages = [line for place, block in enumerate(found) if block.language == "text" and place not in outputs
                for line in block.text.splitlines()]  # fmt: skip
    assert len(messages) > 15
    assert [line for line in messages if not any(line.strip("… ") in template for template in known)] == []
