"""An error that a user can mend is one line; its traceback is behind --verbose."""

import pytest
from torch.multiprocessing import ProcessRaisedException, start_processes

from resnest_backbones.errors import CheckpointError, WeightsError, one_line_errors


def test_an_error_is_one_line_and_a_traceback_is_behind_verbose(capsys):
    for verbose in (False, True):
        with pytest.raises(SystemExit) as raised, one_line_errors("tool.py", ValueError, verbose=verbose):
            raise ValueError("size must be above 0, got -1")
        assert raised.value.code == "tool.py: error: size must be above 0, got -1"
        assert ("Traceback" in capsys.readouterr().err) == verbose


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
