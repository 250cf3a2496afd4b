"""Install Detectron2 into the environment of the Python that runs this file.

    python tools/install_detectron2.py
    python tools/install_detectron2.py --source git+https://github.com/facebookresearch/detectron2.git

No wheel of Detectron2 is published under its own name. Its Python code, as of April 2024, is in the wheel of
sal-detectron2, which says that it is for Python 3.10 only and carries two things no environment should get: a top-level
package `tools`, and operators compiled against one release of PyTorch. The source `registry`, the default, takes the
package `detectron2` alone: without the compiled operators (rotated boxes, Detectron2's own deformable convolution), it
works on any Python and any PyTorch. Any other source is a requirement of pip, built against the PyTorch that is
installed.

Install what Detectron2 itself needs first: pip install "resnest-backbones[detectron2]".
"""

import argparse
import csv
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib import metadata
from pathlib import Path

WHEEL = "sal-detectron2==0.7.2"
WHEEL_SHA256 = "491af0c7f79bdb2d178e46f6cb16a97c4ac968d45c41ea3f6b6435d59bbee561"
REGISTRY_OPTIONS = [
    *("--no-deps", "--upgrade", "--only-binary", ":all:", "--require-hashes"),
    *("--python-version", "3.10", "--implementation", "cp", "--abi", "none", "--platform", "any"),
]
MARKER = "INSTALLED_FROM"  # a file in the dist-info; it names the source, and is there only after a whole installation
STAGING_PREFIX = ".detectron2-install-"


def check_source(source: str) -> str:
    """Return `registry` or a requirement of Detectron2 that pip takes (a URL, an existing path, a name), stripped."""
    text = source.strip()
    is_url = re.match(r"[a-z][a-z0-9+.-]*://\S+$", text, flags=re.IGNORECASE)
    is_named = re.match(r"[a-z0-9_.-]*detectron2(?![a-z0-9_.-])", text, flags=re.IGNORECASE)
    is_option = text.startswith("-") or "\n" in text
    if not is_option and (text == "registry" or is_url or is_named or (text and Path(text).exists())):
        return text
    raise ValueError(
        "source must be 'registry' or a pip requirement of Detectron2 (a URL such as git+https://github.com/"
        f"facebookresearch/detectron2.git, an existing path, or a name such as detectron2==0.6), got {source!r}"
    )


def find_installed(folders: list[Path]) -> list[metadata.Distribution]:
    """Return the distributions of Detectron2 in these site-packages folders, whatever their exact name."""
    found = metadata.distributions(path=[str(folder) for folder in dict.fromkeys(folders)])
    return [dist for dist in found if "detectron2" in (dist.metadata["Name"] or "").lower()]


def is_wanted(path: str) -> bool:
    """Tell whether a path of the wheel, relative to site-packages, belongs in the environment."""
    top, _, rest = path.partition("/")
    if top.endswith(".dist-info"):
        return rest != "top_level.txt"  # it names `tools`
    return top == "detectron2" and not (rest.startswith("_C.") and rest.endswith((".so", ".pyd")))


def record_marker(dist_info: Path, marker: str) -> None:
    """Write the marker, and bring RECORD up to date, by which pip uninstalls."""
    (dist_info / MARKER).write_text(marker + "\n", encoding="utf-8")
    record = dist_info / "RECORD"
    with record.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if row and (dist_info.parent / row[0]).exists()]
    with record.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([*rows, [f"{dist_info.name}/{MARKER}", "", ""]])


def run_pip(arguments: list[str]) -> None:
    """Run pip of this interpreter; it prints why it fails."""
    command = [sys.executable, "-m", "pip", *arguments]
    if subprocess.run(command, check=False).returncode != 0:
        raise RuntimeError(f"pip failed, see above; the command was: {' '.join(command)}")


def remove(dists: list[metadata.Distribution]) -> None:
    """Uninstall these distributions."""
    if dists:
        run_pip(["uninstall", "--quiet", "--yes", *(dist.metadata["Name"] for dist in dists)])


