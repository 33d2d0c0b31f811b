"""EfficientNet (Tan & Le, arXiv:1905.11946), with compound scaling and its grid search."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax

from se_flax.errors import UserError
from se_flax.layers.cpu import residual_sum
from se_flax.layers.initializers import he_normal
from se_flax.layers.make_block import make_block
from se_flax.layers.squeeze_excite import SqueezeExcite, round_width
from se_flax.models.base import Images, Map, Maps, Network, apply_module, last
from se_flax.models.registry import register

# A depthwise kernel [kh, kw, 1, c] is c convolutions of one channel each: fan-out is kh * kw.
depthwise_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal", in_axis=-1, out_axis=-2)
classifier_init = nn.initializers.variance_scaling(1 / 3, "fan_out", "uniform")

# For each stage of B0 (table 1): units, output channels, kernel size, stride, expansion.
B0_STAGES = (
    (1, 16, 3, 1, 1),
    (2, 24, 3, 2, 6),
    (2, 40, 5, 2, 6),
    (3, 80, 3, 2, 6),
    (3, 112, 5, 1, 6),
    (4, 192, 5, 2, 6),
    (1, 320, 3, 1, 6),
)
B0_RESOLUTION = 224
B0_DROPOUT, B7_DROPOUT = 0.2, 0.5

swish_se = functools.partial(SqueezeExcite, reduction=4, activation="swish")


def round_channels(channels: float) -> int:
    """Rounds channels to the nearest multiple of 8, or up where that would lose more than 10%."""
    return round_width(channels, 8)


def padding_of(kernel: int, symmetric: bool) -> int | str:
    """Returns the padding of a convolution, equal on all sides or as in TensorFlow."""
    return kernel // 2 if symmetric else "SAME"


class MBConv(nn.Module):
    """A mobile inverted bottleneck: y = x + project(se(depthwise(expand(x)))).

    Batch norm follows each convolution, and the activation follows the first two. A unit that
    changes the shape has no shortcut.

    Attributes:
        channels: number of output channels.
        kernel: height and width of the depthwise convolution's kernel.
        stride: 1, or 2 to halve height and width.
        expansion: channels of the depthwise convolution divided by those of the input. If they
            are equal, there is no expanding convolution.
        drop_rate: probability, in training, that an example skips the branch.
        conv, norm: factories for convolutions and batch norms.
        se: factory for the SE block, or None; see `EfficientNet`.
        symmetric_padding: see `EfficientNet`.
        activation: activation after the expanding and the depthwise convolution.
        expanded: channels of the depthwise convolution; overrides `expansion`.
        wide_se: see `EfficientNet`.
    """

    channels: int
    kernel: int
    stride: int
    expansion: int
    drop_rate: float
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    se: Callable[..., nn.Module] | None = None
    symmetric_padding: bool = False
    activation: Callable[[Images], Images] = jax.nn.swish
    expanded: int | None = None
    wide_se: bool = False

    @nn.compact
    def __call__(self, x: Images, train: bool) -> Map:
        """Returns the unit's output."""
        inputs = x.shape[-1]
        inner = self.expanded or inputs * self.expansion
        y = x
        if inner != inputs:
            y = self.conv(inner, (1, 1), name="expand_conv")(y)
            y = self.activation(self.norm(name="expand_bn")(y))
        y = self.conv(
            inner,
            (self.kernel, self.kernel),
            strides=self.stride,
            padding=padding_of(self.kernel, self.symmetric_padding),
            feature_group_count=inner,
            kernel_init=depthwise_init,
            name="depthwise_conv",
        )(y)
        y = self.activation(self.norm(name="depthwise_bn")(y))
        if self.se:
            hints = {} if self.wide_se else {"expansion": self.expansion}
            y = make_block(self.se, norm=self.norm, **hints)(y)
        y = self.conv(self.channels, (1, 1), name="project_conv")(y)
        y = self.norm(name="project_bn")(y)
        return add_shortcut(x, y, self.stride, self.drop_rate, train)


