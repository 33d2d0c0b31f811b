"""MobileNets V1, V2 and V3, with or without SE blocks.

V1: Howard et al., arXiv:1704.04861, table 1. V2: Sandler et al., arXiv:1801.04381, table 2. V3:
Howard et al., arXiv:1905.02244, tables 1 and 2.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from se_flax.layers.initializers import he_normal
from se_flax.layers.make_block import make_block
from se_flax.layers.squeeze_excite import SqueezeExcite
from se_flax.models.base import Images, Logits, Map, Maps, Network, last
from se_flax.models.efficientnet import (
    PYTORCH,
    PYTORCH_FROM_TENSORFLOW,
    MBConv,
    depthwise_init,
    padding_of,
    stages_of_units,
)
from se_flax.models.registry import register

relu, relu6, hard_swish = jax.nn.relu, jax.nn.relu6, jax.nn.hard_swish

# For each stage: units, output channels, stride.
V1_STAGES = ((1, 64, 1), (2, 128, 2), (2, 256, 2), (6, 512, 2), (2, 1024, 2))

# For each stage: units, output channels, stride, expansion.
V2_STAGES = (
    (1, 16, 1, 1),
    (2, 24, 2, 6),
    (3, 32, 2, 6),
    (4, 64, 2, 6),
    (3, 96, 1, 6),
    (3, 160, 2, 6),
    (1, 320, 1, 6),
)

# For each unit: kernel size, expanded channels, output channels, SE, activation, stride.
V3_LARGE_STAGES = (
    ((3, 16, 16, False, relu, 1),),
    ((3, 64, 24, False, relu, 2), (3, 72, 24, False, relu, 1)),
    ((5, 72, 40, True, relu, 2), (5, 120, 40, True, relu, 1), (5, 120, 40, True, relu, 1)),
    (
        (3, 240, 80, False, hard_swish, 2),
        (3, 200, 80, False, hard_swish, 1),
        (3, 184, 80, False, hard_swish, 1),
        (3, 184, 80, False, hard_swish, 1),
    ),
    ((3, 480, 112, True, hard_swish, 1), (3, 672, 112, True, hard_swish, 1)),
    (
        (5, 672, 160, True, hard_swish, 2),
        (5, 960, 160, True, hard_swish, 1),
        (5, 960, 160, True, hard_swish, 1),
    ),
)
V3_SMALL_STAGES = (
    ((3, 16, 16, True, relu, 2),),
    ((3, 72, 24, False, relu, 2), (3, 88, 24, False, relu, 1)),
    (
        (5, 96, 40, True, hard_swish, 2),
        (5, 240, 40, True, hard_swish, 1),
        (5, 240, 40, True, hard_swish, 1),
    ),
    ((5, 120, 48, True, hard_swish, 1), (5, 144, 48, True, hard_swish, 1)),
    (
        (5, 288, 96, True, hard_swish, 2),
        (5, 576, 96, True, hard_swish, 1),
        (5, 576, 96, True, hard_swish, 1),
    ),
)

# Howard et al. 2019, section 5.3: "1/4 of the number of channels in expansion layer". Their code
# rounds it to a multiple of 8.
hard_se = functools.partial(SqueezeExcite, reduction=4, divisor=8, gate="hard_sigmoid")


class SeparableConv(nn.Module):
    """A depthwise 3x3 and a 1x1 convolution, each with batch norm and ReLU6 (V1, figure 3).

    Attributes:
        channels: number of output channels.
        stride: 1, or 2 to halve height and width.
        conv, norm: factories for convolutions and batch norms.
        se: factory for the SE block, or None; see `MobileNetV1`.
        drop_rate: has no effect, because there is no shortcut.
    """

    channels: int
    stride: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    se: Callable[..., nn.Module] | None = None
    drop_rate: float = 0.0

    @nn.compact
    def __call__(self, x: Images, train: bool) -> Map:
        """Returns the unit's output."""
        x = self.conv(
            x.shape[-1],
            (3, 3),
            strides=self.stride,
            padding=1,
            feature_group_count=x.shape[-1],
            kernel_init=depthwise_init,
            name="depthwise_conv",
        )(x)
        x = relu6(self.norm(name="depthwise_bn")(x))
        x = self.conv(self.channels, (1, 1), name="project_conv")(x)
        x = relu6(self.norm(name="project_bn")(x))
        return make_block(self.se, norm=self.norm)(x) if self.se else x


class MobileNetV1(Network, kw_only=True):
    """MobileNet (V1): units of a depthwise and a 1x1 convolution, without shortcuts.

    The SE paper does not say where the block is in its SE-MobileNet. Here it follows each unit's
    1x1 convolution and activation: with r = 16 the network then has 4.7 million parameters, as in
    table 3 of that paper, and 4.6 if it follows the depthwise convolution.

    Attributes:
        stages: for each stage its number of units, output channels and first stride.
    """

    stages: tuple[tuple[int, int, int], ...] = V1_STAGES

    def feature_maps(self, x: Images, train: bool) -> Maps:
        """Returns the output of each stage."""
        conv = self.make_conv(use_bias=False, kernel_init=he_normal)
        norm = self.make_norm(train)
        x = relu6(norm(name="stem_bn")(conv(32, (3, 3), 2, padding=1, name="stem_conv")(x)))
        unit = functools.partial(SeparableConv, conv=conv, norm=norm, se=self.se)
        stages = [
            [
                functools.partial(unit, channels=channels, stride=stride if j == 0 else 1)
                for j in range(units)
            ]
            for units, channels, stride in self.stages
        ]
        return stages_of_units(self, x, stages, 0.0, train)


