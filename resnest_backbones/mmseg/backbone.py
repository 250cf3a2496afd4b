"""The trunk as a backbone of the OpenMMLab frameworks."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from mmcv.cnn import build_norm_layer
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from resnest_backbones.acceleration import accelerate
from resnest_backbones.checkpoint.contents import extract_state_dict, split_part
from resnest_backbones.checkpoint.fit import describe_networks, describe_other_pools, fit_trunk
from resnest_backbones.checkpoint.layouts import COUNTER, split_trunk, summarize_keys
from resnest_backbones.errors import CheckpointError, ConfigError, did_you_mean
from resnest_backbones.models import resnest
from resnest_backbones.models.arguments import STAGES, NormLayer, check_choice, check_flags
from resnest_backbones.models.norms import CpuSyncBatchNorm
from resnest_backbones.models.variants import ResNeStSpec

MODELS.register_module("CpuSyncBN", module=CpuSyncBatchNorm)

_DCN_TYPES = {"DCN": False, "DCNv2": True}
_DCN_KEYS = ("type", "deform_groups", "fallback_on_stride")
# What the frameworks' ResNets take and this one does not: strides and dilations of an output stride, and the rest.
_STRIDES = {
    32: {"strides": (1, 2, 2, 2), "dilations": (1, 1, 1, 1)},
    16: {"strides": (1, 2, 2, 1), "dilations": (1, 1, 1, 2)},
    8: {"strides": (1, 2, 1, 1), "dilations": (1, 1, 2, 4)},
}
_PRETRAINED = 'set pretrained=None in the model, and use init_cfg=dict(type="Pretrained", checkpoint="resnest://NAME")'
_DECIDED_BY_NAME = (
    *("avd", "avg_down", "avg_down_stride", "base_channels", "base_width", "contract_dilation", "deep_stem", "groups"),
    *("num_stages", "plugins", "radix", "reduction_factor", "stem_channels", "style"),
)


@MODELS.register_module()
class ResNeStBackbone(resnest.ResNeSt, BaseModule):
    """The trunk with what MMSegmentation, MMDetection and MMPretrain ask of a backbone.

    It is in MMEngine's root registry, so that configs of all of them find it; ``ResNeSt`` remains the name of
    MMSegmentation's own.

    Args:
        name: a published network, such as ``resnest50``, or a ``ResNeStSpec``.
        out_indices: stages whose features are returned: 0 for res2 (stride 4) to 3 for res5. Later ones are not built.
        output_stride: 32, 16 or 8; res5, or res4 and res5, are then dilated, by the original's rule.
        avg_pool_at_stride_1: keep the 3x3 average pool in the first block of a dilated stage, as the original does.
            MMSegmentation's own ResNeSt leaves it out: False for what was trained with that.
        in_channels: channels of the image.
        frozen_stages: -1 freezes nothing, 0 the stem, 1 to 4 also res2 to res5: no gradients, batch norms in evaluation
            mode, in training too.
        norm_cfg: normalization layers as MMEngine's registry builds them.
        norm_eval: keep all batch norms in evaluation mode in training.
        with_cp: recompute each block in backward to save memory.
        recompute: compute norms, ReLUs and attention again in backward: "auto", True or False, as in the trunk.
        dcn: ``dict(type="DCN" or "DCNv2", deform_groups=1)`` for deformable 3x3 convolutions.
        stage_with_dcn: which of res2 to res5 have them.
        multi_grid: factors on the dilation of the blocks of res5; (1, 2, 4) at output stride 8 gives the dilations
            4, 8 and 16. MMSegmentation's ResNets take the dilations themselves.
        drop_path_rate: stochastic depth; grows linearly over the blocks from 0 to this rate.
        drop_block_rate: DropBlock in res4 and res5, as in the trunk.
        zero_init_residual: zero the scale of each block's last norm.
        channels_last: as in ``resnest_backbones.acceleration.accelerate``.
        compile: likewise. MMEngine's own ``compile``, at the top of a config, compiles the whole training step
            instead, heads and losses included.
        init_cfg: MMEngine's initialization; ``dict(type="Pretrained", checkpoint="resnest://resnest101")`` for the
            published ImageNet weights, or a checkpoint in any layout that ``checkpoint.layouts`` knows.
        **others: there are none; what a config still has of another backbone is refused with what to write instead.

    Raises:
        ConfigError: there are other arguments; the message says of each what to write instead.
        ValueError: an argument is outside what is allowed; the message names it.
    """

    def __init__(
        self,
        name: ResNeStSpec | str = "",
        *,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        output_stride: int = 32,
        avg_pool_at_stride_1: bool = True,
        in_channels: int = 3,
        frozen_stages: int = -1,
        norm_cfg: Mapping[str, Any] | None = None,
        norm_eval: bool = False,
        with_cp: bool = False,
        recompute: bool | str = "auto",
        dcn: Mapping[str, Any] | None = None,
        stage_with_dcn: Sequence[bool] = (False, False, False, False),
        multi_grid: Sequence[int] | None = None,
        drop_path_rate: float = 0.0,
        drop_block_rate: float = 0.0,
        zero_init_residual: bool = False,
        channels_last: bool = False,
        compile: bool | str | Mapping[str, Any] = False,
        init_cfg: Any = None,
        **others: Any,
    ) -> None:
        _refuse(others)
        indices = _check_out_indices(out_indices)
        check_choice("frozen_stages", frozen_stages, (-1, 0, 1, 2, 3, 4))
        check_flags(norm_eval=norm_eval, with_cp=with_cp, zero_init_residual=zero_init_residual)
        modulated, deform_groups = _check_dcn(dcn)
        super().__init__(
            name,
            output_stride=output_stride,
            avg_pool_at_stride_1=avg_pool_at_stride_1,
            out_features=[STAGES[i] for i in indices],
            in_channels=in_channels,
            norm_layer=_norm_layer({"type": "BN"} if norm_cfg is None else norm_cfg),
            multi_grid=multi_grid,
            deform_stages=_check_stage_with_dcn(stage_with_dcn, dcn),
            deform_modulated=modulated,
            deform_groups=deform_groups,
            drop_path_rate=drop_path_rate,
            drop_block_rate=drop_block_rate,
            gradient_checkpointing=with_cp,
            recompute=recompute,
            zero_init_last_norm=zero_init_residual,
        )
        self.init_cfg = deepcopy(init_cfg)
        self.out_indices = indices
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self._freeze()
        accelerate(self, channels_last=channels_last, compile=compile)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Return the features of ``out_indices``.

        (N, in_channels, H, W) -> ((N, 256, H/4, W/4), ..., (N, 2048, H/S, W/S)), where S is the output stride;
        sizes are rounded up. Images are normalized as the weights expect.
        """
        features = super().forward(x)
        return tuple(features[STAGES[i]] for i in self.out_indices)

    def train(self, mode: bool = True) -> ResNeStBackbone:
        """Set the mode; frozen stages, and batch norms with ``norm_eval``, stay in evaluation mode."""
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _freeze(self) -> None:
        for name in ("stem", *STAGES)[: self.frozen_stages + 1]:
            if name in self._modules:
                self.get_submodule(name).eval().requires_grad_(False)

    def init_weights(self) -> None:
        """Initialize as ``init_cfg`` says; without it, what the constructor drew stays.

        Raises:
            CheckpointError: a pretrained checkpoint cannot be read or does not fit; the message names the file.
            WeightsError: published weights could not be downloaded.
        """
        try:
            super().init_weights()
        except CheckpointError as error:
            configs = [self.init_cfg] if isinstance(self.init_cfg, Mapping) else self.init_cfg
            files = ", ".join(split_part(str(cfg["checkpoint"]))[0] for cfg in configs if "checkpoint" in cfg)
            raise error if files in str(error) else CheckpointError(f"{files}: {error}") from error

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Take the trunk in any published layout; refuse another network's, and warn of other average pools."""
        given = {key.removeprefix(prefix): state_dict[key] for key in state_dict if key.startswith(prefix)}
        if given or not prefix:
            trunk = self.fitting_trunk(given if prefix else _weights_of(given))
            if warning := describe_other_pools(self, given):
                print_log(f"The checkpoint's ResNeSt: {warning}", logger="current", level=logging.WARNING)
            for key in given:
                del state_dict[prefix + key]
            state_dict.update({prefix + key: value for key, value in trunk.items()})
        super()._load_from_state_dict(state_dict, prefix, *args)

    def fitting_trunk(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what this trunk loads of a state dict in any published layout, under its own names.

        Counters of batch norms, which not all frameworks save, and offsets of deformable convolutions may be missing.
        The first convolution may have another shape, which loading then reports.

        Raises:
            CheckpointError: the state dict is of another network; the message names the first tensors.
        """
        own = self.state_dict()
        held = _trunk(state_dict, own)
        fit = fit_trunk(held, own)
        if not fit.is_exact:
            networks = describe_networks(held, own)
            raise CheckpointError(f"the checkpoint is of a different network: {networks}{fit.describe()}")
        parts = {key.partition(".")[0] for key in own}  # no classifier, no stage that was not asked for
        trunk = {key: value for key, value in held.items() if key.partition(".")[0] in parts}
        return {**{key: value for key, value in own.items() if key.endswith(COUNTER)}, **trunk}


def _weights_of(given: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """Return the weights in what MMEngine takes for a state dict, which may be the whole content of a file."""
    try:
        return extract_state_dict(given)
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def _trunk(given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the trunk in a state dict under the core's names; a model with other norms has names of its own."""
    try:
        layout, trunk, others = split_trunk(given)
    except ValueError as error:
        if own.keys() <= given.keys():
            return given
        raise CheckpointError(str(error)) from error
    if others:
        message = f"Left out {len(others)} head tensors of a checkpoint in the layout {layout}: "
        print_log(message + summarize_keys(others), logger="current")
    return trunk


def _refuse(others: Mapping[str, Any]) -> None:
    """Refuse arguments of another backbone, each with what to write instead."""
    remedies = {}
    given = {name: tuple(others[name]) for name in ("strides", "dilations") if others.get(name)}
    fits = [stride for stride, both in _STRIDES.items() if given.items() <= both.items()]
    for name, value in others.items():
        if name == "depth":
            remedies[name] = f'write name="resnest{value}"'
        elif name == "pretrained":
            remedies[name] = _PRETRAINED
        elif name in given:
            other = "not available: use output_stride=32, 16 or 8 instead, which give different networks"
            remedies[name] = f"write output_stride={fits[0]}" if fits else other
        elif name in _DECIDED_BY_NAME:
            remedies[name] = "remove it: name sets it"
        else:
            known = inspect.signature(ResNeStBackbone.__init__).parameters
            remedies[name] = did_you_mean(name, known, "remove it")
    if remedies:
        each = "; ".join(f"{name}={others[name]!r} ({remedy})" for name, remedy in remedies.items())
        raise ConfigError(f"ResNeStBackbone must get only its own arguments, got {each}")


def _check_out_indices(indices: Sequence[int]) -> tuple[int, ...]:
    one = isinstance(indices, (int, str)) or not isinstance(indices, Sequence)
    wrong = [indices] if one else [i for i in indices if isinstance(i, bool) or i not in range(len(STAGES))]
    if wrong or not indices or len(set(indices)) < len(indices):
        raise ValueError(f"out_indices must be a sequence of distinct integers from 0 to 3, got {indices!r}")
    return tuple(indices)


def _check_dcn(dcn: Mapping[str, Any] | None) -> tuple[bool, int]:
    """Return whether deformable convolution is modulated, and its offset groups."""
    if dcn is None:
        return False, 1
    if not isinstance(dcn, Mapping) or dcn.get("type") not in _DCN_TYPES:
        raise ValueError(f"dcn must be None or a dict with type {' or '.join(_DCN_TYPES)}, got {dcn!r}")
    wrong = [key for key in dcn if key not in _DCN_KEYS]
    if wrong or dcn.get("fallback_on_stride"):
        raise ValueError(f"dcn may have {', '.join(_DCN_KEYS)} (which must be False), got {dcn!r}")
    return _DCN_TYPES[dcn["type"]], dcn.get("deform_groups", 1)


def _check_stage_with_dcn(stage_with_dcn: Sequence[bool], dcn: Mapping[str, Any] | None) -> list[str]:
    if not isinstance(stage_with_dcn, Sequence) or len(stage_with_dcn) != len(STAGES):
        raise ValueError(f"stage_with_dcn must have {len(STAGES)} booleans, for res2 to res5, got {stage_with_dcn!r}")
    if any(stage_with_dcn) and dcn is None:
        raise ValueError(f"dcn must be a dict if stage_with_dcn is {stage_with_dcn!r}, got None")
    return [name for name, on in zip(STAGES, stage_with_dcn, strict=True) if on]


def _norm_layer(norm_cfg: Mapping[str, Any]) -> NormLayer:
    if not isinstance(norm_cfg, Mapping) or "type" not in norm_cfg:
        raise ValueError(f"norm_cfg must be a dict with a type, got {norm_cfg!r}")

    def make(channels: int) -> nn.Module:
        try:
            return build_norm_layer(dict(norm_cfg), channels)[1]
        except (AssertionError, KeyError, TypeError, ValueError) as error:  # MMCV raises each of them
            raise ValueError(f"norm_cfg cannot be built for {channels} channels, got {norm_cfg!r}: {error}") from error

    return make
