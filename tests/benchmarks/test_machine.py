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