class MobileNetV2(Network, kw_only=True):
    """MobileNetV2: mobile inverted bottlenecks (`MBConv`) with ReLU6.

    With SE, the blocks are those of MnasNet (Tan et al., arXiv:1807.11626), which has the same
    units: after the depthwise convolution, with a bottleneck of a quarter of the unit's *input*.

    Attributes:
        stages: for each stage its number of units, output channels, first stride and expansion.
    """

    stages: tuple[tuple[int, int, int, int], ...] = V2_STAGES
    dropout: float = 0.2

    def feature_maps(self, x: Images, train: bool) -> Maps:
        """Returns the output of each stage, then that of the `head`, a 1x1 convolution."""
        conv = self.make_conv(use_bias=False, kernel_init=he_normal)
        norm = self.make_norm(train)
        x = relu6(norm(name="stem_bn")(conv(32, (3, 3), 2, padding=1, name="stem_conv")(x)))
        unit = functools.partial(
            MBConv,
            kernel=3,
            conv=conv,
            norm=norm,
            se=self.se,
            symmetric_padding=True,
            activation=relu6,
        )
        stages = [
            [
                functools.partial(
                    unit, channels=channels, stride=stride if j == 0 else 1, expansion=expansion
                )
                for j in range(units)
            ]
            for units, channels, stride, expansion in self.stages
        ]
        maps = stages_of_units(self, x, stages, 0.0, train)
        x = conv(1280, (1, 1), name="head_conv")(last(maps))
        maps["head"] = relu6(norm(name="head_bn")(x))
        return maps


class MobileNetV3(Network, kw_only=True):
    """MobileNetV3: inverted bottlenecks with ReLU or hard swish, some of them with SE blocks.

    The defaults of the last three fields compute as the authors' code does in TensorFlow; ports to
    PyTorch differ in them, as for `EfficientNet`.

    Attributes:
        stages: for each stage and unit the kernel size, expanded channels, output channels,
            whether it has an SE block, its activation and its stride.
        head: channels of the last convolution, before the pooling.
        hidden: width of the dense layer after the pooling.
        stochastic_depth: see `EfficientNet`.
        se: factory for the SE blocks; see `Network`. The block follows a unit's depthwise
            convolution and activation, and its reduction refers to the *expanded* channels.
        symmetric_padding, norm_epsilon, norm_momentum: see `EfficientNet`.
    """

    stages: tuple[tuple[tuple[Any, ...], ...], ...]
    head: int
    hidden: int
    dropout: float = 0.2
    stochastic_depth: float = 0.0
    se: Callable[..., nn.Module] | None = hard_se
    symmetric_padding: bool = False
    norm_epsilon: float = 1e-3
    norm_momentum: float = 0.99

    def feature_maps(self, x: Images, train: bool) -> Maps:
        """Returns the output of each stage, then that of the `head`, a 1x1 convolution."""
        conv = self.make_conv(use_bias=False, kernel_init=he_normal)
        norm = self.make_norm(train, momentum=self.norm_momentum, epsilon=self.norm_epsilon)
        padding = padding_of(3, self.symmetric_padding)
        x = conv(16, (3, 3), 2, padding=padding, name="stem_conv")(x)
        x = hard_swish(norm(name="stem_bn")(x))
        stages = [
            [
                functools.partial(
                    MBConv,
                    channels=channels,
                    kernel=kernel,
                    stride=stride,
                    expansion=1,
                    expanded=expanded,
                    activation=activation,
                    conv=conv,
                    norm=norm,
                    se=self.se if has_se else None,
                    wide_se=True,
                    symmetric_padding=self.symmetric_padding,
                )
                for kernel, expanded, channels, has_se, activation, stride in units
            ]
            for units in self.stages
        ]
        maps = stages_of_units(self, x, stages, self.stochastic_depth, train)
        x = conv(self.head, (1, 1), name="head_conv")(last(maps))
        maps["head"] = hard_swish(norm(name="head_bn")(x))
        return maps

    def classify(self, maps: Maps, train: bool) -> Logits:
        """Returns the logits after a dense layer with hard swish."""
        x = jnp.mean(last(maps), axis=(1, 2), dtype=jnp.float32)
        x = hard_swish(nn.Dense(self.hidden, dtype=self.dtype, name="hidden")(x))
        return self.make_classifier()(self.apply_dropout(x, train).astype(jnp.float32))


register(
    "mobilenet_v1",
    MobileNetV1,
    input_size=224,
    paper="Howard et al., MobileNets, arXiv:1704.04861, table 1",
)
register(
    "mobilenet_v2",
    MobileNetV2,
    input_size=224,
    paper="Sandler et al., MobileNetV2, arXiv:1801.04381, table 2",
    se=functools.partial(SqueezeExcite, reduction=4),
)
# The images that the authors' networks take.
TENSORFLOW = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}

# As for EfficientNet, the name without a suffix is the form of the authors' code in TensorFlow,
# `_torch` that of torchvision, and `_timm` that of timm. timm calls the first kind
# tf_mobilenetv3_large_100, and the last mobilenetv3_large_100.
for _suffix, _note, _form in (
    ("", "", TENSORFLOW),
    ("_torch", ", as in torchvision", PYTORCH_FROM_TENSORFLOW),
    ("_timm", ", as in timm", PYTORCH),
):
    for _size, _table, _stages, _head, _hidden in (
        ("large", 1, V3_LARGE_STAGES, 960, 1280),
        ("small", 2, V3_SMALL_STAGES, 576, 1024),
    ):
        register(
            f"mobilenet_v3_{_size}{_suffix}",
            MobileNetV3,
            input_size=224,
            paper=f"Howard et al., Searching for MobileNetV3, arXiv:1905.02244, table {_table}"
            + _note,
            published_with_se=True,
            se=hard_se,
            stages=_stages,
            head=_head,
            hidden=_hidden,
            **_form,
        )
