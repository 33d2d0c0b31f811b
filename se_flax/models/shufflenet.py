"""ShuffleNet (Zhang et al., arXiv:1707.01083, table 1), with or without SE blocks."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from se_flax.layers.cpu import max_pool, residual_sum
from se_flax.layers.make_block import make_block
from se_flax.models.base import Images, Map, Maps, Network, apply_module
from se_flax.models.registry import register
from se_flax.models.resnet import he_normal, relu


def shuffle_channels(x: Images, groups: int) -> Images:
    """Orders the channels so that each group of the next convolution sees all groups of x."""
    return jnp.reshape(jnp.swapaxes(jnp.reshape(x, (*x.shape[:3], groups, -1)), 3, 4), x.shape)


class ShuffleUnit(nn.Module):
    """Grouped 1x1, depthwise 3x3 and grouped 1x1 convolutions (paper, figure 2 b and c).

    With stride 2, the averaged input and the branch are concatenated; otherwise they are added. The
    SE block is on the branch before that, as in a residual unit. The SE paper does not say where it
    is in its SE-ShuffleNet; so placed, the network has as many parameters as in table 3 there.

    Attributes:
        channels: number of output channels.
        stride: 1, or 2 to halve height and width.
        groups: number of groups of the 1x1 convolutions.
        first: whether this is the network's first unit, whose first convolution has no groups.
        conv, norm: factories for convolutions and batch norms.
        se: factory for the SE block, or None.
    """

    channels: int
    stride: int
    groups: int
    first: bool
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    se: Callable[..., nn.Module] | None = None

    @nn.compact
    def __call__(self, x: Images) -> Map:
        """Returns the unit's output."""
        groups = functools.partial(self.conv, kernel_size=(1, 1), feature_group_count=self.groups)
        inner = self.channels // 4
        first = functools.partial(self.conv, kernel_size=(1, 1)) if self.first else groups
        y = relu(self.norm(name="bn1")(first(inner, name="conv1")(x)))
        y = y if self.first else shuffle_channels(y, self.groups)
        y = self.conv(
            inner,
            (3, 3),
            strides=self.stride,
            padding=1,
            feature_group_count=inner,
            name="depthwise_conv",
        )(y)
        y = self.norm(name="depthwise_bn")(y)
        outputs = self.channels - x.shape[-1] if self.stride > 1 else self.channels
        y = self.norm(name="bn2")(groups(outputs, name="conv2")(y))
        y = make_block(self.se, norm=self.norm)(y) if self.se else y
        if self.stride == 1:
            return residual_sum(x, y, relu)
        x = nn.avg_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        return relu(jnp.concatenate([x, y], axis=-1))


class ShuffleNet(Network, kw_only=True):
    """A ShuffleNet.

    The units of stage i are the submodules `stage{i}_unit{j}`, counted from 1 (stage 2 of table 1
    is stage 1 here).

    Attributes:
        stage_sizes: number of units of each stage, whose first unit halves height and width.
        widths: channels of each stage.
        groups: number of groups of the 1x1 convolutions.
    """

    stage_sizes: tuple[int, ...] = (4, 8, 4)
    widths: tuple[int, ...] = (240, 480, 960)
    groups: int = 3

    def feature_maps(self, x: Images, train: bool) -> Maps:
        """Returns the output of each stage."""
        conv = self.make_conv(use_bias=False, padding=0, kernel_init=he_normal)
        norm = self.make_norm(train)
        x = conv(24, (3, 3), strides=2, padding=1, name="stem_conv")(x)
        x = relu(norm(name="stem_bn")(x))
        x = max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        maps = {}
        for i, (size, width) in enumerate(zip(self.stage_sizes, self.widths, strict=True), start=1):
            for j in range(1, size + 1):
                unit = functools.partial(
                    ShuffleUnit,
                    channels=width,
                    stride=2 if j == 1 else 1,
                    groups=self.groups,
                    first=i == j == 1,
                    conv=conv,
                    norm=norm,
                    se=self.se,
                    name=f"stage{i}_unit{j}",
                )
                x = self.apply_unit(functools.partial(apply_module, make=unit), x, train)
            maps[f"stage{i}"] = x
        return maps


register(
    "shufflenet",
    ShuffleNet,
    input_size=224,
    paper="Zhang et al., ShuffleNet, arXiv:1707.01083, table 1, with 3 groups",
)
