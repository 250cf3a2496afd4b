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
WHOLE = {path for path in WHEEL_FILES if not path.startswith("tools/") and "_C.cpython" not in path}
WHOLE = WHOLE - {f"{DIST_INFO}/top_level.txt"} | {f"{DIST_INFO}/RECORD", f"{DIST_INFO}/{installer.MARKER}"}


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
    """An empty site-packages that the installer takes for the one of this interpreter."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.setattr(installer.sysconfig, "get_path", lambda _: str(folder))
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


def test_sources_are_accepted(tmp_path):
    url = "git+https://github.com/facebookresearch/detectron2.git@main#egg=detectron2"
    for source in ("registry", url, "detectron2==0.6", f"detectron2 @ {url}", str(tmp_path)):
        assert installer.check_source(f" {source}\n") == source


@pytest.mark.parametrize("source", ["", "regsitry", "torch", "-r x", "detectron2\n--pre", "detectron2x", "/no/x"])
def test_a_bad_source_is_refused_with_what_is_allowed(source, capsys):
    assert installer.main([f"--source={source}"]) == 1
    printed = capsys.readouterr().err
    assert "source must be 'registry' or a pip requirement of Detectron2" in printed and f"got {source!r}" in printed


def test_the_registry_gives_the_package_alone_and_a_second_run_nothing_unless_forced(site_packages, pip_calls):
    assert installer.install("registry").startswith("installed: Detectron2 0.6")
    assert {path.name for path in site_packages.iterdir()} == {"detectron2", DIST_INFO}
    (dist,) = installer.find_installed([site_packages])
    assert {str(path) for path in dist.files} == files_under(site_packages) == WHOLE
    (call,) = pip_calls
    assert {"--no-deps", "--require-hashes"} <= set(call)
    assert installer.install("registry").startswith("already installed")
    assert len(pip_calls) == 1
    assert installer.install("registry", force=True).startswith("installed")
    assert len(pip_calls) > 1 and files_under(site_packages) == WHOLE


def test_another_source_replaces_the_first(site_packages, pip_calls):
    installer.install("registry")
    pip_calls.clear()
    installer.install("detectron2==0.6")
    assert installer.install("detectron2==0.6").startswith("already installed")
    assert pip_calls == [
        ["uninstall", "--quiet", "--yes", "sal-detectron2"],
        ["install", "--no-build-isolation", "detectron2==0.6"],
    ]
    installer.install("registry")
    assert files_under(site_packages) == WHOLE


def test_an_installation_by_something_else_is_kept_unless_forced(site_packages, pip_calls):
    unpack_wheel(site_packages)
    before = files_under(site_packages)
    with pytest.raises(RuntimeError, match=r"sal-detectron2 0\.7\.2 is in .*--force"):
        installer.install("registry")
    assert files_under(site_packages) == before
    installer.install("registry", force=True)
    assert files_under(site_packages) == WHOLE


def test_the_remains_of_an_interrupted_run_are_replaced(site_packages, pip_calls):
    for folder in ("detectron2", DIST_INFO, f"{installer.STAGING_PREFIX}abc"):
        (site_packages / folder).mkdir()
        (site_packages / folder / "half.txt").touch()
    installer.install("registry")
    assert files_under(site_packages) == WHOLE


@pytest.mark.parametrize("step", [(installer, "run_pip"), (installer, "record_marker"), (installer.Path, "rename")])
def test_an_interruption_leaves_no_package_that_passes_for_whole(step, site_packages, pip_calls, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*step, interrupt)
        with pytest.raises(KeyboardInterrupt):
            installer.install("registry")
    assert files_under(site_packages) == set()
    assert installer.install("registry").startswith("installed")


def test_a_wheel_of_another_shape_is_refused(site_packages, pip_calls, monkeypatch):
    monkeypatch.delitem(WHEEL_FILES, "detectron2/__init__.py")
    with pytest.raises(RuntimeError, match=r"should hold detectron2/ and one .dist-info, got \['detectron2', 'sal_"):
        installer.install("registry")


def test_a_failing_pip_and_a_package_that_does_not_import_are_errors(monkeypatch):
    monkeypatch.setattr(installer.sys, "executable", "false")
    with pytest.raises(RuntimeError, match="the command was: false -m pip install x"):
        installer.run_pip(["install", "x"])
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
