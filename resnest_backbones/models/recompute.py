"""Training in less memory: what is cheap to compute is computed again in backward, not kept.

Between two convolutions of the trunk lie a batch norm, a ReLU, and in the middle of a block the attention. Functions
here take such a chain with the convolution after it, keep the chain's input with the batch's mean and variance, and
compute the cheap part again in backward. Of the convolutions only two cheap ones are computed twice: the stem's first,
and that of the first shortcut. Results and gradients are those of the plain chain, to rounding; ``applies`` says where.
Gradient checkpointing, of whole blocks, is in ``checkpointing.py``.

Shapes: N batch, C channels of the block, R radix, H, W height and width; ``c`` is the output of a convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.autograd.graph import saved_tensors_hooks
from torchvision.ops import DeformConv2d

from resnest_backbones.models.layers import ConvNorm
from resnest_backbones.models.norms import (
    Statistics,
    is_batch_norm,
    is_trained,
    normalise,
    normalise_again,
    normalise_backward,
)

if TYPE_CHECKING:
    from resnest_backbones.models.blocks import Bottleneck, DeepStem

_aten = torch.ops.aten
_CHEAP_CHANNELS = 128  # a 1x1 convolution of so few is about as quick as reading what it gives from memory


def has_hooks(module: nn.Module) -> bool:
    """Return whether a call of a module is more than its ``forward``."""
    # What PyTorch itself looks at.
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks)


def _is_plain_conv(conv: nn.Module) -> bool:
    if not isinstance(conv, (nn.Conv2d, DeformConv2d)) or conv.bias is not None:
        return False
    plain = getattr(conv, "padding_mode", "zeros") == "zeros" and not isinstance(conv.padding, str)
    return plain and "weight" in conv._parameters  # else it is computed of others, as by a parametrisation


def _pool_backward(grad: Tensor, x: Tensor, pool: nn.Module) -> Tensor:
    if not isinstance(pool, nn.AvgPool2d):
        return grad
    sides = [[side, side] for side in (pool.kernel_size, pool.stride, pool.padding)]
    return _aten.avg_pool2d_backward(grad, x, *sides, pool.ceil_mode, pool.count_include_pad, None)


def _convolve(x: Tensor, weight: Tensor, conv: nn.Conv2d) -> Tensor:
    return F.conv2d(x, weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)


def _convolve_again(x: Tensor, weight: Tensor, conv: nn.Conv2d, dtype: torch.dtype) -> Tensor:
    """Convolve in backward, where autocast does not choose the type."""
    return _convolve(x.to(dtype), weight.to(dtype), conv)


def _convolve_backward(
    grad: Tensor, x: Tensor, weight: Tensor, conv: nn.Conv2d, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Compute gradients of input and weight, in the type of ``grad``, which autocast had chosen."""
    given = (x.to(grad.dtype), weight.to(grad.dtype), None)
    places = (conv.stride, conv.padding, conv.dilation, False, [0, 0], conv.groups)
    of_x, of_weight, _ = _aten.convolution_backward(grad, *given, *places, [*wanted, False])
    return of_x, None if of_weight is None else of_weight.to(weight.dtype)