def add_shortcut(x: Images, y: Map, stride: int, drop_rate: float, train: bool) -> Map:
    """Returns a unit's output: the branch y, plus the input x if that has the same shape.

    In training, each example skips the branch with probability `drop_rate`.
    """
    if stride != 1 or x.shape[-1] != y.shape[-1]:
        return y
    drop = nn.Dropout(drop_rate, broadcast_dims=(1, 2, 3), deterministic=not train)
    return residual_sum(x, drop(y))


def stages_of_units(
    network: Network,
    x: Images,
    stages: Sequence[Sequence[Callable[..., nn.Module]]],
    stochastic_depth: float,
    train: bool,
) -> Maps:
    """Returns the output of each stage, whose units are the submodules `stage{i}_unit{j}`.

    Args:
        network: the network, which gets these submodules.
        x: input of the first unit.
        stages: for each stage a factory for each unit, called with a name and a `drop_rate`.
        stochastic_depth: see `EfficientNet`.
        train: see `Network`.
    """
    maps, done, total = {}, 0, sum(map(len, stages))
    for i, units in enumerate(stages, start=1):
        for j, unit in enumerate(units, start=1):
            rate = stochastic_depth * done / total
            make = functools.partial(unit, drop_rate=rate, name=f"stage{i}_unit{j}")
            x = network.apply_unit(
                functools.partial(apply_module, make=make, train=train), x, train
            )
            done += 1
        maps[f"stage{i}"] = x
    return maps


class EfficientNet(Network, kw_only=True):
    """An EfficientNet: B0, scaled in width and depth by two coefficients.

    The units of stage i are the submodules `stage{i}_unit{j}`, counted from 1 (table 1 of the
    paper counts the stem as stage 1). The defaults compute as the authors' code does in
    TensorFlow; ports to PyTorch differ in the last three fields.

    Attributes:
        width_coefficient: factor for the channels of every convolution of B0, rounded by
            `round_channels`.
        depth_coefficient: factor for the number of units of every stage, rounded up.
        resolution: height and width, in pixels, of the images that the network is meant for. It
            accepts other sizes.
        stochastic_depth: rate of stochastic depth (Huang et al., arXiv:1603.09382). With k of n
            units before it, a unit skips its branch with probability stochastic_depth * k / n.
        se: factory for the SE blocks; see `Network`. The block follows a unit's depthwise
            convolution. Its `reduction` refers to the channels of the unit's *input*, not to the
            expanded channels that the block rescales; it is 4 in the published networks. A
            `width` is used as it is.
        symmetric_padding: whether convolutions pad by equally many pixels on all sides, as in
            PyTorch. Otherwise they pad as in TensorFlow ("SAME"): with stride 2 and an even size,
            there is one pixel more of padding below and to the right.
        norm_epsilon: number added to the variance in every batch norm.
        norm_momentum: factor by which a training step multiplies the running statistics before it
            adds the rest from the batch.
        wide_se: whether `reduction` refers to the expanded channels ("widese", see `WIDE_SE`).
    """

    width_coefficient: float = 1.0
    depth_coefficient: float = 1.0
    resolution: int = B0_RESOLUTION
    dropout: float = B0_DROPOUT
    stochastic_depth: float = 0.2
    se: Callable[..., nn.Module] | None = swish_se
    symmetric_padding: bool = False
    norm_epsilon: float = 1e-3
    norm_momentum: float = 0.99
    wide_se: bool = False

    def feature_maps(self, x: Images, train: bool) -> Maps:
        """Returns the output of each stage, then that of the `head`, a 1x1 convolution."""
        conv = self.make_conv(use_bias=False, kernel_init=he_normal)
        norm = self.make_norm(train, momentum=self.norm_momentum, epsilon=self.norm_epsilon)
        widths = [round_channels(width * self.width_coefficient) for width in (32, 1280)]
        padding = padding_of(3, self.symmetric_padding)
        x = conv(widths[0], (3, 3), strides=2, padding=padding, name="stem_conv")(x)
        x = jax.nn.swish(norm(name="stem_bn")(x))
        stages = [
            [
                functools.partial(
                    MBConv,
                    channels=round_channels(channels * self.width_coefficient),
                    kernel=kernel,
                    stride=stride if j == 0 else 1,
                    expansion=expansion,
                    conv=conv,
                    norm=norm,
                    se=self.se,
                    symmetric_padding=self.symmetric_padding,
                    wide_se=self.wide_se,
                )
                for j in range(math.ceil(units * self.depth_coefficient))
            ]
            for units, channels, kernel, stride, expansion in B0_STAGES
        ]
        maps = stages_of_units(self, x, stages, self.stochastic_depth, train)
        x = conv(widths[1], (1, 1), name="head_conv")(last(maps))
        maps["head"] = jax.nn.swish(norm(name="head_bn")(x))
        return maps

    def make_classifier(self, **fields: Any) -> nn.Module:
        """Creates the last layer, initialised as in the authors' code."""
        return super().make_classifier(kernel_init=classifier_init, **fields)


