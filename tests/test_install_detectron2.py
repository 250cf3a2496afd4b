"""The installer of Detectron2, with pip replaced by something that builds the tree which the wheel unpacks to."""

import csv
from importlib import metadata, util
from pathlib import Path

import pytest

import install_detectron2 as installer

DIST_INFO = "sal_detectron2-0.7.2.dist-info"
WHEEL_FILES = {
    "detectron2/__init__.py": "__version__ = '0.6'\n",
    "detectron2/engine/__init__.py": "",
    "detectron2/_C.cpython-310-x86_64-linux-gnu.so": "compiled",
    "detectron2/config/_C_is_a_name_here.py": "",
    "tools/__init__.py": "",
    "tools/train_net.py": "",
    f"{DIST_INFO}/METADATA": "Metadata-Version: 2.1\nName: sal-detectron2\nVersion: 0.7.2\n",
    f"{DIST_INFO}/top_level.txt": "detectron2\ntools\n",
}
KEPT = {path for path in WHEEL_FILES if not path.startswith("tools/") and "_C.cpython" not in path}


def unpack_wheel(tree: Path) -> None:
    for name, text in WHEEL_FILES.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with (tree / DIST_INFO / "RECORD").open("w", newline="") as file:
        csv.writer(file).writerows([name, "sha256=0", "1"] for name in [*WHEEL_FILES, f"{DIST_INFO}/RECORD"])


