"""The installer of Detectron2, with pip replaced by something that downloads and unpacks a small wheel."""

import zipfile
from importlib import metadata, util
from pathlib import Path

import pytest

from resnest_backbones.commands import install_detectron2 as installer
from resnest_backbones.errors import ConfigError, ResNeStError

DIST_INFO = "sal_detectron2-0.7.2.dist-info"
WANTED = {
    "detectron2/__init__.py": "__version__ = '0.6'\n",
    "detectron2/config/_C_is_a_name_here.py": "",
    f"{DIST_INFO}/METADATA": "Metadata-Version: 2.1\nName: sal-detectron2\nVersion: 0.7.2\n",
}
PUBLISHED = WANTED | {
    "detectron2/_C.cpython-310-x86_64-linux-gnu.so": "compiled",
    "tools/__init__.py": "",
    f"{DIST_INFO}/top_level.txt": "detectron2\ntools\n",
}


def write_wheel(file: Path, files: dict[str, str]) -> None:
    names = [*files, f"{DIST_INFO}/RECORD"]
    with zipfile.ZipFile(file, "w") as wheel:
        for name, text in {**files, names[-1]: "".join(f"{name},sha256=0,1\n" for name in names)}.items():
            wheel.writestr(name, text)


@pytest.fixture
def site_packages(tmp_path, monkeypatch):
    """An empty site-packages that the installer takes for the one of this interpreter."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.setattr(installer.sysconfig, "get_path", lambda _: str(folder))
    monkeypatch.setattr(installer, "verify", lambda: None)
    return folder


@pytest.fixture
def pip_calls(site_packages, monkeypatch):
    calls = []

    def run_pip(command, *arguments):
        calls.append((command, *arguments))
        if command == "download":
            folder = Path(arguments[arguments.index("--dest") + 1])
            write_wheel(folder / "sal_detectron2-0.7.2-cp310-none-any.whl", PUBLISHED)
        elif command == "install":
            zipfile.ZipFile(arguments[-1]).extractall(site_packages)

    monkeypatch.setattr(installer, "run_pip", run_pip)
    return calls


def test_sources_are_accepted(tmp_path):
    url = "git+https://github.com/facebookresearch/detectron2.git@main#egg=detectron2"
    for source in ("registry", url, "detectron2==0.6", f"detectron2 @ {url}", str(tmp_path)):
        assert installer.check_source(f" {source}\n") == source


@pytest.mark.parametrize("source", ["", "regsitry", "torch", "-r detectron2.txt", "/no/x"])
def test_a_bad_source_is_refused_with_what_is_allowed(source):
    with pytest.raises(SystemExit) as error:
        installer.run([f"--source={source}"], command="resnest-backbones install-detectron2")
    start = "resnest-backbones install-detectron2: error: source must be 'registry' or a pip requirement of Detectron2"
    assert str(error.value).startswith(start) and str(error.value).endswith(f"got {source!r}")


def test_the_registry_gives_the_package_alone_and_a_second_run_nothing(site_packages, pip_calls):
    for _ in range(2):
        installer.install("registry")
    (dist,) = installer.find_installed()
    files = {path.relative_to(site_packages).as_posix() for path in site_packages.rglob("*") if path.is_file()}
    assert {str(path) for path in dist.files} == files == WANTED.keys() | {f"{DIST_INFO}/RECORD"}
    assert [call[0] for call in pip_calls] == ["download", "install"]
    assert {"--no-deps", "--require-hashes"} <= set(pip_calls[0])


def test_another_detectron2_is_replaced_by_force_alone_and_once_there_is_another(site_packages, pip_calls):
    (site_packages / "detectron2-0.6.dist-info").mkdir()
    about = site_packages / "detectron2-0.6.dist-info" / "METADATA"
    about.write_text("Metadata-Version: 2.1\nName: detectron2\nVersion: 0.6\n")
    with pytest.raises(ConfigError, match=r"detectron2 0\.6 is in .*--force"):
        installer.install("registry")
    assert pip_calls == []
    installer.install("registry", force=True)
    assert [call[0] for call in pip_calls] == ["download", "uninstall", "install"]
    assert pip_calls[1][-1] == "detectron2"


def test_a_requirement_of_another_package_is_refused_before_anything_is_removed(site_packages, monkeypatch):
    def run_pip(command, *arguments):
        assert command == "wheel"
        write_wheel(Path(arguments[arguments.index("--wheel-dir") + 1]) / "torch-2.0-py3-none-any.whl", {})

    monkeypatch.setattr(installer, "run_pip", run_pip)
    with pytest.raises(ConfigError, match=r"must be a Detectron2 distribution, but pip built torch-2\.0"):
        installer.install("git+https://example.org/x.git")


def test_a_failing_pip_and_a_package_that_does_not_import_are_errors(monkeypatch):
    monkeypatch.setattr(installer.sys, "executable", "false")
    with pytest.raises(ResNeStError, match="the command was: false -m pip install x"):
        installer.run_pip("install", "x")
    with pytest.raises(ResNeStError, match=r"cannot be imported.*resnest-backbones\[detectron2\]"):
        installer.verify()


def test_the_environment_is_the_default_source(monkeypatch):
    seen = []
    monkeypatch.setattr(installer, "install", lambda source, force: seen.append(source))
    monkeypatch.setenv("DETECTRON2", "detectron2==0.6")
    installer.run([])
    monkeypatch.delenv("DETECTRON2")
    installer.run([])
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
