"""Imports go one way, and the trunk alone needs nothing but its own requirements."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "resnest_backbones"
# Low to high; rooms of one line do not import each other.
ORDER = (
    ("errors", "choices"),
    ("outputs",),
    ("data", "faults"),
    ("models",),
    ("acceleration", "weights"),
    ("checkpoint",),
    ("detectron2", "mmseg", "layouts"),
    ("model_zoo",),
    ("export",),
    ("predict",),
    ("train",),
    ("commands",),
    ("cli",),
    ("__init__", "__main__"),
)
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}
OUTSIDE = {path.stem for path in (ROOT / "tools").iterdir()} | {"tools", "tests", "pytest"}


def imports(file: Path) -> Iterator[str]:
    """Names of all modules that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_module_imports_its_own_room_and_lower_ones_only(file):
    own = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for name in imports(file):
        top, _, rest = name.partition(".")
        assert top not in OUTSIDE, name
        room = rest.split(".")[0]
        if top == "resnest_backbones" and room in RANK:
            assert room == own or RANK[room] < RANK[own], name


# Also what torch and torchvision need themselves.
TRUNK_ALONE = """
import sys
allowed = {"torch", "torchvision", "numpy", "filelock", "tqdm", "resnest_backbones"}
allowed |= {"typing_extensions", "sympy", "mpmath", "networkx", "jinja2", "markupsafe", "fsspec", "PIL", "torchgen"}

finders, asked = sys.meta_path[:], set()

class OnlyAllowed:
    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        asked.add(top)
        if top in allowed or top in sys.stdlib_module_names or top.startswith("_"):
            specs = (finder.find_spec(name, path, target) for finder in finders)
            return next((spec for spec in specs if spec is not None), None)

sys.meta_path[:] = [OnlyAllowed()]
import torch
import resnest_backbones as rb
from resnest_backbones import cli

assert rb.model_zoo.list() and cli.main(["list"]) in (None, 0)
spec = rb.ResNeStSpec("tiny", (1, 1, 1, 1), stem_width=8, bottleneck_width=8)
net = rb.ResNeSt(spec).eval()
torch.save(net.state_dict(), "core.pth")
assert rb.checkpoint.convert_file("core.pth", "official.pth", "official") == len(net.state_dict())
rb.load_checkpoint(net, "official.pth")
x = torch.rand(1, 3, 64, 64)
with torch.no_grad():
    torch.testing.assert_close(rb.optimize_for_inference(net)(x), net(x), rtol=1e-3, atol=1e-4)
assert not asked & {"detectron2", "mmcv", "mmengine", "mmseg"}, asked
print("done")
"""


# What the extra `demo` has and those of the frameworks may not have.
WITHOUT_DEMO = """
import sys
sys.modules |= dict.fromkeys(("skimage", "sklearn", "tabulate"))
import reproduce, visualize

for run, words in ((visualize.run, ["--help"]), (reproduce.main, ["--help"]), (reproduce.main, ["report"])):
    try:
        run(words)
    except SystemExit as ended:
        print(ended.code)
assert reproduce.main(["list", "cityscapes"]) == 0
"""


@pytest.mark.slow
def test_tools_need_no_packages_but_those_of_what_they_do(tmp_path):
    pytest.importorskip("matplotlib")
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tools'}", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    command = [sys.executable, "-W", "ignore", "-c", WITHOUT_DEMO]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "fcn_resnest101-d8" in done.stdout, done.stderr
    assert [line for line in done.stdout.splitlines() if line == "0"] == ["0", "0"]
    assert "reproduce.py: error: import of tabulate halted; None in sys.modules: pip install '.[demo]'" in done.stdout


# Run as by the shell, one after the other.
HELP = """
import runpy, sys
from pathlib import Path

sys.path.insert(0, str(Path("tools").resolve()))
from resnest_backbones.cli import main
from resnest_backbones.commands import COMMANDS

def shows_help(run, *words):
    sys.argv[1:] = [*words, "--help"]
    try:
        run()
    except SystemExit as ended:
        assert ended.code == 0, (words, ended.code)
    slow = {"torch", "torchvision", "detectron2", "mmseg", "mmcv", "mmengine", "onnxruntime"} & {*sys.modules}
    assert not slow, (run, words, slow)

for file in sorted(Path("tools").glob("*.py")):
    if "argparse" in (text := file.read_text()) or "resnest_backbones.commands" in text and "__main__" in text:
        shows_help(lambda: runpy.run_path(str(file), run_name="__main__"))
for command in ("list", "data", "run", "report"):
    shows_help(lambda: runpy.run_path("tools/reproduce.py", run_name="__main__"), command)
for words in (*((name,) for name in COMMANDS), (), ("list",), ("info",), ("download",), ("convert",), ("doctor",)):
    shows_help(main, *words)
"""


def test_help_is_shown_without_importing_pytorch_or_a_framework():
    pytest.importorskip("matplotlib")
    pytest.importorskip("nbclient")
    done = subprocess.run([sys.executable, "-c", HELP], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert done.stdout.count("usage: ") > 32


def test_names_of_the_package_are_imported_when_they_are_used():
    program = (
        "import pickle, sys, resnest_backbones as rb; from resnest_backbones import errors\n"
        "assert 'torch' not in sys.modules and {*rb.__all__} <= {*dir(rb)} and not hasattr(rb, 'nonsense')\n"
        "from resnest_backbones import *\n"
        "assert build is rb.build is rb.checkpoint.build and pickle.loads(pickle.dumps(rb.ResNeSt)) is ResNeSt\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_trunk_needs_its_own_requirements_only(tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", TRUNK_ALONE]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.endswith("done\n"), done.stderr


@pytest.mark.parametrize(("plugin", "framework"), [("detectron2", "detectron2"), ("mmseg", "mmengine")])
def test_a_plugin_whose_framework_is_missing_says_how_to_install_it(plugin, framework):
    program = f"import sys; sys.modules[{framework!r}] = None; import resnest_backbones.{plugin}"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].startswith(f"ModuleNotFoundError: {framework} is not installed: pip install ")
