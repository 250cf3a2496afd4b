"""On a GPU every network computes what it computes on the CPU, with the paths that save memory or time too.

Run by `make gpu`, and by it alone. RESNEST_TEST_DEVICE=cpu rehearses the tests without a GPU; RESNEST_TEST_QUICK=1
takes two of the networks. They need PyTorch and torchvision, no framework.
"""

import copy
import os
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, distributed, nn
from torchvision.ops import FrozenBatchNorm2d

from resnest_backbones import ResNeSt, build, list_variants, optimize_for_inference
from resnest_backbones.models.norms import synchronise_on_cpu
from tests.acceleration.test_inference import trained
from tests.models.process_group import run_processes
from tests.models.test_norms import SPEC
from tests.models.test_recompute import assert_same_step, set_recompute, step, with_offsets

DEVICE = torch.device(os.environ.get("RESNEST_TEST_DEVICE", "cuda"))
QUICK = os.environ.get("RESNEST_TEST_QUICK") == "1"
NETWORKS = ["resnest14", "resnest50_fast_4s2x40d"] if QUICK else list_variants()
FEW_BITS = [torch.bfloat16, torch.float16]
DCN = {"deform_stages": ("res3", "res5"), "deform_modulated": True}

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE.type == "cuda" and not torch.cuda.is_available(), reason="there is no GPU"),
]


@pytest.fixture(autouse=True)
def all_bits_of_float32() -> Iterator[None]:
    switches = (torch.backends.cudnn, torch.backends.cuda.matmul)  # which pytest's monkeypatch cannot put back
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = False
    yield
    for switch, value in zip(switches, before, strict=True):
        switch.allow_tf32 = value


def images(dtype: torch.dtype = torch.float32) -> Tensor:
    x = torch.randn(2, 3, 64, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return x.to(dtype=dtype)


def tiny(**options: object) -> nn.Module:
    return with_offsets(ResNeSt(SPEC, **options))


def errors(found: dict[str, Tensor], exact: dict[str, Tensor]) -> dict[str, float]:
    """Relative errors in the Euclidean norm."""
    assert found.keys() == exact.keys()
    return {k: float((found[k].double().cpu() - v.cpu()).norm() / v.cpu().norm()) for k, v in exact.items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_equals_itself_on_the_cpu_in_float64(name):
    net = trained(build(name))
    with torch.no_grad():
        exact = copy.deepcopy(net).double()(images(torch.float64))
        net = net.to(DEVICE)
        assert max(errors(net(images().to(DEVICE)), exact).values()) < 1e-4
        channels_last = copy.deepcopy(net).to(memory_format=torch.channels_last)
        x = images().to(DEVICE, memory_format=torch.channels_last)
        assert max(errors(channels_last(x), exact).values()) < 1e-4
        for dtype in FEW_BITS:
            with torch.autocast(DEVICE.type, dtype=dtype):
                assert max(errors(net(images().to(DEVICE)), exact).values()) < 12 * torch.finfo(dtype).eps, dtype


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"output_stride": 8, "gradient_checkpointing": True},
        {"norm_layer": FrozenBatchNorm2d},
        DCN,
        {**DCN, "deform_modulated": False, "deform_groups": 2},
    ],
    ids=str,
)
def test_recomputed_gradients_equal_those_of_the_plain_path(options, memory_format):
    net = tiny(**options).double().to(DEVICE, memory_format=memory_format).train()
    assert_same_step(net, images(torch.float64).to(DEVICE, memory_format=memory_format))


@pytest.mark.parametrize("dtype", FEW_BITS)
@pytest.mark.parametrize("options", [{}, DCN | {"deform_stages": ("res3",)}], ids=["plain", "deformable"])
def test_under_autocast_recomputed_gradients_agree_within_rounding(options, dtype, fill_randomly):
    if options and DEVICE.type == "cpu":
        pytest.skip("torchvision's deformable convolution has no autocast on a CPU")
    net = fill_randomly(build("resnest14", out_features=("res2", "res3"), **options).double()).float()
    net, x = net.to(DEVICE).train(), images()[..., :48, :32].to(DEVICE)  # of more, the sum overflows in float16
    exact = step(set_recompute(copy.deepcopy(net), False), x)
    with torch.autocast(DEVICE.type, dtype=dtype):
        low = [step(set_recompute(copy.deepcopy(net), on), x) for on in (True, False)]
    weights = [name for name in exact if name.startswith("grad") and name.endswith("weight")]
    recomputed, plain = (errors({k: run[k] for k in weights}, {k: exact[k].double() for k in weights}) for run in low)
    for name in weights:
        assert low[0][name].dtype == exact[name].dtype
        assert recomputed[name] <= 1.5 * plain[name] + 1e-3, name


@pytest.mark.parametrize("dtype", [None, *FEW_BITS])
@pytest.mark.parametrize("norm_layer", [nn.BatchNorm2d, FrozenBatchNorm2d, nn.SyncBatchNorm])
def test_an_optimised_trunk_equals_the_trunk(norm_layer, dtype):
    net = trained(build("resnest14", norm_layer=norm_layer)).to(DEVICE)
    with torch.no_grad():
        exact = {k: v.double() for k, v in net(images().to(DEVICE)).items()}
        found = optimize_for_inference(net, dtype=dtype)(images().to(DEVICE))
    assert max(errors(found, exact).values()) < (1e-4 if dtype is None else 12 * torch.finfo(dtype).eps)


def test_an_optimised_deformable_trunk_equals_the_trunk():
    net = trained(with_offsets(build("resnest14", **DCN))).to(DEVICE)
    with torch.no_grad():
        exact = {k: v.double() for k, v in net(images().to(DEVICE)).items()}
        assert max(errors(optimize_for_inference(net)(images().to(DEVICE)), exact).values()) < 1e-4


def test_a_compiled_trunk_equals_the_trunk():
    net = trained(build("resnest14", out_features=("res3",))).to(DEVICE)
    with torch.no_grad():
        exact = {k: v.double() for k, v in net(images().to(DEVICE)).items()}
        assert max(errors(optimize_for_inference(net, compile=True)(images().to(DEVICE)), exact).values()) < 1e-4


def train_with_synchronised_norms(rank: int) -> list[dict[str, Tensor]]:
    """A step on half of the images, recomputed and with the norm's own forward and backward."""
    found = []
    for on in (True, False):
        torch.manual_seed(0)
        net = tiny(norm_layer=nn.SyncBatchNorm, recompute=on).double().to(DEVICE).train()
        net = synchronise_on_cpu(net) if DEVICE.type == "cpu" else net
        found.append({k: v.cpu() for k, v in step(net, images(torch.float64)[rank : rank + 1].to(DEVICE)).items()})
    return found


def test_norms_that_processes_share_give_the_same_gradients(tmp_path):
    """Two processes over gloo, which may share a GPU."""
    assert distributed.is_gloo_available()
    for recomputed, plain in run_processes(train_with_synchronised_norms, folder=tmp_path):
        largest = max(value.abs().max() for name, value in plain.items() if name.startswith("grad"))
        for name, value in plain.items():
            scale = largest if name.startswith("grad") else value.abs().max()
            assert (recomputed[name] - value).abs().max() <= 1e-9 * scale, name
