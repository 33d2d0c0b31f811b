"""RegNetX and RegNetY (Radosavovic et al., arXiv:2003.13678, figures 15 and 16).

A RegNet is four stages of bottleneck units without a bottleneck: all three convolutions of a unit
have the same width, and the 3x3 convolution has groups. The widths follow a line. RegNetY has SE
blocks.
"""

import functools
import math
from fractions import Fraction

import flax.linen as nn

from se_flax.layers.make_block import make_block
from se_flax.layers.squeeze_excite import SqueezeExcite, round_width
from se_flax.models.base import Images, Map, Maps, Network, apply_module
from se_flax.models.registry import register
from se_flax.models.resnet import Unit, he_normal, relu


def stages_of(
    depth: int, w_0: int, w_a: float, w_m: float, group_width: int, nearest: bool = True
) -> tuple[tuple[int, int, int], ...]:
    """Returns (units, width, group width) of each stage (paper, equations 2 to 4).

    The widths u_j = w_0 + w_a j of the units are rounded to w_0 w_m^s with whole s, and then to
    multiples of 8. Units of the same width are a stage, whose width must be a multiple of its
    groups' width.

    Args:
        depth: number of units.
        w_0, w_a: initial width, and slope of the line.
        w_m: ratio of the widths of two stages, more or less.
        group_width: channels of a group.
        nearest: whether a stage's width becomes the nearest such multiple, as in the authors'
            code; otherwise the next one if the nearest is less than 90%, as in torchvision.
    """
    widths = []
    for j in range(depth):
        s = round(math.log(1 + w_a * j / w_0) / math.log(w_m))
        widths.append(round(w_0 * w_m**s / 8) * 8)
    stages = []
    for width in sorted(set(widths)):
        group = min(group_width, width)
        fitting = round(width / group) * group if nearest else round_width(width, group)
        stages.append((widths.count(width), fitting, group))
    return tuple(stages)


class RegNetUnit(Unit):
    """1x1, grouped 3x3 and 1x1 convolutions of equal width (paper, figure 4).

    The SE block follows the 3x3 convolution and its ReLU. Its reduction refers to the channels of
    the unit's *input*.

    Attributes:
        group_width: channels of each group of the 3x3 convolution.
    """

    group_width: int = 8

    @nn.compact
    def __call__(self, x: Images) -> Map:
        """Returns the unit's output."""
        width = self.width
        y = relu(self.norm(name="bn1")(self.conv(width, (1, 1), name="conv1")(x)))
        y = self.conv(
            width,
            (3, 3),
            strides=self.stride,
            padding=1,
            feature_group_count=width // self.group_width,
            name="conv2",
        )(y)
        y = relu(self.norm(name="bn2")(y))
        if self.se:
            y = make_block(self.se, norm=self.norm, expansion=Fraction(width, x.shape[-1]))(y)
        y = self.conv(width, (1, 1), name="conv3")(y)
        y = self.norm(name="bn3")(y)
        return self.add(self.shortcut(x, width), y, relu)


class RegNet(Network, kw_only=True):
    """A RegNet.

    The units of stage i are the submodules `stage{i}_unit{j}`, counted from 1. The first unit of
    every stage halves height and width.

    Attributes:
        stages: (units, width, group width) of each stage; see `stages_of`.
        stem_width: channels of the stem, a 3x3 convolution of stride 2.
    """

    stages: tuple[tuple[int, int, int], ...]
    stem_width: int = 32

    def feature_maps(self, x: Images, train: bool) -> Maps:
        """Returns the output of each stage."""
        conv = self.make_conv(use_bias=False, padding=0, kernel_init=he_normal)
        norm = self.make_norm(train)
        x = conv(self.stem_width, (3, 3), strides=2, padding=1, name="stem_conv")(x)
        x = relu(norm(name="stem_bn")(x))
        maps = {}
        for i, (units, width, group_width) in enumerate(self.stages, start=1):
            for j in range(1, units + 1):
                unit = functools.partial(
                    RegNetUnit,
                    width=width,
                    stride=2 if j == 1 else 1,
                    conv=conv,
                    norm=norm,
                    se=self.se,
                    group_width=group_width,
                    name=f"stage{i}_unit{j}",
                )
                x = self.apply_unit(functools.partial(apply_module, make=unit), x, train)
            maps[f"stage{i}"] = x
        return maps


# For each network: depth, w_0, w_a, w_m and group width. The figures of the paper have these
# numbers rounded; here they are as in the authors' code (github.com/facebookresearch/pycls).
NETWORKS: dict[str, tuple[int, int, float, float, int]] = {
    "x_400mf": (22, 24, 24.48, 2.54, 16),
    "x_600mf": (16, 48, 36.97, 2.24, 24),
    "x_800mf": (16, 56, 35.73, 2.28, 16),
    "x_1_6gf": (18, 80, 34.01, 2.25, 24),
    "x_3_2gf": (25, 88, 26.31, 2.25, 48),
    "x_4gf": (23, 96, 38.65, 2.43, 40),
    "x_6_4gf": (17, 184, 60.83, 2.07, 56),
    "x_8gf": (23, 80, 49.56, 2.88, 120),
    "x_12gf": (19, 168, 73.36, 2.37, 112),
    "x_16gf": (22, 216, 55.59, 2.1, 128),
    "y_400mf": (16, 48, 27.89, 2.09, 8),
    "y_600mf": (15, 48, 32.54, 2.32, 16),
    "y_800mf": (14, 56, 38.84, 2.4, 16),
    "y_1_6gf": (27, 48, 20.71, 2.65, 24),
    "y_3_2gf": (21, 80, 42.63, 2.66, 24),
    "y_4gf": (22, 96, 31.41, 2.24, 64),
    "y_6_4gf": (25, 112, 33.22, 2.27, 72),
    "y_8gf": (17, 192, 76.82, 2.19, 56),
    "y_12gf": (19, 168, 73.36, 2.37, 112),
    "y_16gf": (18, 200, 106.23, 2.48, 112),
}
# torchvision rounds the widths of these differently, and so has other networks by these names.
TORCHVISION = ("x_400mf", "y_800mf", "y_8gf")

regnet_se = functools.partial(SqueezeExcite, reduction=4)  # paper, appendix D


def _register(name: str, suffix: str, note: str, nearest: bool) -> None:
    figure = 15 if name.startswith("x") else 16
    register(
        f"regnet_{name}{suffix}",
        RegNet,
        input_size=224,
        paper=f"Radosavovic et al., Network Design Spaces, arXiv:2003.13678, figure {figure}{note}",
        published_with_se=name.startswith("y"),
        se=regnet_se,
        stages=stages_of(*NETWORKS[name], nearest),
    )


for _name in NETWORKS:
    _register(_name, "", "", nearest=True)
for _name in TORCHVISION:
    _register(_name, "_torch", ", as in torchvision", nearest=False)
