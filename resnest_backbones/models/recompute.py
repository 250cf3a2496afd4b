"""Training in less memory: what is cheap to compute is computed again in backward, not kept.

Between two convolutions of the trunk lie a batch norm, a ReLU, and in the middle of a block the attention. Functions
here take such a chain with the convolution after it, keep the chain's input with the batch's mean and variance, and
compute the cheap part again in backward. Of the convolutions only two cheap ones are computed twice: the stem's first,
and that of the first shortcut. Results and gradients are those of the plain chain, to rounding; ``applies`` says where.
Gradient checkpointing, of whole blocks, is ``Stage``'s.

Shapes: N batch, C channels of the block, R radix, H, W height and width; ``c`` is the output of a convolution.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.autograd.graph import saved_tensors_hooks
from torchvision.ops import DeformConv2d, DropBlock2d

from resnest_backbones.models.layers import ConvNorm
from resnest_backbones.models.norms import (
    Statistics,
    is_batch_norm,
    is_trained,
    normalize,
    normalize_again,
    normalize_backward,
)

if TYPE_CHECKING:
    from resnest_backbones.models.blocks import Bottleneck, DeepStem

Kept = Sequence[Tensor]  # what backward needs beside its input
Wanted = Sequence[bool]  # which gradients are needed

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
    return plain and "weight" in conv._parameters  # else it is computed of others, as by a parametrization


def _pool_backward(grad: Tensor, x: Tensor, pool: nn.Module) -> Tensor:
    if not isinstance(pool, nn.AvgPool2d):
        return grad
    sides = [[side, side] for side in (pool.kernel_size, pool.stride, pool.padding)]
    return _aten.avg_pool2d_backward(grad, x, *sides, pool.ceil_mode, pool.count_include_pad, None)


def _convolve(x: Tensor, weight: Tensor, conv: nn.Conv2d, dtype: torch.dtype | None = None) -> Tensor:
    """Convolve; in backward, where autocast does not choose the type, in ``dtype``."""
    if dtype is not None:
        x, weight = x.to(dtype), weight.to(dtype)
    return F.conv2d(x, weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)


def _convolve_backward(
    grad: Tensor, x: Tensor, weight: Tensor, conv: nn.Conv2d, wanted: Wanted
) -> tuple[Tensor | None, Tensor | None]:
    """Compute gradients of input and weight, in the type of ``grad``, which autocast had chosen."""
    given = (x.to(grad.dtype), weight.to(grad.dtype), None)
    places = (conv.stride, conv.padding, conv.dilation, False, [0, 0], conv.groups)
    of_x, of_weight, _ = _aten.convolution_backward(grad, *given, *places, [*wanted, False])
    return of_x, None if of_weight is None else of_weight.to(weight.dtype)


class _NormRelu(torch.autograd.Function):
    """A convolution or none, norm, ReLU, and what ``rest``, one of the classes below, computes of these."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, first_weight: Tensor | None, scale: Tensor, shift: Tensor, modules: Any, *weights: Tensor
    ) -> Tensor:
        first, norm, rest = modules
        c = x if first_weight is None else _convolve(x, first_weight, first)
        y, statistics = normalize(c, norm)
        out, kept = rest.forward(y, *weights)
        ctx.save_for_backward(x, first_weight, scale, shift, *statistics, *kept)
        ctx.modules = modules
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, first_weight, scale, shift, mean, variance, inverse_deviation, share, *kept = ctx.saved_tensors
        first, norm, rest = ctx.modules
        statistics = Statistics(mean, variance, inverse_deviation, share)
        of_image, of_first, *of_norm, _ = ctx.needs_input_grad[:5]
        of_c = of_image or of_first
        c = x if first_weight is None else _convolve(x, first_weight, first, grad.dtype)
        y = normalize_again(c, scale, shift, statistics, norm.eps)
        grad_y, *grad_weights = rest.backward(grad, y, kept, (of_c or any(of_norm), *ctx.needs_input_grad[5:]))
        grad_c = grad_first = None
        grad_norm: Sequence[Tensor | None] = (None, None)
        if grad_y is not None:
            grad_c, *grad_norm = normalize_backward(grad_y, y, c, scale, statistics, norm, (of_c, *of_norm))
        if first_weight is not None and grad_c is not None:
            grad_c, grad_first = _convolve_backward(grad_c, x, first_weight, first, (of_image, of_first))
        return (grad_c, grad_first, *grad_norm, None, *grad_weights)


class _PoolConv(NamedTuple):
    """Average pool or none, convolution.

    ``forward`` gives what it computes, and what it keeps for ``backward``; that yields the gradients of its arguments.
    """

    pool: nn.Module
    conv: nn.Conv2d

    def forward(self, y: Tensor, weight: Tensor) -> tuple[Tensor, Kept]:
        return _convolve(self.pool(y), weight, self.conv), (weight,)

    def backward(self, grad: Tensor, y: Tensor, kept: Kept, wanted: Wanted) -> Iterator[Tensor | None]:
        of_x, of_weight = _convolve_backward(grad, self.pool(y), kept[0], self.conv, wanted)
        yield None if of_x is None else _pool_backward(of_x, y, self.pool)
        yield of_weight


