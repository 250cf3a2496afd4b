"""Split attention (ResNeSt, arXiv 2004.08955, section 3).

Shapes: N batch, C channels of the block (``channels``), R radix (splits), K cardinality (groups),
H, W height and width. The convolution's output is radix-major: its R x C channels are R splits of C channels each.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import DeformConv2d

from resnest_backbones.models.arguments import NormLayer, check_positive
from resnest_backbones.models.layers import DropBlock, make_norm


def attention_channels(channels: int, radix: int) -> int:
    """Return the attention's hidden width: a quarter of the splits' channels, at least 32 (``splat.py``)."""
    return max(channels * radix // 4, 32)


class SplitAttentionConv2d(nn.Module):
    """A 3x3 convolution into ``radix`` splits, which channel attention weighs and sums into one.

    Source: equations 1-4 of the paper; ``resnest/torch/splat.py`` of the original, whose parameter names it keeps.
    With radix 1 there is nothing to choose among, and the attention is a sigmoid gate on each channel.

    Args:
        channels: channels of input and output, C.
        radix: number of splits, R, 1 or more.
        cardinality: number of groups, K; ``radix x cardinality`` divides ``channels``.
        dilation: dilation of the 3x3 convolution; the spatial size is kept (stride 1, padding = dilation).
        norm_layer: makes a normalization layer from a channel count; None for none.
        attention_norm_layer: likewise for the attention's hidden layer, which sees one value per image and channel;
            ``norm_layer`` where None.
        drop_block_rate: probability of dropping a value of the splits in training, before ReLU.
        deformable: the 3x3 convolution is deformable and ``forward`` needs ``offset`` (and ``mask`` for version 2).

    Raises:
        ValueError: a number is not a positive integer, or ``radix x cardinality`` does not divide ``channels``, or
            ``cardinality`` the attention's hidden width.
    """

    def __init__(
        self,
        channels: int,
        *,
        radix: int = 2,
        cardinality: int = 1,
        dilation: int = 1,
        norm_layer: NormLayer | None = nn.BatchNorm2d,
        attention_norm_layer: NormLayer | None = None,
        deformable: bool = False,
        drop_block_rate: float = 0.0,
    ) -> None:
        super().__init__()
        check_positive("channels", channels)
        check_positive("radix", radix)
        check_positive("cardinality", cardinality)
        check_positive("dilation", dilation)
        hidden = attention_channels(channels, radix)
        if channels % (radix * cardinality):
            got = f"radix {radix} and cardinality {cardinality}"
            raise ValueError(f"radix x cardinality must divide channels ({channels}), got {got}")
        if hidden % cardinality:
            raise ValueError(f"cardinality must divide the attention's hidden width ({hidden}), got {cardinality}")
        self.radix = radix
        self.cardinality = cardinality
        self.channels = channels
        make_conv = DeformConv2d if deformable else nn.Conv2d
        self.conv = make_conv(
            channels,
            channels * radix,
            kernel_size=3,
            padding=dilation,
            dilation=dilation,
            groups=cardinality * radix,
            bias=False,
        )
        self.bn0 = make_norm(norm_layer, channels * radix)
        self.fc1 = nn.Conv2d(channels, hidden, kernel_size=1, groups=cardinality)
        self.bn1 = make_norm(attention_norm_layer or norm_layer, hidden)
        self.fc2 = nn.Conv2d(hidden, channels * radix, kernel_size=1, groups=cardinality)
        self.relu = nn.ReLU(inplace=True)
        self.drop_block = DropBlock.of_rate(drop_block_rate)

    def attention(self, pooled: Tensor) -> Tensor:
        """Compute the weights of the splits, (N, R, C, 1, 1), from their pooled sum, (N, C, 1, 1).

        With K groups the hidden layer's output is group-major, (K, R, C/K), while the splits are radix-major: hence the
        transpose (``rSoftMax`` of the original).
        """
        return self.attention_of(self.fc2(self.relu(self.bn1(self.fc1(pooled)))))

    def attention_of(self, logits: Tensor) -> Tensor:
        """Turn the output of ``fc2``, (N, R x C, 1, 1), into weights, (N, R, C, 1, 1)."""
        n = logits.shape[0]
        if self.radix == 1:
            return torch.sigmoid(logits).view(n, 1, self.channels, 1, 1)
        logits = logits.view(n, self.cardinality, self.radix, self.channels // self.cardinality).transpose(1, 2)
        return logits.softmax(dim=1).reshape(n, self.radix, self.channels, 1, 1)

    def forward(self, x: Tensor, offset: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Apply the convolution and the attention.

        Args:
            x: (N, C, H, W).
            offset: (N, 2 x G x 9, H, W), sampling offsets in pixels of a deformable convolution with G offset groups,
                in the order of ``torchvision.ops.deform_conv2d``.
            mask: (N, G x 9, H, W), modulation of deformable convolution version 2.

        Returns:
            (N, C, H, W).
        """
        x = self.conv(x) if offset is None else self.conv(x, offset, mask)
        x = self.relu(self.drop_block(self.bn0(x)))
        # Under autocast the softmax computes in float32.
        return self.weigh(x, self.attention(self.pool(x)).to(x.dtype))

    def pool(self, splits: Tensor) -> Tensor:
        """Average the sum of the splits over the image: (N, R x C, H, W) -> (N, C, 1, 1)."""
        # The mean of the sum is the sum of the means: pooling each split first reads the large tensor once.
        return splits.mean(dim=(2, 3)).view(-1, self.radix, self.channels).sum(dim=1)[..., None, None]

    def weigh(self, splits: Tensor, weights: Tensor) -> Tensor:
        """Sum the splits, (N, R x C, H, W), each times its weights, (N, R, C, 1, 1): (N, C, H, W)."""
        w, x = weights.unbind(dim=1), splits.split(self.channels, dim=1)
        if self.radix == 2:
            # The two weights add up to one, so that their sum is an interpolation: a single pass over both splits.
            return torch.lerp(x[1], x[0], w[0])
        out = w[0] * x[0]
        for r in range(1, self.radix):
            out = torch.addcmul(out, w[r], x[r])
        return out
