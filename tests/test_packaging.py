"""What a user installs: the contents and the requirements of the built wheel, and an import free of frameworks."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FRAMEWORKS = {"detectron2", "mmseg", "mmcv", "mmengine"}
CORE = {"torch", "torchvision", "filelock", "numpy", "tqdm"}
TOP_LEVEL = {"models", "acceleration", "checkpoint", "weights.py", "detectron2", "mmseg", "export", "predict"}
TOP_LEVEL |= {"model_zoo.py", "cli.py", "data.py", "errors.py", "__init__.py", "__main__.py", "py.typed", "configs"}
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
def sdist(tmp_path_factory) -> Path:
    """The unpacked source distribution, built in a copy so that the checkout stays clean."""
    tmp_path = tmp_path_factory.mktemp("sdist")
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, copy / name)
    build = f"from setuptools.build_meta import build_sdist; build_sdist({str(tmp_path)!r})"
    run(sys.executable, "-c", build, cwd=copy)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "unpacked")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    return unpacked


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory) -> Iterator[zipfile.ZipFile]:
    """The wheel built from the source distribution, so that both carry what is asserted."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    run(sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", folder, sdist, cwd=folder)
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.fixture(scope="module")
def wheel_metadata(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return Parser().parsestr(wheel.read(name).decode())


def test_the_wheel_carries_the_package_and_the_configs_of_published_recipes(wheel):
    package = {f"resnest_backbones/{path}" for path in files_under(ROOT / "resnest_backbones")}
    configs = {path for path in files_under(ROOT / "configs") if not re.search(r"/small|/demo/|demo[^/]*$", path)}
    assert "resnest_backbones/py.typed" in package
    in_wheel = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert in_wheel == package | {f"resnest_backbones/configs/{path}" for path in configs}


def test_the_wheel_carries_what_a_user_imports_and_nothing_else(wheel):
    """One question, one room: what only a checkout or only tests need is not among them."""
    parts = {name.split("/")[1] for name in wheel.namelist() if name.startswith("resnest_backbones/")}
    assert parts == TOP_LEVEL
    assert {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" not in name} == {"resnest_backbones"}


def test_the_wheel_carries_the_licence(wheel):
    assert any(re.search(r"\.dist-info/(licenses/)?LICENSE$", name) for name in wheel.namelist())


def test_an_installed_copy_finds_its_own_configs(wheel, tmp_path):
    wheel.extractall(tmp_path / "site")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        "from resnest_backbones import model_zoo; print(model_zoo.config_root())"
    )
    assert Path(run(sys.executable, "-c", code, cwd=tmp_path).strip()) == tmp_path / "site/resnest_backbones/configs"


@pytest.mark.parametrize(
    ("framework", "name"),
    [
        ("detectron2", "faster_rcnn_resnest50_fpn_1x"),
        ("detectron2", "mask_cascade_rcnn_resnest50_fpn_1x_lazy"),
        ("mmseg", "fcn_resnest50-d8_4xb4-paper_ade20k-480x480"),
    ],
)
def test_an_installed_copy_loads_its_configs_and_builds_a_model(framework, name, wheel, tmp_path):
    pytest.importorskip(framework)
    wheel.extractall(tmp_path / "site")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        "from pathlib import Path\n"
        "from resnest_backbones import model_zoo\n"
        f"folder = model_zoo.config_root() / {framework!r}\n"
        "names = [n for n in model_zoo.list() if Path(model_zoo.get_config_file(n)).is_relative_to(folder)]\n"
        "configs = [model_zoo.get_config(n) for n in names]\n"
        f"assert {name!r} in names and all(configs)\n"
        f"print(type(model_zoo.get({name!r}, pretrained_backbone=False)).__name__)"
    )
    architecture = {"detectron2": "GeneralizedRCNN", "mmseg": "EncoderDecoder"}[framework]
    assert run(sys.executable, "-W", "ignore", "-c", code, cwd=tmp_path).split()[-1] == architecture


def test_the_sdist_carries_tools_and_tests(sdist):
    assert files_under(sdist) >= {f"{name}/{path}" for name in ("tools", "tests") for path in files_under(ROOT / name)}


def test_the_core_requires_no_framework(wheel_metadata):
    requirements = wheel_metadata.get_all("Requires-Dist")
    core = {re.match(r"[\w.-]+", line)[0] for line in requirements if "extra ==" not in line}
    assert core == CORE
    assert wheel_metadata["Name"] == "resnest-backbones"
    assert set(wheel_metadata["Requires-Python"].split(",")) == {">=3.10", "<3.14"}


def test_the_extras_are_those_promised(wheel_metadata):
    assert set(wheel_metadata.get_all("Provides-Extra")) == {
        "detectron2",
        "mmseg",
        "demo",
        "export",
        "notebooks",
        "docs",
        "dev",
    }
    names: dict[str, set[str]] = {}
    for line in wheel_metadata.get_all("Requires-Dist"):
        if match := re.search(r'extra == "(\w+)"', line):
            names.setdefault(match[1], set()).add(re.match(r"[\w.-]+", line)[0])
    assert names["mmseg"] == {"onedl-mmcv", "onedl-mmengine", "onedl-mmsegmentation"}
    assert names["demo"] >= {"jinja2", "matplotlib", "opencv-python", "pillow", "pycocotools", "scikit-image"}
    assert names["export"] == {"onnx", "onnxruntime", "onnxscript", "tabulate"}
    assert names["detectron2"] >= {"cloudpickle", "fvcore", "hydra-core", "omegaconf", "pycocotools", "yacs"}
    assert not {name for name in names["detectron2"] if "detectron2" in name}, "no wheel of Detectron2 is published"


def test_the_version_is_that_of_the_package(wheel_metadata):
    source = (ROOT / "resnest_backbones" / "__init__.py").read_text()
    assert f'__version__ = "{wheel_metadata["Version"]}"' in source


def test_importing_the_package_imports_no_framework():
    code = "import sys, resnest_backbones; print(*{name.split('.')[0] for name in sys.modules})"
    imported = set(run(sys.executable, "-c", code, cwd=ROOT).split())
    assert "resnest_backbones" in imported
    assert imported & FRAMEWORKS == set()


def test_an_index_would_take_what_is_built(sdist, tmp_path):
    """Metadata and the README's markup, by the index's own checks."""
    pytest.importorskip("twine")
    folder = tmp_path / "dist"
    build = f"from setuptools.build_meta import build_sdist; build_sdist({str(folder)!r})"
    folder.mkdir()
    run(sys.executable, "-c", build, cwd=sdist)
    said = run(sys.executable, "-m", "twine", "check", "--strict", *folder.iterdir(), cwd=folder)
    assert "PASSED" in said


def test_the_citation_is_of_this_version():
    import yaml

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    version = re.search(r'^__version__ = "([^"]+)"$', (ROOT / "resnest_backbones" / "__init__.py").read_text(), re.M)[1]
    assert citation["version"] == version and citation["license"] == "Apache-2.0"
    assert len(citation["preferred-citation"]["authors"]) == 12
