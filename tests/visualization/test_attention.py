"""What is recorded of split attention."""

import numpy as np
import pytest
import torch

from resnest_backbones import build
from visualization import attention


@pytest.mark.parametrize("name", ["resnest50_fast_4s2x40d", "resnest50_fast_1s1x64d"])
def test_the_weights_are_those_that_the_blocks_give_and_are_drawn(name, monkeypatch, tmp_path):
    net = build(name).eval()
    radix = net.res2[0].conv2.radix
    given, kind = [], type(net.res2[0].conv2)
    original = kind.attention

    def attend(self, pooled):
        given.append(original(self, pooled))
        return given[-1]

    monkeypatch.setattr(kind, "attention", attend)
    with torch.no_grad(), attention.recording(net) as weights:
        net(torch.randn(1, 3, 64, 64))
    assert list(weights) == ["res2", "res3", "res4", "res5"]
    blocks = [one for stage in weights.values() for one in stage]
    assert len(blocks) == len(given) == sum(map(len, (net.res2, net.res3, net.res4, net.res5)))
    for one, want in zip(blocks, given, strict=True):
        assert one.shape[0] == radix
        np.testing.assert_array_equal(one, want[0, :, :, 0, 0].numpy())
        if radix > 1:
            np.testing.assert_allclose(one.sum(axis=0), 1, rtol=1e-5)
    before = weights["res2"][0].copy()
    with torch.no_grad():
        net(torch.ones(1, 3, 64, 64))
    np.testing.assert_array_equal(weights["res2"][0], before)  # nothing is recorded afterwards
    attention.draw_attention(weights, tmp_path / "a.png", "an image")
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_a_model_without_a_trunk_has_none():
    assert attention.find_trunk(torch.nn.Linear(1, 1)) is None
    trunk = build("resnest14")
    assert attention.find_trunk(torch.nn.Sequential(torch.nn.Linear(1, 1), trunk)) is trunk
