"""The recipe of the paper, against the formulas of the authors' trainers."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.ops import DropBlock2d

pytest.importorskip("timm")

import timm

from pretrain import build_argument_parser, check_arguments
from pretraining import recipe
from pretraining.data import change_lighting, crop_centre, evaluation_transform, training_transform
from resnest_backbones import Bottleneck, convert_state_dict
from resnest_backbones.data import read_image
from resnest_backbones.errors import ConfigError


@pytest.mark.parametrize(("epochs", "warmup", "iterations"), [(270, 5, 7), (3, 0, 4)])
def test_the_schedule_is_the_originals(epochs, warmup, iterations):
    optimizer = recipe.make_optimizer(nn.Linear(2, 2), 3.2, 1e-4)
    schedule = recipe.make_schedule(optimizer, epochs=epochs, warmup_epochs=warmup, iterations=iterations)
    for step in range(epochs * iterations):
        schedule.step_update(step)
        # LR_Scheduler of resnest/torch/utils.py; MXNet's CosineScheduler with warmup_begin_lr 0 has the same.
        warm, total = warmup * iterations, (epochs - warmup) * iterations
        wanted = 3.2 * step / warm if step < warm else 0.5 * 3.2 * (1 + math.cos((step - warm) / total * math.pi))
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([wanted] * 2, abs=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixed_images_and_smoothed_labels_are_the_originals(smoothing):
    images, labels, classes = torch.randn(5, 3, 4, 4, dtype=torch.float64), torch.tensor([0, 3, 1, 1, 2]), 4
    mixed, targets = recipe.mix_up(images, labels, classes, alpha=0.2, smoothing=smoothing, seed=3)
    share = ((mixed[0] - images[4]) / (images[0] - images[4])).mean()  # scripts/gluon/train.py mixes with the reverse
    torch.testing.assert_close(mixed, share * images + (1 - share) * images.flip(0))

    def smooth(label: int) -> torch.Tensor:
        return torch.full((classes,), smoothing / classes).index_fill(
            0, torch.tensor([label]), 1 - smoothing + smoothing / classes
        )

    wanted = torch.stack(
        [
            share * smooth(a) + (1 - share) * smooth(b)
            for a, b in zip(labels.tolist(), labels.flip(0).tolist(), strict=True)
        ]
    )
    torch.testing.assert_close(targets, wanted.to(targets), rtol=1e-5, atol=1e-6)
    plain, hard = recipe.mix_up(images, labels, classes, alpha=0.0, smoothing=0.0, seed=3)
    assert torch.equal(plain, images) and torch.equal(hard, nn.functional.one_hot(labels, classes).to(hard))


def test_the_shares_of_mixed_images_are_drawn_from_their_distribution():
    images = torch.stack([torch.ones(1, 1, 1), torch.zeros(1, 1, 1)])
    shares = [
        recipe.mix_up(images, torch.tensor([0, 1]), 2, alpha=0.2, smoothing=0.1, seed=seed)[0][0].item()
        for seed in range(400)
    ]
    # Beta(0.2, 0.2) has mean 1/2 and variance 1 / (4 x 1.4).
    assert np.mean(shares) == pytest.approx(0.5, abs=0.06) and np.var(shares) == pytest.approx(1 / 5.6, abs=0.02)


def test_biases_and_norms_do_not_decay_and_each_blocks_last_norm_starts_at_zero():
    net = recipe.make_network("resnest14", 3, in_channels=1, dropout=0.2, drop_block=0.1)
    optimizer = recipe.make_optimizer(net, 0.1, 1e-4)
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    free = {name for name, p in net.named_parameters() if decays[id(p)] == 0.0}
    # net.collect_params(".*beta|.*gamma|.*bias") of scripts/gluon/train.py
    norms = [
        f"{name}.{of}" for name, m in net.named_modules() if isinstance(m, nn.BatchNorm2d) for of in ("weight", "bias")
    ]
    assert free == {*norms, *(name for name, _ in net.named_parameters() if name.endswith("bias"))}
    assert {decays[id(p)] for name, p in net.named_parameters() if name not in free} == {1e-4}
    assert all(group["nesterov"] and group["momentum"] == 0.9 for group in optimizer.param_groups)
    for block in (module for module in net.modules() if isinstance(module, Bottleneck)):
        assert not block.conv3.norm.weight.any() and block.conv1.norm.weight.all()
    recipe.set_drop_block(net, 0.1, epoch=26, epochs=270)  # DropBlockScheduler of resnest/gluon/dropblock.py
    assert {m.p for m in net.modules() if isinstance(m, DropBlock2d)} == {0.1 * 27 / 270}
    pooled = torch.ones(400, 2048)
    net.fc.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    seen: list[torch.Tensor] = []
    net.train().fc(pooled), net.eval().fc(pooled)
    assert (seen[0] == 0).float().mean().item() == pytest.approx(0.2, abs=0.01) and torch.equal(seen[1], pooled)


@pytest.mark.parametrize(
    ("network", "crop", "dropout", "drop_block"),
    [
        ("resnest14", 224, 0.0, 0.0),
        ("resnest50", 224, 0.0, 0.1),
        ("resnest101", 256, 0.0, 0.1),
        ("resnest152", 224, 0.0, 0.0),
        ("resnest200", 320, 0.2, 0.1),
        ("resnest269", 416, 0.2, 0.1),
        ("resnest50_fast_1s4x24d", 224, 0.0, 0.1),
    ],
)
def test_the_defaults_are_the_published_values(network, crop, dropout, drop_block):
    args = build_argument_parser().parse_args(["--data", "imagenet", "--network", network])
    check_arguments(args)
    assert (args.crop, args.dropout, args.drop_block) == (crop, dropout, drop_block)
    assert (args.epochs, args.warmup_epochs, args.batch_size) == (270, 5, 128)
    assert (args.label_smoothing, args.mixup, args.weight_decay) == (0.1, 0.2, 1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--network must be given"),
        (["--network", "resnest5O"], "did you mean resnest50"),
        (
            ["--network", "resnest50", "--batch-size", "1"],
            "--batch-size must be 2 or more: attention has one value per image",
        ),
        (["--network", "resnest50", "--epochs", "0"], "--epochs must be positive, got 0"),
        (["--network", "resnest50", "--epochs", "5"], "--warmup-epochs must be from 0 to below --epochs, got 5"),
    ],
)
def test_a_wrong_option_is_named_before_any_work(words, message):
    with pytest.raises((ConfigError, ValueError), match=message):
        check_arguments(build_argument_parser().parse_args(["--data", "imagenet", *words]))


def as_the_authors_crop(image: Image.Image, crop: int) -> Image.Image:
    """``ECenterCrop`` of resnest/torch/transforms/transforms.py, by its formula."""
    width, height = image.size
    side = float(crop) / (crop + 32) * min(width, height)
    top, left = round((height - side) / 2.0), round((width - side) / 2.0)
    return image.crop((left, top, left + side, top + side)).resize((crop, crop), Image.Resampling.BILINEAR)


@pytest.mark.parametrize("size", [(256, 256), (375, 500), (97, 64), (301, 299), (640, 480)])
@pytest.mark.parametrize("crop", [224, 320])
def test_the_evaluation_cuts_what_the_authors_cut(size, crop):
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    found = crop_centre(torch.from_numpy(picture).permute(2, 0, 1), crop)
    wanted = torch.from_numpy(np.array(as_the_authors_crop(Image.fromarray(picture), crop))).permute(2, 0, 1)
    assert (found.int() - wanted.int()).abs().max() <= 1  # of 255, by rounding


def test_a_seeded_checkpoint_gives_the_logits_of_timms_network_and_validation_transform(fill_randomly, tmp_path):
    peer = fill_randomly(timm.create_model("resnest50d", num_classes=5)).float().eval()
    config = timm.data.resolve_data_config(model=peer)
    transform = timm.data.create_transform(**config)
    assert config["interpolation"] == "bilinear" and config["crop_pct"] == 0.875
    ours = recipe.make_network("resnest50", 5).eval()
    ours.load_state_dict(convert_state_dict(peer.state_dict(), "core"))
    generator = np.random.default_rng(1)
    for size in ((256, 256), (256, 341), (300, 256)):  # of another short side, timm resizes before it cuts
        low = Image.fromarray(generator.integers(0, 256, (9, 11, 3), dtype=np.uint8))
        low.resize(size[::-1], Image.Resampling.BICUBIC).save(tmp_path / "image.png")
        image = torch.from_numpy(read_image(tmp_path / "image.png")).permute(2, 0, 1)
        with torch.no_grad():
            found = ours(evaluation_transform(224, 3)(image)[None])["logits"]
            wanted = peer(transform(Image.open(tmp_path / "image.png"))[None])
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4 * wanted.abs().max().item())


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("policy", ["autoaugment", "randaugment", "none"])
def test_images_of_any_number_of_channels_are_augmented(channels, policy):
    image = torch.randint(0, 256, (channels, 40, 50), dtype=torch.uint8)
    transform = training_transform(32, policy, channels)
    first, second = transform(image), transform(image)
    assert first.shape == (channels, 32, 32) and first.dtype == torch.float32 and not torch.equal(first, second)


def test_lighting_moves_along_the_colours_of_imagenet():
    shifts = torch.stack([change_lighting(torch.zeros(3, 1, 1))[:, 0, 0] for _ in range(2000)])
    vectors = torch.tensor([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
    spread = (shifts @ vectors).std(0)  # resnest/torch/transforms/build.py
    torch.testing.assert_close(spread, 0.1 * torch.tensor([0.2175, 0.0188, 0.0045]), rtol=0.1, atol=1e-4)
