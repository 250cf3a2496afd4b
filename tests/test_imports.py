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
    ("errors",),
    ("data", "faults"),
    ("models",),
    ("acceleration", "weights"),
    ("checkpoint",),
    ("detectron2", "mmseg", "layouts"),
    ("model_zoo",),
    ("export",),
    ("predict",),
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


def test_tools_need_no_packages_but_those_of_what_they_do(tmp_path):
    pytest.importorskip("matplotlib")
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tools'}", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    command = [sys.executable, "-W", "ignore", "-c", WITHOUT_DEMO]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "fcn_resnest101-d8" in done.stdout, done.stderr
    assert [line for line in done.stdout.splitlines() if line == "0"] == ["0", "0"]
    assert "reproduce.py: error: import of tabulate halted; None in sys.modules: pip install '.[demo]'" in done.stdout


def test_the_trunk_needs_its_own_requirements_only(tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", TRUNK_ALONE]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.endswith("done\n"), done.stderr
