"""The pool of shortcuts, as compiled networks compute it."""

import pytest
import torch
from torch.nn import functional

from resnest_backbones import build
from resnest_backbones.models.layers import ShortcutPool, _pool_any_size


@pytest.mark.parametrize("stride", [2, 3])
def test_the_pool_of_a_compiled_network_is_the_same(stride):
    for height in range(1, 9):
        for width in (1, 4, 5, 6):
            x = torch.randn(2, 3, height, width, dtype=torch.float64, requires_grad=True)
            want = functional.avg_pool2d(x, stride, stride, ceil_mode=True, count_include_pad=False)
            (of_want,) = torch.autograd.grad(want.square().sum(), x)
            found = _pool_any_size(x, stride)
            (of_found,) = torch.autograd.grad(found.square().sum(), x)
            torch.testing.assert_close(found, want)
            torch.testing.assert_close(of_found, of_want)
            torch.testing.assert_close(ShortcutPool(stride)(x), want)


def test_a_compiled_trunk_pools_so():
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    net = build("resnest14", out_features=("res3",)).eval()
    net.compile(backend=backend)
    with torch.no_grad():
        net(torch.randn(1, 3, 33, 47))
    called = [node for node in graphs[0].graph.nodes if "avg_pool2d" in str(node.target)]
    assert called and not any(node.kwargs.get("ceil_mode") or node.args[4:5] == (True,) for node in called)
