import pytest
import torch
from mmcv.cnn import ConvModule
from mmengine.registry import init_default_scope
from mmseg.models.decode_heads import ASPPHead, FCNHead
from mmseg.registry import MODELS
from torch import nn
from torch.nn import functional as F

from resnest_backbones import model_zoo
from resnest_backbones.acceleration.inference import optimize_for_inference
from resnest_backbones.mmseg.heads import PaperASPPHead, PaperFCNHead
from tests.acceleration.test_inference import trained


def stages(size: int = 12) -> list[torch.Tensor]:
    """Features of four stages; heads look at the last."""
    return [torch.zeros(0)] * 3 + [torch.randn(2, 32, size, size + 3, dtype=torch.float64)]


def aspp_in_plain_pytorch(head: PaperASPPHead, x: torch.Tensor) -> torch.Tensor:
    """PyTorch-Encoding's formula in functional form, in evaluation mode, on the head's own numbers."""

    def layer(module, x, **conv):
        x = F.conv2d(x, module.conv.weight, **conv)
        norm = module.bn
        return F.relu(F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias))

    branches = [layer(head.aspp_modules[0], x)]
    branches += [layer(head.aspp_modules[i], x, padding=rate, dilation=rate) for i, rate in enumerate((12, 24, 36), 1)]
    pooled = layer(head.image_pool[1], x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])
    x = layer(head.project, torch.cat([*branches, pooled], 1))
    x = layer(head.bottleneck, x, padding=1)
    return F.conv2d(x, head.conv_seg.weight, head.conv_seg.bias)


def test_aspp_is_pytorch_encodings_formula(fill_randomly):
    head = fill_randomly(PaperASPPHead(32, num_classes=7, in_index=3)).eval()
    features = stages(40)  # so that each rate reaches beyond its centre
    got = head(features)
    assert got.shape == (2, 7, 40, 43)
    torch.testing.assert_close(got, aspp_in_plain_pytorch(head, features[3]), rtol=1e-12, atol=1e-12)


def test_fcn_is_a_convolution_and_a_classifier(fill_randomly):
    head = fill_randomly(PaperFCNHead(32, num_classes=7, in_index=3)).eval()
    plain = nn.Sequential(
        nn.Conv2d(32, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1), nn.Conv2d(8, 7, 1)
    )
    names = {"convs.0.conv.": "0.", "convs.0.bn.": "1.", "conv_seg.": "4."}
    state = {new + key.removeprefix(old): value for key, value in head.state_dict().items()
             for old, new in names.items() if key.startswith(old)}  # fmt: skip
    plain.double().eval().load_state_dict(state)
    features = stages()
    torch.testing.assert_close(head(features), plain(features[3]), rtol=1e-12, atol=1e-12)


def test_the_papers_widths_and_settings_are_the_defaults():
    aspp, fcn = PaperASPPHead(2048, num_classes=150), PaperFCNHead(1024, num_classes=150)
    assert (aspp.channels, fcn.channels) == (256, 256)
    assert aspp.align_corners and fcn.align_corners
    assert [m.conv.dilation[0] for m in aspp.aspp_modules] == [1, 12, 24, 36]
    assert type(aspp.project_dropout) is nn.Dropout2d and aspp.project_dropout.p == 0.5
    for head in (aspp, fcn):
        assert type(head.dropout) is nn.Dropout and head.dropout.p == 0.1
    without = PaperFCNHead(64, num_classes=3, dropout_ratio=0)
    assert without.dropout is None


@pytest.mark.parametrize("head", [PaperASPPHead, PaperFCNHead])
def test_weights_are_drawn_as_pytorch_draws_them(head):
    net = head(256, num_classes=150)
    net.init_weights()
    for conv in (m for m in net.modules() if isinstance(m, nn.Conv2d)):
        bound = conv.weight[0].numel() ** -0.5
        assert conv.weight.abs().max() <= bound  # neither MMCV's normal draw nor MMSegmentation's 0.01
        assert conv.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
    before = net.conv_seg.weight.clone()
    net.init_weights()
    assert torch.equal(net.conv_seg.weight, before)
    other = head(64, num_classes=5, init_cfg={"type": "Constant", "val": 3, "override": {"name": "conv_seg"}})
    other.init_weights()
    assert (other.conv_seg.weight == 3).all(), "an init_cfg is followed"


@pytest.mark.parametrize("kind", ["PaperASPPHead", "PaperFCNHead"])
def test_norms_and_the_rest_of_mmsegmentations_arguments_arrive(kind):
    norm_cfg = {"type": "GN", "num_groups": 2}
    head = MODELS.build(
        {"type": kind, "in_channels": 32, "num_classes": 4, "norm_cfg": norm_cfg, "ignore_index": 7,
         "loss_decode": {"type": "CrossEntropyLoss", "loss_weight": 0.2, "avg_non_ignore": True}}
    )  # fmt: skip
    assert any(isinstance(m, nn.GroupNorm) for m in head.modules())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in head.modules())
    assert head.ignore_index == 7
    assert head.loss_decode.loss_weight == 0.2
    assert norm_cfg == {"type": "GN", "num_groups": 2}
    own = {"PaperASPPHead": ASPPHead, "PaperFCNHead": FCNHead}[kind]
    assert MODELS.get(own.__name__) is own, "MMSegmentation's own name is left alone"


@pytest.mark.parametrize(
    ("head", "arguments", "message"),
    [
        (PaperASPPHead, {"in_channels": 0}, "in_channels must be a positive integer, got 0"),
        (PaperASPPHead, {"dilations": 12}, "dilations must be a sequence of positive integers, got 12"),
        (PaperASPPHead, {"dilations": (1, 0)}, "each of dilations must be a positive integer, got 0"),
        (PaperASPPHead, {"project_dropout": 1.0}, "project_dropout must be a number from 0 to below 1, got 1.0"),
        (PaperFCNHead, {"dropout_ratio": "0.1"}, "dropout_ratio must be a number from 0 to below 1, got '0.1'"),
        (PaperFCNHead, {"channels": True}, "channels must be a positive integer, got True"),
    ],
)
def test_wrong_arguments_are_named(head, arguments, message):
    with pytest.raises(ValueError, match=message):
        head(**{"in_channels": 32, "num_classes": 3, **arguments})
    with pytest.raises(TypeError, match="unknown"):
        head(32, num_classes=3, unknown=1)


@pytest.mark.parametrize(
    "name", ["deeplabv3_resnest50-d8_4xb4-paper_ade20k-480x480", "upernet_resnest50_4xb4-160k_ade20k-512x512"]
)
def test_an_optimised_segmentor_equals_the_segmentor(name):
    cfg = model_zoo.get_config(name)
    init_default_scope("mmseg")
    cfg.model.backbone.update(name="resnest14", init_cfg=None)
    cfg.model.decode_head.channels = cfg.model.auxiliary_head.channels = 32
    torch.manual_seed(0)
    model = trained(MODELS.build(cfg.model)).double()
    fast = optimize_for_inference(model)
    assert type(fast) is type(model)
    assert not [m for m in fast.modules() if isinstance(m, ConvModule) and isinstance(m.norm, nn.BatchNorm2d)]
    x = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        wanted, found = model(x), fast(x)
    assert (found - wanted).abs().max() <= 1e-11 * wanted.abs().max()
