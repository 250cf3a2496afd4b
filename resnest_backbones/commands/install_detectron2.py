"""Install Detectron2 into the environment of this Python.

No wheel of Detectron2 is published under its own name. Its Python code, as of April 2024, is in the wheel of
sal-detectron2, which says that it is for Python 3.10 only and carries two things no environment should get: a top-level
package `tools`, and operators compiled against one release of PyTorch. The source `registry`, the default, takes the
package `detectron2` alone: without the compiled operators (rotated boxes, Detectron2's own deformable convolution), it
works on any Python and any PyTorch. Any other source is a requirement of pip, built against the PyTorch that is
installed.

Install what Detectron2 itself needs first: pip install "resnest-backbones[detectron2]".
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from functools import partial
from importlib import metadata
from pathlib import Path

from resnest_backbones.commands import named
from resnest_backbones.errors import ConfigError, ResNeStError, add_verbose, one_line_errors

NAME, VERSION = "sal-detectron2", "0.7.2"
SHA256 = "491af0c7f79bdb2d178e46f6cb16a97c4ac968d45c41ea3f6b6435d59bbee561"
DOWNLOAD = (
    *("download", "--quiet", "--no-deps", "--only-binary", ":all:", "--require-hashes"),
    *("--python-version", "3.10", "--implementation", "cp", "--abi", "none", "--platform", "any"),
)
_EPILOG = """
Examples:

  python tools/install_detectron2.py
  python tools/install_detectron2.py --source git+https://github.com/facebookresearch/detectron2.git
"""


def check_source(source: str) -> str:
    """Return `registry` or a requirement of Detectron2 that pip takes (a URL, an existing path, a name), stripped."""
    text = source.strip()
    is_named = "://" in text or "detectron2" in text.lower() or (text and Path(text).exists())
    if text != "registry" and (text.startswith("-") or not is_named):
        raise ConfigError(
            "source must be 'registry' or a pip requirement of Detectron2 (a URL such as git+https://github.com/"
            f"facebookresearch/detectron2.git, an existing path, or a name such as detectron2==0.6), got {source!r}"
        )
    return text


def run_pip(*arguments: str) -> None:
    """Run pip of this interpreter; it prints why it fails."""
    command = [sys.executable, "-m", "pip", *arguments]
    if subprocess.run(command, check=False).returncode != 0:
        raise ResNeStError(f"pip failed, see above; the command was: {' '.join(command)}")


def download_wheel(folder: Path) -> Path:
    """Download the pinned wheel; return one of the package `detectron2` alone, for any Python and platform."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{NAME}=={VERSION} --hash=sha256:{SHA256}\n", encoding="utf-8")
    run_pip(*DOWNLOAD, "--dest", str(folder), "-r", str(requirements))
    (published,) = folder.glob("*.whl")
    wheel = folder / f"{NAME.replace('-', '_')}-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(published) as source, zipfile.ZipFile(wheel, "w") as target:
        for entry in filter(is_wanted, source.namelist()):
            content = source.read(entry)
            if entry.endswith(".dist-info/RECORD"):  # by which pip uninstalls
                lines = content.decode().splitlines(keepends=True)
                content = "".join(line for line in lines if is_wanted(line.partition(",")[0])).encode()
            target.writestr(entry, content)
    return wheel


def is_wanted(path: str) -> bool:
    """Tell whether a path of the wheel belongs in the environment."""
    top, _, rest = path.partition("/")
    if top.endswith(".dist-info"):
        return rest != "top_level.txt"  # it names `tools`
    return top == "detectron2" and not (rest.startswith("_C.") and rest.endswith((".so", ".pyd")))


def build_wheel(source: str, folder: Path) -> Path:
    """Return the wheel that pip makes of a requirement, built against the PyTorch that is installed."""
    run_pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), source)
    (wheel,) = folder.glob("*.whl")
    if "detectron2" not in wheel.name.lower():
        raise ConfigError(f"{source!r} must be a Detectron2 distribution, but pip built {wheel.name}")
    return wheel


def find_installed() -> list[metadata.Distribution]:
    """Return the distributions of Detectron2 in the site-packages of this Python, whatever their exact name."""
    folders = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    found = metadata.distributions(path=list(folders))
    return [dist for dist in found if "detectron2" in (dist.metadata["Name"] or "").lower()]


def verify() -> None:
    """Import the engine in a fresh interpreter, which prints the version and the folder of the package."""
    code = "import detectron2.engine as e, detectron2 as d; print(f'Detectron2 {d.__version__} in {d.__path__[0]}')"
    with tempfile.TemporaryDirectory() as folder:  # an empty one, since Python looks for modules there first
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=folder, check=False)
    if done.returncode != 0:
        raise ResNeStError(
            "Detectron2 is installed but cannot be imported, see above. If a package is missing, run "
            'pip install "resnest-backbones[detectron2]".'
        )


def install(source: str, *, force: bool = False) -> None:
    """Install Detectron2 from a source unless it is there already."""
    source, installed = check_source(source), find_installed()
    names = [dist.metadata["Name"] for dist in installed]
    is_alone = not any(str(file).startswith("tools/") for dist in installed for file in dist.files or ())
    if source == "registry" and names == [NAME] and installed[0].version == VERSION and is_alone:
        print("already installed", flush=True)
        return verify()
    if installed and not force:
        what = f"{names[0]} {installed[0].version} is in {installed[0].locate_file('')}"
        raise ConfigError(f"{what}; keep it, or replace it with --force")
    print(f"installing Detectron2 from {source}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        wheel = (download_wheel if source == "registry" else partial(build_wheel, source))(Path(folder))
        if installed:  # only now that there is a replacement; another name would leave the same files to two owners
            run_pip("uninstall", "--quiet", "--yes", *names)
        run_pip("install", "--quiet", "--no-deps" if source == "registry" else "--no-build-isolation", str(wheel))
    verify()


def run(arguments: list[str] | None = None, *, command: str | None = None) -> None:
    """Parse the command line and install."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    text = "'registry' or a pip requirement; the default is the environment variable DETECTRON2, else 'registry'"
    parser.add_argument("--source", default=os.environ.get("DETECTRON2") or "registry", help=text)
    parser.add_argument("--force", action="store_true", help="replace an existing Detectron2")
    add_verbose(parser)
    args = named(parser, command).parse_args(arguments)
    with one_line_errors(parser.prog, verbose=args.verbose):
        install(args.source, force=args.force)
