"""The report's page in a browser: light and dark, wide and as narrow as a phone."""

import argparse
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reproduction import report
from reproduction.style import STYLE
from tests.reproduction.report_sample import SAMPLE, write_sample

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome-headless-shell")
WIDE, NARROW = (1280, 4200), (400, 7000)


@pytest.fixture(scope="module")
def browser() -> str:
    asked = os.environ.get("CHROMIUM", "")
    found = next(filter(None, map(shutil.which, [asked, *BROWSERS])), None)
    if asked and not found:
        pytest.fail(f"CHROMIUM must be a program, got {asked}")
    if not found:
        pytest.skip(f"needs one of {', '.join(BROWSERS)} on the PATH, or a path to one in CHROMIUM")
    return found


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """The page of rows of every state."""
    root = tmp_path_factory.mktemp("reproduced")
    write_sample(root)
    parser = argparse.ArgumentParser()
    report.add_arguments(parser)
    assert report.main(parser.parse_args([*SAMPLE, "--output-dir", str(root)])) == 0
    return root / "report" / "report.html"


def run_browser(browser: str, page: Path, size: tuple[int, int], profile: Path, *options: str) -> str:
    """What a browser without a window prints about a page."""
    command = [
        browser,
        "--headless",
        "--disable-gpu",
        "--hide-scrollbars",
        "--no-first-run",
        "--disable-background-networking",
        f"--user-data-dir={profile}",
        f"--window-size={size[0]},{size[1]}",
        "--virtual-time-budget=2000",
        *options,
        page.as_uri(),
    ]
    if os.geteuid() == 0:  # Chromium has no sandbox for root
        command.insert(1, "--no-sandbox")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def picture(browser: str, page: Path, size: tuple[int, int], folder: Path, *options: str) -> np.ndarray:
    """A screenshot (height, width, 3)."""
    file = folder / "page.png"
    run_browser(browser, page, size, folder / "profile", f"--screenshot={file}", *options)
    with Image.open(file) as image:
        assert image.size == size
        return np.asarray(image.convert("RGB"))


def colour(name: str, theme: int = 0) -> tuple[int, ...]:
    """A colour of the style: of the light theme, 0, or of the dark one, 1."""
    digits = re.findall(rf"--{name}: #([0-9a-f]{{6}});", STYLE)[theme]
    return tuple(bytes.fromhex(digits))


def count(image: np.ndarray, name: str, theme: int = 0) -> int:
    """How many pixels have a colour of the style."""
    return int((image == np.array(colour(name, theme))).all(axis=2).sum())


@pytest.fixture(scope="module", params=[WIDE, NARROW], ids=["wide", "narrow"])
def light(request, browser, page, tmp_path_factory) -> np.ndarray:
    return picture(browser, page, request.param, tmp_path_factory.mktemp("light"))


def test_the_verdicts_the_smoke_warning_and_the_curves_are_seen(light):
    assert tuple(light[0, 0]) == colour("page")
    for name in ("within-back", "below-back", "above-back", "smoke-back"):
        assert count(light, name) > 2000, name
    for name in ("within", "below", "above", "smoke", "text", "curve-0", "curve-1"):
        assert count(light, name) > 100, name


def test_the_page_is_dark_where_the_reader_wants_it_dark(browser, page, tmp_path):
    dark = picture(browser, page, WIDE, tmp_path, "--blink-settings=preferredColorScheme=0")
    assert tuple(dark[0, 0]) == colour("page", theme=1)
    assert count(dark, "page") == 0  # nothing has stayed white
    for name in ("within-back", "below-back", "above-back", "smoke-back", "curve-0", "curve-1"):
        assert count(dark, name, theme=1) > 200, name


@pytest.mark.parametrize("width", [1280, 400, 320])
def test_nothing_is_wider_than_the_window(browser, page, tmp_path, width):
    """A copy of the page measures itself, in a frame, since a window has a least width of its own."""
    script = "parent.postMessage(document.documentElement.scrollWidth + ' of ' + window.innerWidth, '*')"
    text = page.read_text(encoding="utf-8").replace("</body>", f"<script>{script}</script></body>")
    (tmp_path / "copy.html").write_text(text, encoding="utf-8")
    outer = tmp_path / "outer.html"
    outer.write_text(
        "<title>nothing came</title><script>onmessage = event => document.title = event.data</script>"
        f'<iframe src="copy.html" style="width: {width}px; height: 800px; border: 0"></iframe>'
    )
    printed = run_browser(browser, outer, WIDE, tmp_path / "profile", "--dump-dom")
    needed, given = re.search(r"<title>(\d+) of (\d+)</title>", printed).groups()
    assert int(given) == width
    assert int(needed) <= width
