"""The one choice of a device."""

import pytest
import torch

from resnest_backbones.acceleration import resolve_device
from resnest_backbones.errors import ConfigError


def test_a_gpu_is_chosen_where_there_is_one():
    assert resolve_device() == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_device("cpu") == "cpu"


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("gpu", "--device must be a device such as cpu, cuda or cuda:1, got 'gpu'"),
        ("", "--device must be a device"),
        ("cuda:99", r"--device cuda:99 needs a GPU, but PyTorch finds (none|only)"),
        ("meta", "must be a compute device"),
        ("xpu", "--device xpu cannot be used here"),
    ],
)
def test_a_device_that_is_not_here_is_refused_with_the_remedy(wanted, message):
    with pytest.raises(ConfigError, match=message):
        resolve_device(wanted)
    if not torch.cuda.is_available():
        with pytest.raises(
            ConfigError, match="--device cuda needs a GPU, but PyTorch finds none; use cpu to run on the CPU"
        ):
            resolve_device("cuda")