def files_under(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def site_packages(tmp_path, monkeypatch):
    """An empty site-packages that the installer takes for the one of this interpreter, and the calls of pip."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.setattr(installer.sysconfig, "get_paths", lambda: {"purelib": str(folder), "platlib": str(folder)})
    monkeypatch.setattr(installer, "verify", lambda: "Detectron2 0.6 in site-packages")
    return folder


@pytest.fixture
def pip_calls(site_packages, monkeypatch):
    calls = []

    def run_pip(arguments):
        calls.append(arguments)
        if "--target" in arguments:
            unpack_wheel(Path(arguments[arguments.index("--target") + 1]))
        elif arguments[0] == "install":
            unpack_wheel(site_packages)
        elif arguments[0] == "uninstall":
            for dist in installer.find_installed([site_packages]):
                for file in dist.files:
                    Path(dist.locate_file(file)).unlink()
                (site_packages / DIST_INFO).rmdir()

    monkeypatch.setattr(installer, "run_pip", run_pip)
    return calls


@pytest.mark.parametrize(
    "source",
    [
        "registry",
        "git+https://github.com/facebookresearch/detectron2.git",
        "git+https://github.com/facebookresearch/detectron2.git@main#egg=detectron2",
        "detectron2==0.6",
        "detectron2 @ git+https://github.com/facebookresearch/detectron2.git",
        "sal-detectron2==0.7.2",
    ],
)
def test_a_source_is_accepted(source):
    assert installer.check_source(f" {source}\n") == source


def test_an_existing_path_is_a_source(tmp_path):
    assert installer.check_source(str(tmp_path)) == str(tmp_path)


@pytest.mark.parametrize(
    "source",
    ["", " ", "regsitry", "Registry", "torch", "--index-url", "-r x", "detectron2\n--pre", "detectron2x", "/no/x"],
)
def test_a_bad_source_is_refused_with_what_is_allowed(source, capsys):
    with pytest.raises(ValueError, match=r"source must be 'registry' or a pip requirement of Detectron2"):
        installer.check_source(source)
    assert installer.main([f"--source={source}"]) == 1
    assert f"got {source!r}" in capsys.readouterr().err


def test_the_registry_gives_the_package_alone(site_packages, pip_calls):
    assert installer.install("registry").startswith("installed: Detectron2 0.6")
    assert files_under(site_packages) == KEPT | {f"{DIST_INFO}/RECORD", f"{DIST_INFO}/{installer.MARKER}"}
    assert not list(site_packages.glob(installer.STAGING_PREFIX + "*"))
    (dist,) = installer.find_installed([site_packages])
    assert {str(path) for path in dist.files} == files_under(site_packages), "RECORD and the files differ"
    assert dist.read_text("top_level.txt") == "detectron2\n"
    (call,) = pip_calls
    assert {"--no-deps", "--require-hashes"} <= set(call)


def test_a_second_run_installs_nothing(site_packages, pip_calls):
    installer.install("registry")
    pip_calls.clear()
    assert installer.install("registry").startswith("already installed")
    assert pip_calls == []


def test_force_installs_again(site_packages, pip_calls):
    installer.install("registry")
    before = files_under(site_packages)
    assert installer.install("registry", force=True).startswith("installed")
    assert files_under(site_packages) == before


def test_another_source_replaces_the_first(site_packages, pip_calls):
    installer.install("registry")
    pip_calls.clear()
    installer.install("detectron2==0.6")
    assert pip_calls == [
        ["uninstall", "--quiet", "--yes", "sal-detectron2"],
        ["install", "--no-build-isolation", "detectron2==0.6"],
    ]
    pip_calls.clear()
    assert installer.install("detectron2==0.6").startswith("already installed")
    assert pip_calls == []
    installer.install("registry")
    assert files_under(site_packages) == KEPT | {f"{DIST_INFO}/RECORD", f"{DIST_INFO}/{installer.MARKER}"}


def test_an_installation_by_something_else_is_kept_unless_forced(site_packages, pip_calls):
    unpack_wheel(site_packages)
    before = files_under(site_packages)
    with pytest.raises(RuntimeError, match=r"sal-detectron2 0\.7\.2 is in .*--force"):
        installer.install("registry")
    assert files_under(site_packages) == before
    installer.install("registry", force=True)
    assert not (site_packages / "detectron2" / "_C.cpython-310-x86_64-linux-gnu.so").exists()
    assert not files_under(site_packages / "tools")


def test_the_remains_of_an_interrupted_run_are_replaced(site_packages, pip_calls):
    (site_packages / "detectron2").mkdir()
    (site_packages / "detectron2" / "half.py").touch()
    (site_packages / DIST_INFO).mkdir()
    (site_packages / DIST_INFO / "half.txt").touch()
    (site_packages / f"{installer.STAGING_PREFIX}abc").mkdir()
    installer.install("registry")
    assert files_under(site_packages) == KEPT | {f"{DIST_INFO}/RECORD", f"{DIST_INFO}/{installer.MARKER}"}
    assert not list(site_packages.glob(installer.STAGING_PREFIX + "*"))


@pytest.mark.parametrize("step", ["pip", "strip", "rename"])
def test_an_interruption_leaves_no_package_that_passes_for_whole(step, site_packages, pip_calls, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        target, name = {
            "pip": (installer, "run_pip"),
            "strip": (installer, "strip_tree"),
            "rename": (installer.Path, "rename"),
        }[step]
        patch.setattr(target, name, interrupt)
        with pytest.raises(KeyboardInterrupt):
            installer.install("registry")
    assert files_under(site_packages) == set()
    assert installer.install("registry").startswith("installed")


def test_a_wheel_of_another_shape_is_refused(tmp_path):
    (tmp_path / "something").mkdir()
    with pytest.raises(RuntimeError, match=r"should hold detectron2/ and one .dist-info, got \['something'\]"):
        installer.strip_tree(tmp_path, "registry")


def test_a_failing_pip_is_an_error_that_names_the_command(monkeypatch):
    monkeypatch.setattr(installer.sys, "executable", "false")
    with pytest.raises(RuntimeError, match="the command was: false -m pip install x"):
        installer.run_pip(["install", "x"])


def test_a_package_that_does_not_import_is_an_error(monkeypatch):
    monkeypatch.setattr(installer.sys, "executable", "false")
    with pytest.raises(RuntimeError, match=r"does not import.*resnest-backbones\[detectron2\]"):
        installer.verify()


def test_the_environment_is_the_default_source(site_packages, monkeypatch):
    seen = []
    monkeypatch.setattr(installer, "install", lambda source, force: seen.append(source) or "")
    monkeypatch.setenv("DETECTRON2", "detectron2==0.6")
    installer.main([])
    monkeypatch.delenv("DETECTRON2")
    installer.main([])
    assert seen == ["detectron2==0.6", "registry"]


@pytest.mark.skipif(util.find_spec("detectron2") is None, reason="Detectron2 is not installed")
def test_the_present_environment_got_neither_the_stray_package_nor_the_operators():
    try:
        dist = metadata.distribution("sal-detectron2")
    except metadata.PackageNotFoundError:
        pytest.skip("Detectron2 is here from another source than the registry")
    folder = Path(dist.locate_file(""))
    assert not (folder / "tools").exists()
    assert not list((folder / "detectron2").glob("_C*"))