class _MaxPool(NamedTuple):
    """Max pool."""

    pool: Any

    def forward(self, y: Tensor) -> tuple[Tensor, Kept]:
        return self.pool(y), ()

    def backward(self, grad: Tensor, y: Tensor, kept: Kept, wanted: Wanted) -> Iterator[Tensor | None]:
        pool = self.pool
        sides = [[side, side] for side in (pool.kernel_size, pool.stride, pool.padding, pool.dilation)]
        _, indices = _aten.max_pool2d_with_indices(y, *sides, pool.ceil_mode)
        yield _aten.max_pool2d_with_indices_backward(grad, y, *sides, pool.ceil_mode, indices)


class _PoolDeformConv(NamedTuple):
    """Average pool or none, deformable convolution; its offsets, and its mask's logits, are kept.

    What is sampled is not sampled again: the convolution's backward needs no more than its inputs.
    """

    block: Any

    def forward(self, y: Tensor, offset_weight: Tensor, bias: Tensor, weight: Tensor) -> tuple[Tensor, Kept]:
        block, pooled = self.block, self.block.pool_before(y)
        offsets = block.conv2_offset(pooled)
        return block.conv2.conv(pooled, *block.split_offsets(offsets)), (offset_weight, weight, offsets)

    def backward(self, grad: Tensor, y: Tensor, kept: Kept, wanted: Wanted) -> Iterator[Tensor | None]:
        block, (offset_weight, weight, offsets) = self.block, kept
        conv, to_offsets, pooled = block.conv2.conv, block.conv2_offset, block.pool_before(y)
        offset, mask = block.split_offsets(offsets)
        # In float32 under autocast, where torchvision computes forward so too.
        dtype = torch.promote_types(grad.dtype, torch.float32)
        no_mask, no_bias = grad.new_zeros(len(y), 1), grad.new_zeros(len(weight))
        given = (grad, pooled, weight, offset, no_mask if mask is None else mask, no_bias)
        places = (
            *conv.stride,
            *conv.padding,
            *conv.dilation,
            conv.groups,
            offset.shape[1] // weight[0, 0].numel() // 2,
        )
        of_pooled, of_weight, of_offset, of_mask, _ = torch.ops.torchvision._deform_conv2d_backward(
            *(value.to(dtype) for value in given), *places, mask is not None
        )
        if mask is not None:
            of_offset = torch.cat([of_offset, _aten.sigmoid_backward(of_mask, mask.to(dtype))], dim=1)
        of_offset = of_offset.to(offsets.dtype)
        by_offsets, of_offset_weight = _convolve_backward(of_offset, pooled, offset_weight, to_offsets, (True, True))
        assert by_offsets is not None
        yield _pool_backward((of_pooled + by_offsets).to(y.dtype), y, block.pool_before)
        yield of_offset_weight
        yield of_offset.sum((0, 2, 3), dtype=offset_weight.dtype)
        yield of_weight.to(weight.dtype)


class _AttentionPoolConv:
    """Attention over the splits, average pool or none, convolution.

    The attention's own layers see one value per image and channel: they are left to PyTorch, whose small graph is kept.
    """

    def __init__(self, attention: Any, pool: nn.Module, conv: nn.Conv2d) -> None:
        self.attention, self.pool, self.conv = attention, pool, conv

    def forward(self, y: Tensor, weight: Tensor, *parameters: Tensor) -> tuple[Tensor, Kept]:
        # A hook that packs saved tensors, such as a checkpoint around this, must leave the small graph alone.
        with torch.enable_grad(), saved_tensors_hooks(_as_it_is, _as_it_is):
            pooled = self.attention.pool(y.detach()).requires_grad_()
            weights = self.attention.attention(pooled).to(y.dtype)
        self.graph = pooled, weights, parameters
        return _convolve(self.pool(self.attention.weigh(y, weights.detach())), weight, self.conv), (weight,)

    def backward(self, grad: Tensor, y: Tensor, kept: Kept, wanted: Wanted) -> Iterator[Tensor | None]:
        pooled, weights, parameters = self.graph
        shares = weights.detach().unbind(1)
        mixed = self.attention.weigh(y, weights.detach())
        of_x, of_weight = _convolve_backward(grad, self.pool(mixed), kept[0], self.conv, (True, wanted[1]))
        assert of_x is not None
        of_mixed = _pool_backward(of_x, mixed, self.pool)
        products = (torch.mul(of_mixed, s, out=mixed).sum((2, 3), keepdim=True) for s in y.chunk(len(shares), dim=1))
        of_weights = torch.stack([*products], dim=1)
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        of_pooled, *found = torch.autograd.grad(weights, [pooled, *trained], of_weights, retain_graph=True)
        if not wanted[0]:
            yield None
        else:
            of_y, of_pooled = torch.empty_like(y), of_pooled.to(y.dtype) / (y.shape[2] * y.shape[3])
            for part, share in zip(of_y.chunk(len(shares), dim=1), shares, strict=True):
                torch.addcmul(of_pooled, share, of_mixed, out=part)
            yield of_y
        yield of_weight
        gradients = iter(found)
        for parameter in parameters:
            yield next(gradients) if parameter.requires_grad else None


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


