"""What a user installs: the contents and the requirements of the built wheel."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CORE = {"torch", "torchvision", "filelock", "numpy", "tqdm"}
TOP_LEVEL = {"models", "acceleration", "checkpoint", "weights", "detectron2", "mmseg", "export", "predict"}
TOP_LEVEL |= {"model_zoo.py", "cli.py", "choices.py", "errors.py", "__init__.py", "__main__.py", "py.typed"}
TOP_LEVEL |= {"configs", "data", "commands", "train.py", "outputs.py"}
TOP_LEVEL |= {"faults.py", "layouts.py"}  # aliases of documented names that moved
SOURCES = ["setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "README.md", "resnest_backbones", "configs"]
SOURCES += ["tests", "tools"]  # they must be there to be left out of the wheel


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files_under(folder: Path) -> set[str]:
    """Paths relative to the folder, without what running Python leaves there."""
    paths = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    return {path.as_posix() for path in paths if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the source distribution, the wheel built of it, and both unpacked; the checkout stays clean."""
    folder = tmp_path_factory.mktemp("built")
    copy = folder / "copy"
    copy.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, copy / name)
    build = "from setuptools import build_meta; build_meta.build_{}({!r})"
    run(sys.executable, "-c", build.format("sdist", str(folder / "dist")), cwd=copy)
    with tarfile.open(next((folder / "dist").glob("*.tar.gz"))) as archive:
        archive.extractall(folder)
    sdist = next(folder.glob("resnest_backbones-*")).rename(folder / "sdist")
    run(sys.executable, "-c", build.format("wheel", str(folder / "dist")), cwd=sdist)
    with zipfile.ZipFile(next((folder / "dist").glob("*.whl"))) as archive:
        archive.extractall(folder / "site")
    return folder


@pytest.fixture(scope="module")
def metadata(built) -> Message:
    return Parser().parsestr(next((built / "site").glob("*.dist-info/METADATA")).read_text(encoding="utf-8"))


def test_the_wheel_carries_what_a_user_imports_and_nothing_else(built):
    in_wheel = files_under(built / "site")
    package = {f"resnest_backbones/{path}" for path in files_under(ROOT / "resnest_backbones")}
    configs = {path for path in files_under(ROOT / "configs") if not re.search(r"/small|/demo/|demo[^/]*$", path)}
    files = {path for path in in_wheel if ".dist-info/" not in path}
    assert files == package | {f"resnest_backbones/configs/{path}" for path in configs}
    assert {path.split("/")[1] for path in files} == TOP_LEVEL
    assert any(re.search(r"\.dist-info/(licenses/)?LICENSE$", path) for path in in_wheel)


def test_the_sdist_carries_tools_and_tests(built):
    wanted = {f"{name}/{path}" for name in ("tools", "tests") for path in files_under(ROOT / name)}
    assert files_under(built / "sdist") >= wanted


@pytest.mark.parametrize(
    ("framework", "names", "architecture"),
    [
        ("detectron2", ["faster_rcnn_resnest50_fpn_1x", "mask_cascade_rcnn_resnest50_fpn_1x_lazy"], "GeneralizedRCNN"),
        ("mmseg", ["fcn_resnest50-d8_4xb4-paper_ade20k-480x480"], "EncoderDecoder"),
    ],
)
@pytest.mark.slow
def test_an_installed_copy_loads_its_own_configs_and_builds_models(framework, names, architecture, built, tmp_path):
    pytest.importorskip(framework)
    code = (
        f"import sys; sys.path.insert(0, {str(built / 'site')!r})\n"
        "from pathlib import Path\n"
        "from resnest_backbones import model_zoo\n"
        f"folder = model_zoo.config_root() / {framework!r}\n"
        "names = [n for n in model_zoo.list() if Path(model_zoo.get_config_file(n)).is_relative_to(folder)]\n"
        f"assert set({names}) <= {{*names}} and all(model_zoo.get_config(n) for n in names)\n"
        f"print(folder, *(type(model_zoo.get(n, pretrained_backbone=False)).__name__ for n in {names}))"
    )
    printed = run(sys.executable, "-W", "ignore", "-c", code, cwd=tmp_path).split()[-len(names) - 1 :]
    assert printed == [str(built / "site/resnest_backbones/configs" / framework), *[architecture] * len(names)]


def test_the_core_requires_no_framework(metadata):
    requirements = metadata.get_all("Requires-Dist")
    core = {re.match(r"[\w.-]+", line)[0] for line in requirements if "extra ==" not in line}
    assert core == CORE
    assert metadata["Name"] == "resnest-backbones"
    assert set(metadata["Requires-Python"].split(",")) == {">=3.10", "<3.14"}


def test_the_extras_are_those_promised(metadata):
    extras = {"detectron2", "mmseg", "demo", "hub", "export", "pretrain", "notebooks", "docs", "dev"}
    assert set(metadata.get_all("Provides-Extra")) == extras
    names: dict[str, set[str]] = {}
    for line in metadata.get_all("Requires-Dist"):
        if match := re.search(r'extra == "(\w+)"', line):
            names.setdefault(match[1], set()).add(re.match(r"[\w.-]+", line)[0])
    assert names["mmseg"] == {"onedl-mmcv", "onedl-mmengine", "onedl-mmsegmentation"}
    assert names["demo"] >= {"jinja2", "matplotlib", "opencv-python", "pillow", "pycocotools", "scikit-image"}
    assert names["export"] == {"onnx", "onnxruntime", "onnxscript", "pycocotools", "tabulate"}
    assert names["detectron2"] >= {"cloudpickle", "fvcore", "hydra-core", "omegaconf", "pycocotools", "yacs"}
    assert not {name for name in names["detectron2"] if "detectron2" in name}, "no wheel of Detectron2 is published"


def test_an_index_would_take_what_is_built(built):
    """Metadata and the README's markup, by the index's own checks."""
    pytest.importorskip("twine")
    said = run(sys.executable, "-m", "twine", "check", "--strict", *(built / "dist").iterdir(), cwd=built)
    assert said.count("PASSED") == 2


def test_metadata_and_citation_are_of_this_version(metadata):
    import yaml

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    version = re.search(r'^__version__ = "([^"]+)"$', (ROOT / "resnest_backbones" / "__init__.py").read_text(), re.M)[1]
    assert citation["version"] == metadata["Version"] == version and citation["license"] == "Apache-2.0"
    assert len(citation["preferred-citation"]["authors"]) == 12