class _NormReluConv(torch.autograd.Function):
    """A convolution or none, norm, ReLU, average pool or none, convolution."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, first_weight: Tensor | None, scale: Tensor, shift: Tensor, weight: Tensor, *modules: Any
    ) -> Tensor:
        first, norm, pool, conv = modules
        c = x if first_weight is None else _convolve(x, first_weight, first)
        y, statistics = normalise(c, norm)
        ctx.save_for_backward(x, first_weight, scale, shift, weight, *statistics)
        ctx.modules = modules
        return _convolve(pool(y), weight, conv)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, first_weight, scale, shift, weight, *values = ctx.saved_tensors
        first, norm, pool, conv = ctx.modules
        statistics = Statistics(*values)
        of_image, of_first, *of_norm, of_weight = ctx.needs_input_grad[:5]
        of_c = of_image or of_first
        c = x if first_weight is None else _convolve_again(x, first_weight, first, grad.dtype)
        y = normalise_again(c, scale, shift, statistics, norm.eps)
        grad_x, grad_weight = _convolve_backward(grad, pool(y), weight, conv, (of_c or any(of_norm), of_weight))
        gradients: tuple[Tensor | None, ...] = (None, None, None)
        if grad_x is not None:
            grad_y = _pool_backward(grad_x, y, pool)
            gradients = normalise_backward(grad_y, y, c, scale, statistics, norm, (of_c, *of_norm))
        grad_c, *grad_norm = gradients
        grad_first = None
        if first_weight is not None and grad_c is not None:
            grad_c, grad_first = _convolve_backward(grad_c, x, first_weight, first, (of_image, of_first))
        return (grad_c, grad_first, *grad_norm, grad_weight, None, None, None, None)


class _NormReluDeformConv(torch.autograd.Function):
    """Norm, ReLU, average pool or none, deformable convolution; its offsets, and its mask's logits, are kept.

    What is sampled is not sampled again: the convolution's backward needs no more than its inputs.
    """

    @staticmethod
    def forward(
        ctx: Any,
        c: Tensor,
        scale: Tensor,
        shift: Tensor,
        offset_weight: Tensor,
        offset_bias: Tensor,
        weight: Tensor,
        block: Any,
    ) -> Tensor:
        y, statistics = normalise(c, block.conv1.norm)
        y = block.pool_before(y)
        offsets = block.conv2_offset(y)
        ctx.save_for_backward(c, scale, shift, offset_weight, weight, offsets, *statistics)
        ctx.block = block
        return block.conv2.conv(y, *block.split_offsets(offsets))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        c, scale, shift, offset_weight, weight, offsets, *values = ctx.saved_tensors
        block, statistics = ctx.block, Statistics(*values)
        norm, pool, conv = block.conv1.norm, block.pool_before, block.conv2.conv
        y = normalise_again(c, scale, shift, statistics, norm.eps)
        pooled = pool(y)
        offset, mask = block.split_offsets(offsets)
        # In float32 under autocast, where torchvision computes forward so too.
        dtype = torch.promote_types(grad.dtype, torch.float32)
        given = (
            pooled,
            weight,
            offset,
            grad.new_zeros(len(c), 1) if mask is None else mask,
            grad.new_zeros(len(weight)),
        )
        places = (
            *conv.stride,
            *conv.padding,
            *conv.dilation,
            conv.groups,
            offset.shape[1] // (2 * weight[0, 0].numel()),
        )
        of_pooled, of_weight, of_offset, of_mask, _ = torch.ops.torchvision._deform_conv2d_backward(
            grad.to(dtype), *(value.to(dtype) for value in given), *places, mask is not None
        )
        if mask is not None:
            of_offset = torch.cat([of_offset, _aten.sigmoid_backward(of_mask, mask.to(dtype))], dim=1)
        of_offset = of_offset.to(offsets.dtype)
        by_offsets, of_offset_weight = _convolve_backward(
            of_offset, pooled, offset_weight, block.conv2_offset, (True, True)
        )
        assert by_offsets is not None
        of_y = _pool_backward((of_pooled + by_offsets).to(y.dtype), y, pool)
        gradients = normalise_backward(of_y, y, c, scale, statistics, norm, ctx.needs_input_grad[:3])
        of_offset_bias = of_offset.sum((0, 2, 3), dtype=offset_weight.dtype)
        return (*gradients, of_offset_weight, of_offset_bias, of_weight.to(weight.dtype), None)


class _PoolConvNorm(torch.autograd.Function):
    """Average pool or none, convolution, norm: the shortcut of a block, whose input the block keeps in any case."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, *modules: Any) -> Tensor:
        pool, conv, norm = modules
        c = _convolve(pool(x), weight, conv)
        out, statistics = normalise(c, norm, relu=False)
        ctx.save_for_backward(x, c if conv.in_channels > _CHEAP_CHANNELS else None, weight, scale, *statistics)
        ctx.modules = modules
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, c, weight, scale, *values = ctx.saved_tensors
        pool, conv, norm = ctx.modules
        of_x, of_weight, *of_norm = ctx.needs_input_grad[:4]
        pooled = pool(x)
        statistics = Statistics(*values)
        grad_c: Tensor | None
        grad_norm: Sequence[Tensor | None] = (None, None)
        if is_trained(norm) or any(of_norm):
            if c is None:
                c = _convolve_again(pooled, weight, conv, grad.dtype)
            grad_c, *grad_norm = normalise_backward(grad, None, c, scale, statistics, norm, (True, *of_norm))
            assert grad_c is not None
        else:
            grad_c = grad * (scale * statistics.inverse_deviation)[:, None, None].to(grad.dtype)
        grad_pooled, grad_weight = _convolve_backward(grad_c, pooled, weight, conv, (of_x, of_weight))
        grad_x = None if grad_pooled is None else _pool_backward(grad_pooled, x, pool)
        return (grad_x, grad_weight, *grad_norm, None, None, None)