def install_registry(site_packages: Path, marker: str) -> None:
    """Install the package from the pinned wheel; the dist-info is renamed into place last, when the rest is whole."""
    for stale in site_packages.glob(STAGING_PREFIX + "*"):
        shutil.rmtree(stale, ignore_errors=True)
    # Inside site-packages, and so on the same file system: there a rename is atomic.
    with tempfile.TemporaryDirectory(prefix=STAGING_PREFIX, dir=site_packages) as staging:
        tree, requirements = Path(staging) / "tree", Path(staging) / "requirements.txt"
        requirements.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
        run_pip(["install", "--quiet", *REGISTRY_OPTIONS, "--target", str(tree), "-r", str(requirements)])
        dist_infos = list(tree.glob("*.dist-info"))
        if len(dist_infos) != 1 or not (tree / "detectron2" / "__init__.py").is_file():
            raise RuntimeError(f"{WHEEL} should hold detectron2/ and one .dist-info, got {sorted(os.listdir(tree))}")
        for path in list(tree.rglob("*")):
            if path.is_file() and not is_wanted(path.relative_to(tree).as_posix()):
                path.unlink()
        record_marker(dist_infos[0], marker)

        remove(find_installed([site_packages]))
        for name in ("detectron2", dist_infos[0].name):
            target = site_packages / name
            if target.exists():  # left by an interrupted run, or put there by hand
                target.rename(Path(staging) / f"previous-{name}")
            (tree / name).rename(target)


def install_requirement(source: str, folders: list[Path]) -> None:
    """Install what pip makes of the requirement, built against the PyTorch that is installed."""
    remove(find_installed(folders))
    run_pip(["install", "--no-build-isolation", source])
    dists = find_installed(folders)
    if not dists:
        raise RuntimeError(f"pip installed {source!r}, which is not a distribution of Detectron2")
    for dist in dists:
        metadata_file = next(path for path in dist.files or [] if path.name == "METADATA")
        record_marker(Path(str(dist.locate_file(metadata_file))).parent, source)


def verify() -> str:
    """Import the engine in a fresh interpreter; return the version and the folder of the package."""
    code = "import detectron2.engine as e, detectron2 as d; print(d.__version__, d.__path__[0])"
    command = [sys.executable, "-W", "ignore", "-c", code]
    with tempfile.TemporaryDirectory() as folder:  # an empty one, since Python looks for modules there first
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(
            "Detectron2 is installed but does not import. If a package is missing below, "
            f'pip install "resnest-backbones[detectron2]" brings it.\n{done.stderr.strip()}'
        )
    version, folder = done.stdout.strip().splitlines()[-1].split(" ", 1)
    return f"Detectron2 {version} in {folder}"


def install(source: str, *, force: bool = False) -> str:
    """Install Detectron2 from a source unless it is there already; return a line that says what was done."""
    source = check_source(source)
    marker = f"{source} {WHEEL} sha256:{WHEEL_SHA256}" if source == "registry" else source
    folders = [Path(sysconfig.get_path("purelib")), Path(sysconfig.get_path("platlib"))]
    installed = find_installed(folders)
    markers = [dist.read_text(MARKER) for dist in installed]
    if not force and markers == [marker + "\n"]:
        return f"already installed: {verify()}"
    if not force and None in markers:
        dist = installed[markers.index(None)]
        raise RuntimeError(
            f"{dist.metadata['Name']} {dist.version} is in {dist.locate_file('')}, and this tool did not put it there; "
            "keep it, or replace it with --force"
        )
    if not os.access(folders[0], os.W_OK):
        raise RuntimeError(f"{folders[0]} is not writable; run this with the Python of a virtual environment")
    print(f"installing Detectron2 from {marker}", flush=True)
    if source == "registry":
        remove([dist for dist in installed if Path(str(dist.locate_file(""))) != folders[0]])
        install_registry(folders[0], marker)
    else:
        install_requirement(source, folders)
    return f"installed: {verify()}"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(
        description="Install Detectron2 into the environment of this Python.",
        epilog="example: python tools/install_detectron2.py",
    )
    parser.add_argument(
        "--source",
        default=os.environ.get("DETECTRON2") or "registry",
        help="'registry' or a pip requirement; the default is the environment variable DETECTRON2, else 'registry'",
    )
    parser.add_argument("--force", action="store_true", help="install even if some Detectron2 is there already")
    options = parser.parse_args(arguments)
    try:
        print(install(options.source, force=options.force))
    except (ValueError, RuntimeError) as error:
        print(f"install_detectron2: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