def efficientnet(
    phi: float,
    num_classes: int = 1000,
    *,
    alpha: float = 1.2,
    beta: float = 1.1,
    gamma: float = 1.15,
    **fields: Any,
) -> EfficientNet:
    """Scales B0 by the compound coefficient phi (equation 3 of the paper).

    Depth is multiplied by alpha^phi, width by beta^phi and the network's `resolution` by
    gamma^phi. With alpha beta^2 gamma^2 near 2, the multiply-adds grow by about 2^phi. The
    dropout rate grows linearly from 0.2 for phi = 0 to 0.5 for phi = 7, and is 0.5 for larger
    phi (section 5.2).

    phi = 1 to 7 do not give the published B1 to B7. Those have the rounded coefficients of the
    authors' table; build them with `create_model("efficientnet_b1")` and so on.

    Args:
        phi: compound coefficient, at least 0; 0 gives B0.
        num_classes: size of the classifier's output.
        alpha: base of the factor for depth, at least 1.
        beta: base of the factor for width, at least 1.
        gamma: base of the factor for resolution, at least 1.
        **fields: other fields of `EfficientNet`.

    Raises:
        UserError: if phi, alpha, beta or gamma is too small.
    """
    for name, value, least in (
        ("phi", phi, 0),
        ("alpha", alpha, 1),
        ("beta", beta, 1),
        ("gamma", gamma, 1),
    ):
        if not value >= least:
            raise UserError(f"{name} must be at least {least}, not {value!r}")
    fields.setdefault("dropout", B0_DROPOUT + (B7_DROPOUT - B0_DROPOUT) * min(phi / 7, 1))
    return EfficientNet(
        depth_coefficient=alpha**phi,
        width_coefficient=beta**phi,
        resolution=round(B0_RESOLUTION * gamma**phi),
        num_classes=num_classes,
        **fields,
    )


def grid_search(
    score: Callable[[float, float, float], float], step: float = 0.05, tolerance: float = 0.1
) -> tuple[float, float, float]:
    """Searches for the coefficients of compound scaling (section 3.3, step 1, of the paper).

    The search covers all alpha, beta, gamma >= 1 on a grid with
    |alpha beta^2 gamma^2 - 2| <= tolerance. For B0 the authors found 1.2, 1.1 and 1.15, whose
    product is 1.92.

    Args:
        score: function of (alpha, beta, gamma) to maximise, for example the validation accuracy
            of `efficientnet(1, alpha=alpha, beta=beta, gamma=gamma)` trained at its `resolution`.
            NaN counts as the lowest score.
        step: spacing of the grid.
        tolerance: largest allowed distance of the product from 2.

    Returns:
        (alpha, beta, gamma) with the highest score; the first tried of those with equal scores.

    Raises:
        UserError: if step is not positive, tolerance is negative, or no point of the grid
            satisfies the constraint.
    """
    if not step > 0:
        raise UserError(f"step must be more than 0, not {step!r}")
    if not tolerance >= 0:
        raise UserError(f"tolerance must be at least 0, not {tolerance!r}")
    # Rounding makes 1 + 3 * 0.05 equal to 1.15.
    values = [round(1 + k * step, 9) for k in range(int((1 + tolerance) / step + 1e-9) + 1)]
    triples = [
        (alpha, beta, gamma)
        for alpha in values
        for beta in values
        for gamma in values
        if abs(alpha * beta**2 * gamma**2 - 2) <= tolerance + 1e-9
    ]
    if not triples:
        raise UserError(
            f"no alpha, beta and gamma in steps of {step} give alpha beta^2 gamma^2 within "
            f"{tolerance} of 2; use a smaller step or a larger tolerance"
        )

    def comparable(triple: tuple[float, float, float]) -> float:
        value = float(score(*triple))
        return -math.inf if math.isnan(value) else value

    return max(triples, key=comparable)


