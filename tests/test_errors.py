"""An error that a user can mend is one line; its traceback is behind --verbose."""

import shlex
import subprocess
import sys

import pytest
from torch.multiprocessing import ProcessRaisedException, start_processes

from resnest_backbones.errors import (
    CheckpointError,
    ConfigError,
    WeightsError,
    config_errors,
    did_you_mean,
    one_line_errors,
)
from resnest_backbones.outputs import how_to_resume
from tests.helpers import environment


def test_an_error_is_one_line_and_a_traceback_is_behind_verbose(capsys):
    for verbose in (False, True):
        with pytest.raises(SystemExit) as raised, one_line_errors("tool.py", ValueError, verbose=verbose):
            raise ValueError("size must be above 0, got -1")
        assert raised.value.code == "tool.py: error: size must be above 0, got -1"
        assert ("Traceback" in capsys.readouterr().err) == verbose


def test_a_missing_package_is_one_line():
    with (
        pytest.raises(SystemExit, match="tool.py: error: detectron2 is not installed: pip"),
        one_line_errors("tool.py"),
    ):
        raise ModuleNotFoundError("detectron2 is not installed: pip install it", name="detectron2")


def test_a_reader_that_has_seen_enough_ends_a_tool_silently():
    program = "from resnest_backbones.errors import one_line_errors\n"
    program += "with one_line_errors('tool.py'):\n    for line in range(100000):\n        print(line)"
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(program)} | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment(), check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("0\n", "", 141)


def test_an_error_of_another_kind_keeps_its_traceback():
    with pytest.raises(KeyError, match="lost"), one_line_errors("tool.py", ValueError):
        raise KeyError("lost")


def fail(rank: int, kind: str) -> None:
    """End a process as a training may end."""
    try:
        raise WeightsError("no connection")
    except WeightsError as error:
        errors = {"disk": PermissionError(13, "Permission denied", "out"), "bug": KeyError("lost")}
        raise errors.get(kind, CheckpointError("cannot be loaded:\n  res2")) from error


@pytest.mark.parametrize("kind", ["disk", "chained", "bug"])
def test_an_error_of_another_process_is_one_line_if_it_is_an_expected_one(kind):
    with pytest.raises((SystemExit, ProcessRaisedException)) as raised, one_line_errors("t", ProcessRaisedException):
        start_processes(fail, (kind,), nprocs=2, start_method="fork")
    wanted = {"disk": "[Errno 13] Permission denied: 'out'", "chained": "cannot be loaded:\n  res2"}
    if kind == "bug":
        assert "KeyError: 'lost'" in str(raised.value) and "Traceback" in str(raised.value)
    else:
        assert raised.value.code == f"t: error: {wanted[kind]}"


def test_ctrl_c_is_one_line_that_says_how_to_go_on(capsys, tmp_path):
    def interrupted():
        return how_to_resume(tmp_path)

    def line():
        with pytest.raises(SystemExit) as raised, one_line_errors("train.py", interrupted=interrupted):
            raise KeyboardInterrupt
        assert raised.value.code == 130
        return capsys.readouterr().err.strip()

    assert line() == f"train.py: interrupted; no checkpoint was saved in {tmp_path} yet; the same command starts over"
    for named in ("model_0000004.pth", str(tmp_path / "model_0000004.pth")):  # of Detectron2, and of MMEngine
        (tmp_path / "last_checkpoint").write_text(named)
        file = tmp_path / "model_0000004.pth"
        assert line().endswith(f"the last checkpoint is {file}: to continue, rerun the same command with --resume")
    (tmp_path / "last_checkpoint").write_text("")  # interrupted while it was written
    file.touch()
    assert line().endswith(f"the last checkpoint is {file}: to continue, rerun the same command with --resume")
    with pytest.raises(SystemExit), one_line_errors("test.py"):
        raise KeyboardInterrupt
    assert capsys.readouterr().err == "\ntest.py: interrupted\n"


def test_the_nearest_names_are_found_in_any_case():
    assert did_you_mean("resnest51", ["resnest50", "other"], "") == "did you mean resnest50?"
    assert did_you_mean("solver.max_iter", ["SOLVER.MAX_ITER"], "") == "did you mean SOLVER.MAX_ITER?"
    assert did_you_mean("zzz", ["resnest50"], "there are others") == "there are others"


def test_what_a_framework_raises_of_a_config_is_one_line():
    for error in (KeyError("no\n  such"), AssertionError("no such"), TypeError("no such"), ValueError("no such")):
        with pytest.raises(ConfigError, match="^the config cannot be used: NO SUCH$"), config_errors(str.upper):
            raise error
    with pytest.raises(ConfigError, match="used: AssertionError at raise AssertionError"), config_errors(str):
        raise AssertionError
    with pytest.raises(CheckpointError, match="of ours"), config_errors(str.upper):
        raise CheckpointError("of ours")
    with pytest.raises(RuntimeError, match="a bug"), config_errors(str.upper):
        raise RuntimeError("a bug")