class _PoolConvNorm(torch.autograd.Function):
    """Average pool or none, convolution, norm: the shortcut of a block, whose input the block keeps in any case."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, *modules: Any) -> Tensor:
        pool, conv, norm = modules
        c = _convolve(pool(x), weight, conv)
        out, statistics = normalize(c, norm, relu=False)
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
                c = _convolve(pooled, weight, conv, grad.dtype)
            grad_c, *grad_norm = normalize_backward(grad, None, c, scale, statistics, norm, (True, *of_norm))
            assert grad_c is not None
        else:
            grad_c = grad * (scale * statistics.inverse_deviation)[:, None, None].to(grad.dtype)
        grad_pooled, grad_weight = _convolve_backward(grad_c, pooled, weight, conv, (of_x, of_weight))
        grad_x = None if grad_pooled is None else _pool_backward(grad_pooled, x, pool)
        return (grad_x, grad_weight, *grad_norm, None, None, None)


def applies(module: DeepStem | Bottleneck, x: Tensor) -> bool:
    """Return whether ``stem`` or ``bottleneck`` computes what the modules would compute one after the other.

    They do where gradients are computed eagerly, with convolutions without bias, and with batch norms: trained, frozen
    or synchronized between processes, without DropBlock. Under ``torch.compile``, which decides itself what to keep, in
    an export or a transform of ``torch.func`` or ``torch.fx``, whose ``x`` is no tensor, or where a hook waits for a
    module's output, the modules are called.

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
        known = known and not (isinstance(part, DropBlock2d) and part.training and part.p)
        if not known or has_hooks(part):
            if module.recompute is True:
                reason = "has a hook" if known else "is of a kind that cannot be recomputed"
                raise ValueError(f'recompute must be "auto" or False if a part of a block {reason}, got True: {part}')
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
    others = [attention, attention.relu, attention.drop_block, module.relu, module.drop_block]
    others += [module.pool_before, module.pool_after, module.shortcut_pool]
    return convs, norms, [*others, *([] if module.conv2_offset is None else [module.conv2_offset])]


def stem(module: DeepStem, x: Tensor) -> Tensor:
    """Compute a stem: (N, in_channels, H, W) -> (N, 2 x width, H / 4, W / 4)."""
    first, second, third = module.conv1_1, module.conv1_2, module.conv1_3
    c = _norm_relu(x, first.norm, _PoolConv(nn.Identity(), second), second.weight, first=first)
    c = _norm_relu(c, second.norm, _PoolConv(nn.Identity(), third), third.weight)
    return _norm_relu(c, third.norm, _MaxPool(module.maxpool))


def bottleneck(module: Bottleneck, x: Tensor) -> Tensor:
    """Compute a block: (N, in_channels, H, W) -> (N, 4 x planes, H / stride, W / stride)."""
    attention, last, shortcut = module.conv2, module.conv3, module.shortcut
    c, norm, offset = module.conv1.convolve(x), module.conv1.norm, module.conv2_offset
    if offset is None:
        c = _norm_relu(c, norm, _PoolConv(module.pool_before, attention.conv), attention.conv.weight)
    else:
        c = _norm_relu(c, norm, _PoolDeformConv(module), offset.weight, offset.bias, attention.conv.weight)
    parameters = [p for m in (attention.fc1, attention.bn1, attention.fc2) for p in m.parameters()]
    rest = _AttentionPoolConv(attention, module.pool_after, last)
    out = last.norm(_norm_relu(c, attention.bn0, rest, last.weight, *parameters))
    if isinstance(shortcut, ConvNorm):
        norm, pool = shortcut.norm, module.shortcut_pool
        x = _PoolConvNorm.apply(x, shortcut.weight, norm.weight, norm.bias, pool, shortcut, norm)
    else:
        x = shortcut(module.shortcut_pool(x))
    return module.relu(module.drop_path(out).add_(x))


def _norm_relu(x: Tensor, norm: Any, rest: Any, *weights: Any, first: nn.Conv2d | None = None) -> Tensor:
    """Compute ``rest`` of ``relu(norm(first(x)))``, of which ``x`` alone is kept."""
    first_weight = None if first is None else first.weight
    return _NormRelu.apply(x, first_weight, norm.weight, norm.bias, (first, norm, rest), *weights)
