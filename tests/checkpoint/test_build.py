"""A network by its name with weights, adapted to other classes and images."""

import pytest
import torch
from torch import nn

from resnest_backbones import build, convert_state_dict
from tests.helpers import publishing


@pytest.fixture(scope="module")
def official(fill_randomly) -> dict[str, torch.Tensor]:
    """ResNeSt-14 with a classifier, in the layout of the published files."""
    return convert_state_dict(fill_randomly(build("resnest14", num_classes=7)).float().state_dict(), "official")


def test_weights_by_name_fill_the_network_in_one_line(official, tmp_path, monkeypatch):
    with publishing("resnest14", official, tmp_path, monkeypatch):
        net = build("resnest14", weights="resnest://resnest14", num_classes=7, output_stride=16)
    assert torch.equal(net.fc.weight, official["fc.weight"])
    assert torch.equal(net.stem.conv1_1.weight, official["conv1.0.weight"])


@pytest.mark.parametrize("channels", [1, 4, 6])
def test_other_classes_and_images_are_adapted_and_said(channels, official, tmp_path, caplog):
    torch.save(official, tmp_path / "file.pth")
    net = build("resnest14", weights=tmp_path / "file.pth", num_classes=2, in_channels=channels)
    assert "its classifier has 7 classes; the model's keeps its initialization" in caplog.text
    assert f"expects images with 3 channels; its first convolution is adapted to {channels}" in caplog.text
    grey = torch.rand(1, 1, 32, 32)
    want = nn.functional.conv2d(grey.expand(-1, 3, -1, -1), official["conv1.0.weight"], stride=2, padding=1)
    found = net.stem.conv1_1.convolve(grey.expand(-1, channels, -1, -1))
    if channels != 4:  # whose fourth channel takes the place of none
        torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)
    assert net.stem.conv1_1.weight.shape[1] == channels and net.fc.out_features == 2
