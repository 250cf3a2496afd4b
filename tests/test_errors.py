"""An error that a user can mend is one line; its traceback is behind --verbose."""

import pytest

from resnest_backbones.errors import one_line_errors


def test_an_error_is_one_line_and_a_traceback_is_behind_verbose(capsys):
    for verbose in (False, True):
        with pytest.raises(SystemExit) as raised, one_line_errors("tool.py", ValueError, verbose=verbose):
            raise ValueError("size must be above 0, got -1")
        assert raised.value.code == "tool.py: error: size must be above 0, got -1"
        assert ("Traceback" in capsys.readouterr().err) == verbose


def test_an_error_of_another_kind_keeps_its_traceback():
    with pytest.raises(KeyError, match="lost"), one_line_errors("tool.py", ValueError):
        raise KeyError("lost")
