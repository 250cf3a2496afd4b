#!/usr/bin/env python
"""Pre-train a network on images in a folder per class, by the recipe of the ResNeSt paper, or evaluate one.

DATA holds train/ and val/, each with a folder of images per class. Beside the checkpoints last.pth and best.pth the
output folder gets metrics.json, TensorBoard's file, and curves.png.

  python tools/pretrain.py --data imagenet --network resnest50
  torchrun --nproc-per-node 8 tools/pretrain.py --data imagenet --network resnest50 --amp
  python tools/pretrain.py --data imagenet --eval-only resnest://resnest50
"""

from __future__ import annotations

import argparse
import os
import warnings
from pathlib import Path

from resnest_backbones.commands import print_next
from resnest_backbones.errors import ConfigError, add_verbose, one_line_errors

_POLICIES = ("autoaugment", "randaugment", "none")


def build_argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="DIR", help="folder of train/ and val/")
    add("--network", metavar="NAME", help="one that `resnest-backbones list` prints")
    add("--in-channels", type=int, default=3, metavar="N", help="3 for RGB, 1 for grey, or all that images have")
    text = "default: pretrain; --eval-only writes metrics.json if it is given"
    add("--output-dir", type=Path, metavar="DIR", help=text)
    add("--resume", action="store_true", help="continue from the last checkpoint in the output folder")
    text = "print the accuracy of a file in any layout, or resnest://NAME, on val/ instead of training"
    add("--eval-only", metavar="FILE", help=text)
    text = "side of the images (default: the published one of the network: 224, 256, 320 or 416; else 224)"
    add("--crop", type=int, metavar="PIXELS", help=text)
    add("--batch-size", type=int, default=128, metavar="N", help="images per process (default: %(default)s)")
    add("--workers", type=int, default=min(8, os.cpu_count() or 1), metavar="N", help="that load images, per process")
    add("--epochs", type=int, default=270, metavar="N", help="default: %(default)s")
    text = "in which the rate grows from 0 (default: %(default)s)"
    add("--warmup-epochs", type=int, default=5, metavar="N", help=text)
    add("--lr", type=float, metavar="RATE", help="learning rate (default: 0.1 x images of a batch / 256)")
    add("--weight-decay", type=float, default=1e-4, help="not of biases and norms (default: %(default)s)")
    add("--label-smoothing", type=float, default=0.1, help="default: %(default)s")
    add("--mixup", type=float, default=0.2, metavar="ALPHA", help="0 for none (default: %(default)s)")
    add("--auto-augment", choices=_POLICIES, default="autoaugment", help="default: %(default)s")
    text = "rate that DropBlock grows to (default: 0.1, or 0 for networks that were published without)"
    add("--drop-block", type=float, metavar="RATE", help=text)
    add("--dropout", type=float, metavar="RATE", help="before the classifier (default: 0.2 for 200 and 269, else 0)")
    add("--ema", type=float, metavar="DECAY", help="evaluate and keep an average of the weights, such as 0.9999")
    add("--amp", action="store_true", help="mixed precision")
    add("--channels-last", action="store_true", help="keep images and weights channels-last in memory")
    text = "compile the network, with this backend of torch.compile (default: inductor)"
    add("--compile", nargs="?", const=True, default=False, metavar="BACKEND", help=text)
    add("--device", help="default: a GPU if there is one, else cpu")
    add("--seed", type=int, default=0, metavar="N", help="default: %(default)s")
    add("--log-period", type=int, default=50, metavar="N", help="iterations between lines (default: %(default)s)")
    add_verbose(parser)
    return parser


def check_arguments(args: argparse.Namespace) -> None:
    """Check what the parser cannot, and fill in what depends on the network."""
    from pretraining import recipe
    from resnest_backbones import get_variant

    if args.network is not None:
        get_variant(args.network)
    if args.eval_only:
        return
    args.output_dir = args.output_dir or Path("pretrain")
    if args.network is None:
        raise ConfigError("--network must be given: one that `resnest-backbones list` prints")
    positive = ("epochs", "batch_size", "in_channels", "log_period")
    for name in [name for name in positive if getattr(args, name) < 1]:
        raise ConfigError(f"--{name.replace('_', '-')} must be positive, got {getattr(args, name)}")
    if args.batch_size == 1:
        raise ConfigError(
            "--batch-size must be 2 or more: attention has one value per image, and batch norm needs several"
        )
    if not 0 <= args.warmup_epochs < args.epochs:
        raise ConfigError(f"--warmup-epochs must be from 0 to below --epochs, got {args.warmup_epochs}")
    for name, of_networks, otherwise in (
        ("crop", recipe.CROPS, 224), ("dropout", recipe.DROPOUTS, 0.0), ("drop_block", recipe.DROP_BLOCKS, 0.0)
    ):  # fmt: skip
        if getattr(args, name) is None:
            setattr(args, name, of_networks.get(args.network, otherwise))


def run(arguments: list[str] | None = None) -> None:
    parser = build_argument_parser()
    args = parser.parse_args(arguments)

    def interrupted() -> str:
        return "" if args.eval_only else f"to continue from the last epoch in {args.output_dir}, rerun with --resume"

    with one_line_errors(parser.prog, ValueError, verbose=args.verbose, interrupted=interrupted):
        check_arguments(args)
        warnings.filterwarnings("ignore", "`torch.jit.interface`", FutureWarning)  # timm's import of PyTorch's own
        from pretraining.evaluate import evaluate
        from pretraining.processes import join, leave
        from pretraining.train import train

        processes = join(args.device)
        (evaluate if args.eval_only else train)(args, processes)
        leave()
        if not args.eval_only and processes.rank == 0:
            finish(args)


def finish(args: argparse.Namespace) -> None:
    """Draw the curves, and print what can be done next."""
    from curves import draw_curves
    from resnest_backbones import get_variant, model_zoo
    from resnest_backbones.outputs import read_metrics

    curves = read_metrics(args.output_dir / "metrics.json")
    metrics = {"top1": "top-1", "top5": "top-5"}
    title = f"accuracy of {args.network}, held-out images"
    draw_curves(curves, args.output_dir / "curves.png", losses={"loss": "loss"}, metrics=metrics, title=title)
    config, spec, keys = f"faster_rcnn_{args.network}_fpn_1x", get_variant(args.network), []
    if config not in model_zoo.list():
        config = "faster_rcnn_resnest50_fpn_1x"
        of_spec = {"DEPTH": args.network.removeprefix("resnest").partition("_")[0], "RADIX": spec.radix}
        of_spec |= {
            "NUM_GROUPS": spec.cardinality,
            "BOTTLENECK_WIDTH": spec.bottleneck_width,
            "AVD_FIRST": spec.avd_first,
        }
        keys = [str(word) for key, value in of_spec.items() for word in (f"MODEL.RESNETS.{key}", value)]
    words = ("tools/train_net.py", "--config-file", config, *keys, "MODEL.WEIGHTS", args.output_dir / "best.pth")
    print_next("train a detector from it", *words)


if __name__ == "__main__":
    run()