class _NormReluMaxPool(torch.autograd.Function):
    """Norm, ReLU, max pool."""

    @staticmethod
    def forward(ctx: Any, c: Tensor, scale: Tensor, shift: Tensor, norm: Any, pool: nn.MaxPool2d) -> Tensor:
        y, statistics = normalise(c, norm)
        ctx.save_for_backward(c, scale, shift, *statistics)
        ctx.modules = norm, pool
        return pool(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        c, scale, shift, *values = ctx.saved_tensors
        norm, pool = ctx.modules
        statistics = Statistics(*values)
        y = normalise_again(c, scale, shift, statistics, norm.eps)
        sides = [[side, side] for side in (pool.kernel_size, pool.stride, pool.padding, pool.dilation)]
        _, indices = _aten.max_pool2d_with_indices(y, *sides, pool.ceil_mode)
        of_y = _aten.max_pool2d_with_indices_backward(grad, y, *sides, pool.ceil_mode, indices)
        gradients = normalise_backward(of_y, y, c, scale, statistics, norm, ctx.needs_input_grad[:3])
        return (*gradients, None, None)


class _AttentionConv(torch.autograd.Function):
    """Norm, ReLU, attention over the splits, average pool or none, convolution.

    The attention's own layers see one value per image and channel: they are left to PyTorch, whose small graph is kept.
    """

    @staticmethod
    def forward(
        ctx: Any, c: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, modules: Any, *parameters: Tensor
    ) -> Tensor:
        norm, attention, pool, conv = modules
        y, statistics = normalise(c, norm)
        # A hook that packs saved tensors, such as a checkpoint around this, must leave the small graph alone.
        with torch.enable_grad(), saved_tensors_hooks(_as_it_is, _as_it_is):
            pooled = attention.pool(y.detach()).requires_grad_()
            weights = attention.attention(pooled).to(y.dtype)
        ctx.save_for_backward(c, scale, shift, weight, *statistics)
        ctx.modules, ctx.graph, ctx.parameters = modules, (pooled, weights), parameters
        return _convolve(pool(attention.weigh(y, weights.detach())), weight, conv)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        c, scale, shift, weight, *values = ctx.saved_tensors
        norm, attention, pool, conv = ctx.modules
        pooled, weights = ctx.graph
        statistics = Statistics(*values)
        wanted = ctx.needs_input_grad[:3]
        y = normalise_again(c, scale, shift, statistics, norm.eps)
        mixed = attention.weigh(y, weights.detach())
        of_x, of_weight = _convolve_backward(grad, pool(mixed), weight, conv, (True, ctx.needs_input_grad[3]))
        assert of_x is not None
        of_mixed = _pool_backward(of_x, mixed, pool)
        of_pooled, of_parameters = _attention_backward(ctx, of_mixed, y, scratch=mixed)
        gradients: tuple[Tensor | None, ...] = (None, None, None)
        if any(wanted):
            of_y = torch.empty_like(y)
            for part, share in zip(of_y.split(attention.channels, 1), weights.detach().unbind(1), strict=True):
                torch.addcmul(of_pooled, share, of_mixed, out=part)
            gradients = normalise_backward(of_y, y, c, scale, statistics, norm, wanted)
        return (*gradients, of_weight, None, *of_parameters)


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _attention_backward(ctx: Any, of_mixed: Tensor, y: Tensor, scratch: Tensor) -> tuple[Tensor, list[Tensor | None]]:
    """Compute the gradients of ``y`` by way of the pooling, (N, C, 1, 1), and of the attention's parameters."""
    pooled, weights = ctx.graph
    splits = y.split(weights.shape[2], dim=1)
    of_weights = torch.stack([torch.mul(of_mixed, s, out=scratch).sum((2, 3), keepdim=True) for s in splits], dim=1)
    trained = [parameter for parameter in ctx.parameters if parameter.requires_grad]
    of_pooled, *found = torch.autograd.grad(weights, [pooled, *trained], of_weights, retain_graph=True)
    gradients = iter(found)
    of_parameters = [next(gradients) if parameter.requires_grad else None for parameter in ctx.parameters]
    return of_pooled.to(y.dtype) / (y.shape[2] * y.shape[3]), of_parameters


def applies(module: DeepStem | Bottleneck, x: Tensor) -> bool:
    """Return whether ``stem`` or ``bottleneck`` computes what the modules would compute one after the other.

    They do where gradients are computed eagerly, with convolutions without bias, and with batch norms: trained, frozen
    or synchronised between processes. Under ``torch.compile``, which decides itself what to keep, in an export or a
    transform of ``torch.func`` or ``torch.fx``, whose ``x`` is no tensor, or where a hook waits for a module's output,
    the modules are called.

    Raises:
        ValueError: the module has ``recompute=True`` and a part of another kind, or with a hook.
    """
    if not module.recompute or not torch.is_grad_enabled() or not isinstance(x, Tensor):
        return False
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined]
        return False
    if torch._C._are_functorch_transforms_active():  # what torch.autograd.Function asks itself
        return False
    convs, norms, others = _parts(module)
    for part in (*convs, *norms, *others):
        known = (part not in convs or _is_plain_conv(part)) and (part not in norms or is_batch_norm(part))
        if not known or has_hooks(part):
            if module.recompute is True:
                reason = "has a hook" if known else "is of a kind that cannot be computed again"
                raise ValueError(
                    f'recompute must be "auto" or False where a part of a block {reason}, got True: {part}'
                )
            return False
    return True


