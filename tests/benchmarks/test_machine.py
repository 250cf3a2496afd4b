"""A measurement says where it was taken."""

import datetime
import json
import platform
from importlib.metadata import version

import torch

from machine import describe_machine


def test_a_measurement_names_processor_threads_day_and_versions():
    about = describe_machine(torch.device("cpu"))
    assert about.keys() == {"machine", "threads", "date", "versions"}
    assert " cores, " in about["machine"] and about["threads"] == torch.get_num_threads()
    assert about["date"] == datetime.date.today().isoformat()
    assert about["versions"]["python"] == platform.python_version()
    assert about["versions"]["torch"] == version("torch")
    assert json.loads(json.dumps(about)) == about


def test_gpus_are_named_and_counted(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    assert describe_machine()["machine"] == "2 x a GPU"
    assert describe_machine(torch.device("cuda"))["machine"] == "a GPU"
