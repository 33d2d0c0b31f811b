"""EfficientNetV2 (Tan & Le, arXiv:2104.00298): fused units first, mobile units with SE after them.

Table 4 of the paper defines S. M and L are those of the authors' code
(github.com/google/automl/tree/master/efficientnetv2).
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from se_flax.layers.initializers import he_normal
from se_flax.models.base import Images, Map, Maps, Network, last
from se_flax.models.efficientnet import (
    PYTORCH_FROM_TENSORFLOW,
    MBConv,
    add_shortcut,
    classifier_init,
    padding_of,
    stages_of_units,
    swish_se,
)
from se_flax.models.registry import register

# For each stage: whether its units are fused, units, output channels, stride, expansion. The units
# that are not fused have SE blocks. All kernels are 3x3.
S_STAGES = (
    (True, 2, 24, 1, 1),
    (True, 4, 48, 2, 4),
    (True, 4, 64, 2, 4),
    (False, 6, 128, 2, 4),
    (False, 9, 160, 1, 6),
    (False, 15, 256, 2, 6),
)
M_STAGES = (
    (True, 3, 24, 1, 1),
    (True, 5, 48, 2, 4),
    (True, 5, 80, 2, 4),
    (False, 7, 160, 2, 4),
    (False, 14, 176, 1, 6),
    (False, 18, 304, 2, 6),
    (False, 5, 512, 1, 6),
)
L_STAGES = (
    (True, 4, 32, 1, 1),
    (True, 7, 64, 2, 4),
    (True, 7, 96, 2, 4),
    (False, 10, 192, 2, 4),
    (False, 19, 224, 1, 6),
    (False, 25, 384, 2, 6),
    (False, 7, 640, 1, 6),
)
HEAD = 1280


class FusedMBConv(nn.Module):
    """A mobile inverted bottleneck whose first two convolutions are one (paper, figure 2).

    Batch norm follows each convolution, and swish the first. With an expansion of 1 there is only
    the first. A unit that changes the shape has no shortcut.

    Attributes:
        channels: number of output channels.
        stride: 1, or 2 to halve height and width.
        expansion: channels after the first convolution divided by those of the input.
        drop_rate: probability, in training, that an example skips the branch.
        conv, norm: factories for convolutions and batch norms.
        symmetric_padding: see `EfficientNet`.
    """

    channels: int
    stride: int
    expansion: int
    drop_rate: float
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    symmetric_padding: bool = False

    @nn.compact
    def __call__(self, x: Images, train: bool) -> Map:
        """Returns the unit's output."""
        inner = self.channels if self.expansion == 1 else x.shape[-1] * self.expansion
        padding = padding_of(3, self.symmetric_padding)
        y = self.conv(inner, (3, 3), strides=self.stride, padding=padding, name="fused_conv")(x)
        y = jax.nn.swish(self.norm(name="fused_bn")(y))
        if self.expansion != 1:
            y = self.conv(self.channels, (1, 1), name="project_conv")(y)
            y = self.norm(name="project_bn")(y)
        return add_shortcut(x, y, self.stride, self.drop_rate, train)


class EfficientNetV2(Network, kw_only=True):
    """An EfficientNetV2.

    The defaults of the last three fields compute as the authors' code does in TensorFlow; ports to
    PyTorch differ in them, as for `EfficientNet`.

    Attributes:
        stages: for each stage whether its units are fused, its number of units, output channels,
            first stride and expansion.
        stochastic_depth, se: see `EfficientNet`. Fused units have no SE block.
        symmetric_padding, norm_epsilon, norm_momentum: see `EfficientNet`.
    """

    stages: tuple[tuple[bool, int, int, int, int], ...] = S_STAGES
    dropout: float = 0.2
    stochastic_depth: float = 0.2
    se: Callable[..., nn.Module] | None = swish_se
    symmetric_padding: bool = False
    norm_epsilon: float = 1e-3
    norm_momentum: float = 0.99

    def feature_maps(self, x: Images, train: bool) -> Maps:
        """Returns the output of each stage, then that of the `head`, a 1x1 convolution."""
        conv = self.make_conv(use_bias=False, kernel_init=he_normal)
        norm = self.make_norm(train, momentum=self.norm_momentum, epsilon=self.norm_epsilon)
        shared = {"conv": conv, "norm": norm, "symmetric_padding": self.symmetric_padding}
        stem = self.stages[0][2]
        padding = padding_of(3, self.symmetric_padding)
        x = conv(stem, (3, 3), strides=2, padding=padding, name="stem_conv")(x)
        x = jax.nn.swish(norm(name="stem_bn")(x))
        mobile = functools.partial(MBConv, kernel=3, se=self.se, **shared)
        fused = functools.partial(FusedMBConv, **shared)
        stages = [
            [
                functools.partial(
                    fused if is_fused else mobile,
                    channels=channels,
                    stride=stride if j == 0 else 1,
                    expansion=expansion,
                )
                for j in range(units)
            ]
            for is_fused, units, channels, stride, expansion in self.stages
        ]
        maps = stages_of_units(self, x, stages, self.stochastic_depth, train)
        x = conv(HEAD, (1, 1), name="head_conv")(last(maps))
        maps["head"] = jax.nn.swish(norm(name="head_bn")(x))
        return maps

    def make_classifier(self, **fields: Any) -> nn.Module:
        """Creates the last layer, initialised as in the authors' code."""
        return super().make_classifier(kernel_init=classifier_init, **fields)


_HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}

# `_torch` is to these names what it is to those of the first EfficientNets: torchvision's padding.
# timm calls the first kind tf_efficientnetv2_s. The size is that of the published accuracies;
# torchvision normalises the images of L as the authors do.
for _size, _stages, _pixels, _dropout, _interpolation, _torch in (
    ("s", S_STAGES, 384, 0.2, "bilinear", {}),
    ("m", M_STAGES, 480, 0.3, "bilinear", {}),
    ("l", L_STAGES, 480, 0.4, "bicubic", _HALF),
):
    for _suffix, _note, _form in (
        ("", "", {"interpolation": "bicubic", **_HALF}),
        (
            "_torch",
            ", as in torchvision",
            {"interpolation": _interpolation, **_torch, **PYTORCH_FROM_TENSORFLOW},
        ),
    ):
        register(
            f"efficientnet_v2_{_size}{_suffix}",
            EfficientNetV2,
            input_size=_pixels,
            paper=f"Tan & Le, EfficientNetV2, arXiv:2104.00298, table 7{_note}",
            crop_pct=1.0,
            published_with_se=True,
            se=swish_se,
            stages=_stages,
            dropout=_dropout,
            **_form,
        )
