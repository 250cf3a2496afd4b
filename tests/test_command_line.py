"""What all tools have in common: errors of one line, the command to run next."""

import pytest

from resnest_backbones.command_line import print_next
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


def test_the_next_command_can_be_typed_as_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    print_next("see", "tools/demo.py", "--model", tmp_path / "a model.onnx", "IMAGE")
    said, command = capsys.readouterr().out.splitlines()
    assert said == "Next, see:"
    assert command.endswith("tools/demo.py --model 'a model.onnx' IMAGE")
