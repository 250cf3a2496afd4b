"""Live parity with the authors' package (``resnest`` on the registry) and with timm, in float64."""

import copy

import pytest
import torch
from torch import Tensor, nn

from resnest_backbones import ResNeSt, ResNeStSpec, convert_state_dict, list_variants

FEATURES = ("stem", "res2", "res3", "res4", "res5", "logits")
ABLATIONS = [name for name in list_variants() if "fast" in name]
TIMM = {
    "resnest14d": "resnest14",
    "resnest26d": "resnest26",
    "resnest50d": "resnest50",
    "resnest101e": "resnest101",
    "resnest200e": "resnest200",
    "resnest269e": "resnest269",
    "resnest50d_4s2x40d": "resnest50_fast_4s2x40d",
    "resnest50d_1s4x24d": "resnest50_fast_1s4x24d",
}


def peer_forward(peer: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The features of the authors' or timm's ResNet, which name their stages alike."""
    outputs = {}
    x = peer.maxpool(torch.relu(peer.bn1(peer.conv1(x))))
    outputs["stem"] = x
    for i in range(1, 5):
        x = outputs[f"res{i + 1}"] = getattr(peer, f"layer{i}")(x)
    outputs["logits"] = peer.fc(x.mean(dim=(2, 3)))
    return outputs


def with_weights_of(peer: nn.Module, spec: ResNeStSpec | str, **arguments) -> ResNeSt:
    with torch.device("meta"):
        net = ResNeSt(spec, out_features=FEATURES, num_classes=peer.fc.out_features, **arguments)
    net.load_state_dict(convert_state_dict(peer.state_dict()), strict=True, assign=True)
    return net


def assert_same(got: dict[str, Tensor], want: dict[str, Tensor], floor: float = 0.0) -> None:
    """Equal to 1e-9 of each tensor's largest magnitude, or of ``floor`` where all of it is smaller."""
    assert got.keys() == want.keys()
    for name, expected in want.items():
        assert got[name].shape == expected.shape, name
        scale = max(expected.abs().max().item(), floor)
        error = (got[name] - expected).abs().max().item() / scale
        assert error <= 1e-9, f"{name}: relative error {error:.1e}"


def assert_parity(peer: nn.Module, name: str, size: tuple[int, int], **arguments) -> None:
    net = with_weights_of(peer.eval(), name, **arguments).eval()
    x = torch.randn(1, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        want = peer_forward(peer, x)
        torch.testing.assert_close(peer(x), want["logits"], rtol=1e-9, atol=1e-12)
        assert_same(net(x), want)


# One of each kind of block; the rest differ in their number of blocks, splits and groups.
FAST = ("resnest50", "resnest50_fast_1s1x64d", "resnest50_fast_4s2x40d")


def slow_unless_fast(name: str, *values: str):
    return pytest.param(*values, name, marks=() if name in FAST else pytest.mark.slow)


@pytest.mark.parametrize(
    "name", [slow_unless_fast(name) for name in ("resnest50", "resnest101", "resnest200", "resnest269", *ABLATIONS)]
)
def test_the_authors_network(name, fill_randomly):
    original = pytest.importorskip("resnest.torch")
    with torch.device("meta"):
        peer = getattr(original, name)(num_classes=10)
    assert_parity(fill_randomly(peer), name, (64, 65))


@pytest.mark.parametrize(
    ("name", "argument", "output_stride"),
    [("resnest50", {"dilated": True}, 8), ("resnest50_fast_4s2x40d", {"dilation": 2}, 16)],
)
def test_the_authors_dilated_network(name, argument, output_stride, fill_randomly):
    original = pytest.importorskip("resnest.torch")
    with torch.device("meta"):
        peer = getattr(original, name)(num_classes=10, **argument)
    assert_parity(fill_randomly(peer), name, (64, 65), output_stride=output_stride)


@pytest.mark.parametrize(("peer_name", "name"), [slow_unless_fast(name, peer) for peer, name in TIMM.items()])
def test_timms_network(peer_name, name, fill_randomly):
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        peer = timm.create_model(peer_name, num_classes=10)
    assert_parity(fill_randomly(peer), name, (65, 64))


@pytest.mark.parametrize(
    ("radix", "cardinality", "width", "avd_first"), [(2, 1, 64, False), (1, 4, 24, True), (4, 2, 40, True)]
)
def test_training_changes_the_same_gradients_and_statistics(radix, cardinality, width, avd_first, fill_randomly):
    original = pytest.importorskip("resnest.torch.resnet")
    with torch.device("meta"):
        peer = original.ResNet(
            original.Bottleneck, [2, 1, 1, 1], radix=radix, groups=cardinality, bottleneck_width=width, num_classes=7,
            deep_stem=True, stem_width=32, avg_down=True, avd=True, avd_first=avd_first,
        )  # fmt: skip
    peer = fill_randomly(peer).train()
    spec = ResNeStSpec("mine", (2, 1, 1, 1), 32, radix, cardinality, width, avd_first)
    net = with_weights_of(copy.deepcopy(peer), spec).train()
    x = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    want, got = peer_forward(peer, x), net(x)
    assert_same(got, want)

    cotangents = {name: torch.randn_like(value) for name, value in want.items()}
    for outputs in (want, got):
        sum((outputs[name] * cotangents[name]).sum() / cotangents[name].numel() for name in outputs).backward()
    gradients = {name: parameter.grad for name, parameter in peer.named_parameters()}
    # A bias in front of a batch norm (conv2.fc1) has no gradient but rounding noise: hence the floor.
    got = {name: parameter.grad for name, parameter in net.named_parameters()}
    assert_same(got, convert_state_dict(gradients), floor=1e-3)
    after = convert_state_dict(peer.state_dict())
    assert_same(net.state_dict(), after)
    assert after["stem.conv1_1.norm.num_batches_tracked"] == 4