def _parts(module: Any) -> tuple[list[nn.Conv2d], list[nn.Module], list[nn.Module]]:
    """Return the convolutions and norms of a stem or block that are not called, and what else is not."""
    if hasattr(module, "maxpool"):  # the stem
        convs = [module.conv1_1, module.conv1_2, module.conv1_3]
        return convs, [c.norm for c in convs], [module.relu1, module.relu2, module.relu3, module.maxpool]
    attention = module.conv2
    convs, norms = [module.conv1, attention.conv, module.conv3], [module.conv1.norm, attention.bn0]
    if isinstance(module.shortcut, ConvNorm):
        convs.append(module.shortcut)
        norms.append(module.shortcut.norm)
    others = [attention, attention.relu, module.relu, module.pool_before, module.pool_after, module.shortcut_pool]
    return convs, norms, [*others, *([] if module.conv2_offset is None else [module.conv2_offset])]


def stem(module: DeepStem, x: Tensor) -> Tensor:
    """Compute a stem: (N, in_channels, H, W) -> (N, 2 x width, H / 4, W / 4)."""
    first, second, third = module.conv1_1, module.conv1_2, module.conv1_3
    c = _norm_relu_conv(x, first.norm, second, first=first)
    c = _norm_relu_conv(c, second.norm, third)
    return _NormReluMaxPool.apply(c, third.norm.weight, third.norm.bias, third.norm, module.maxpool)


def bottleneck(module: Bottleneck, x: Tensor) -> Tensor:
    """Compute a block: (N, in_channels, H, W) -> (N, 4 x planes, H / stride, W / stride)."""
    attention, last, shortcut = module.conv2, module.conv3, module.shortcut
    c, norm, offset = module.conv1.convolve(x), module.conv1.norm, module.conv2_offset
    if offset is None:
        c = _norm_relu_conv(c, norm, attention.conv, pool=module.pool_before)
    else:
        weights = (offset.weight, offset.bias, attention.conv.weight)
        c = _NormReluDeformConv.apply(c, norm.weight, norm.bias, *weights, module)
    parameters = [p for m in (attention.fc1, attention.bn1, attention.fc2) for p in m.parameters()]
    norm = attention.bn0
    modules = (norm, attention, module.pool_after, last)
    out = last.norm(_AttentionConv.apply(c, norm.weight, norm.bias, last.weight, modules, *parameters))
    if isinstance(shortcut, ConvNorm):
        norm, pool = shortcut.norm, module.shortcut_pool
        x = _PoolConvNorm.apply(x, shortcut.weight, norm.weight, norm.bias, pool, shortcut, norm)
    else:
        x = shortcut(module.shortcut_pool(x))
    return module.relu(module.drop_path(out).add_(x))


def _norm_relu_conv(
    x: Tensor, norm: Any, conv: nn.Conv2d, *, pool: nn.Module | None = None, first: nn.Conv2d | None = None
) -> Tensor:
    """Compute ``conv(pool(relu(norm(first(x)))))``, of which ``x`` alone is kept."""
    modules = (first, norm, nn.Identity() if pool is None else pool, conv)
    first_weight = None if first is None else first.weight
    return _NormReluConv.apply(x, first_weight, norm.weight, norm.bias, conv.weight, *modules)