# The authors' width and depth coefficients, input size and dropout rate, and the crop_pct of the
# published accuracies.
NETWORKS = (
    (1.0, 1.0, 224, 0.2, 0.875),
    (1.0, 1.1, 240, 0.2, 0.882),
    (1.1, 1.2, 260, 0.3, 0.89),
    (1.2, 1.4, 300, 0.3, 0.904),
    (1.4, 1.8, 380, 0.4, 0.922),
    (1.6, 2.2, 456, 0.4, 0.934),
    (1.8, 2.6, 528, 0.5, 0.942),
    (2.0, 3.1, 600, 0.5, 0.949),
)

# How PyTorch's libraries compute: timm all networks, and torchvision B0 to B4. torchvision has
# TensorFlow's batch norm in B5 to B7, because their weights come from there.
PYTORCH = {"symmetric_padding": True, "norm_epsilon": 1e-5, "norm_momentum": 0.9}
PYTORCH_FROM_TENSORFLOW = {"symmetric_padding": True}

# Input size, crop_pct and interpolation of torchvision's published accuracies.
TORCHVISION_INPUTS = (
    (224, 0.875, "bicubic"),
    (240, 0.941, "bilinear"),
    (288, 1.0, "bicubic"),
    (300, 0.9375, "bicubic"),
    (380, 0.9895, "bicubic"),
    (456, 1.0, "bicubic"),
    (528, 1.0, "bicubic"),
    (600, 1.0, "bicubic"),
)


# NVIDIA's EfficientNet-WideSE (DeepLearningExamples, PyTorch): the SE block's width is a quarter of
# the expanded channels, not of the unit's input. Padding is PyTorch's and batch norm TensorFlow's.
WIDE_SE = {**PYTORCH_FROM_TENSORFLOW, "wide_se": True}


def _register(i: int, suffix: str, size: int, paper: str, **fields: Any) -> None:
    width, depth, _, dropout, _ = NETWORKS[i]
    register(
        f"efficientnet_b{i}{suffix}",
        EfficientNet,
        input_size=size,
        paper=f"Tan & Le, EfficientNet, arXiv:1905.11946, table 2{paper}",
        published_with_se=True,
        se=swish_se,
        width_coefficient=width,
        depth_coefficient=depth,
        resolution=size,
        dropout=dropout,
        **fields,
    )


# `_torch` is to these names what `_caffe` is to those of the ResNets: the framework whose padding
# and constants the network has. timm calls the first kind tf_efficientnet_b0, the second
# efficientnet_b0.
for _i, (_, _, _size, _, _crop_pct) in enumerate(NETWORKS):
    _register(_i, "", _size, "", crop_pct=_crop_pct, interpolation="bicubic")
for _i, (_size, _crop_pct, _interpolation) in enumerate(TORCHVISION_INPUTS):
    _register(
        _i,
        "_torch",
        _size,
        ", as in torchvision",
        crop_pct=_crop_pct,
        interpolation=_interpolation,
        **(PYTORCH if _i < 5 else PYTORCH_FROM_TENSORFLOW),
    )
# timm's B5, fine-tuned at 448 pixels, is the only published one that differs from torchvision's.
_register(5, "_timm", 448, ", as in timm", crop_pct=1.0, interpolation="bicubic", **PYTORCH)
for _i in (0, 4):
    _size, _crop_pct = NETWORKS[_i][2], NETWORKS[_i][4]
    _register(
        _i,
        "_widese",
        _size,
        ", with wide SE blocks",
        crop_pct=_crop_pct,
        interpolation="bicubic",
        **WIDE_SE,
    )
