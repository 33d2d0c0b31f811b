"""Residual networks for 32x32 images and for ImageNet, with or without SE blocks.

The units are those of He et al., arXiv:1512.03385, figure 5; He et al., arXiv:1603.05027, figure 4;
and Xie et al., arXiv:1611.05431, figure 3. The SE block's positions in them are those of the SE
paper, arXiv:1709.01507, figures 3 and 5. The table at the end of the file defines the networks.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from se_flax.errors import UserError, check_choice
from se_flax.layers.batch_norm import norm_and_rescale
from se_flax.layers.blocks import factory_of, replaces_convolution
from se_flax.layers.cpu import max_pool, residual_sum
from se_flax.layers.initializers import he_normal
from se_flax.layers.make_block import make_block
from se_flax.models.base import Images, Map, Maps, Network, apply_module
from se_flax.models.registry import CIFAR10_MEAN, CIFAR10_STD, SE_PAPER, register

relu = jax.nn.relu


def pad_shortcut(x: Images, channels: int, stride: int) -> Float[Array, "n h2 w2 channels"]:
    """Subsamples x and appends zero channels (option A of He et al. 2015, section 3.3)."""
    x = jax.lax.slice(x, (0, 0, 0, 0), x.shape, (1, stride, stride, 1))
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, channels - x.shape[-1])))


def halve_by_average(x: Images) -> Map:
    """Averages windows of 2x2 pixels; of odd sizes, the last row and column have smaller ones."""
    padding = [(0, size % 2) for size in x.shape[1:3]]
    return nn.avg_pool(x, (2, 2), (2, 2), padding, count_include_pad=False)


class Unit(nn.Module):
    """Base class of residual units: y = activation(shortcut(x) + branch(x)).

    Attributes:
        width: channels of the branch's 3x3 convolutions, if not grouped.
        stride: 1, or 2 to halve height and width.
        conv, norm: factories for convolutions and batch norms.
        first: whether this is the network's first unit, directly after the stem.
        projection: whether the shortcut is a convolution where shapes differ; otherwise it is
            `pad_shortcut`.
        shortcut_kernel: kernel size of that convolution if its stride is 2; it is 1 otherwise.
        average_down: whether `halve_by_average` comes before it instead of the stride (ResNet-D).
        zero_init: see `ResNet`.
        se: factory for the SE block, or for the selective kernel in `conv3x3`, or None.
        se_placement: see `ResNet`.
        drop_rate: probability that an example skips the branch; 0 unless training.
    """

    width: int
    stride: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    first: bool = False
    projection: bool = True
    shortcut_kernel: int = 1
    average_down: bool = False
    zero_init: bool = False
    se: Callable[..., nn.Module] | None = None
    se_placement: str = "standard"
    drop_rate: float = 0.0

    def block_at(self, placement: str) -> nn.Module | None:
        """Creates the SE block if `placement` is its position."""
        follows = self.se and not replaces_convolution(self.se)
        here = follows and placement == self.se_placement
        return make_block(self.se, norm=self.norm) if here else None

    def se_at(self, placement: str, x: Images) -> Images:
        """Applies the SE block if `placement` is its position."""
        block = self.block_at(placement)
        return block(x) if block else x

    def conv3x3(self, y: Images, i: int, features: int, stride: int = 1, groups: int = 1) -> Map:
        """Applies 3x3 convolution i, batch norm and ReLU, or a selective kernel in their place."""
        if replaces_convolution(self.se):
            return make_block(self.se, "sk", norm=self.norm)(y, features, stride, groups)
        conv = self.conv(
            features, (3, 3), strides=stride, padding=1, feature_group_count=groups, name=f"conv{i}"
        )
        norm = self.norm(name=f"bn{i}")
        return relu(norm_and_rescale(norm, self.block_at("3x3"), conv(y)))

    def last_norm(self, name: str, y: Images) -> Images:
        """Applies the batch norm at the end of a branch, and the SE block if it is there."""
        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        norm = self.norm(name=name, scale_init=zeros if self.zero_init else ones)
        return norm_and_rescale(norm, self.block_at("standard"), y)

    def shortcut(self, x: Images, channels: int, norm: bool = True) -> Map:
        """Gives x the branch's output shape; `norm` adds a batch norm after the convolution.

        Applies the SE block if it is on the shortcut.
        """
        if self.keeps_shape(x, channels):
            return self.se_at("identity", x)
        if not self.projection:
            return self.se_at("identity", pad_shortcut(x, channels, self.stride))
        size, stride = (self.shortcut_kernel, self.stride) if self.stride > 1 else (1, 1)
        if self.average_down and stride > 1:
            x, stride = halve_by_average(x), 1
        conv = self.conv(
            channels, (size, size), strides=stride, padding=size // 2, name="shortcut_conv"
        )
        if not norm:
            return self.se_at("identity", conv(x))
        bn = self.norm(name="shortcut_bn")
        return norm_and_rescale(bn, self.block_at("identity"), conv(x))

    def keeps_shape(self, x: Images, channels: int) -> bool:
        """Returns whether the unit's output has the same shape as x."""
        return self.stride == 1 and x.shape[-1] == channels

    def add(
        self, shortcut: Images, branch: Images, activation: Callable[..., Images] | None = None
    ) -> Images:
        """Adds branch and shortcut, and applies the SE block if it is after the addition."""
        if self.drop_rate:
            branch = nn.Dropout(self.drop_rate, (1, 2, 3), deterministic=False)(branch)
        return self.se_at("post", residual_sum(shortcut, branch, activation))


class BasicUnit(Unit):
    """Two 3x3 convolutions (He et al. 2015, figure 5, left)."""

    @nn.compact
    def __call__(self, x: Images) -> Map:
        """Returns the unit's output."""
        y = self.se_at("pre", x)
        y = self.conv3x3(y, 1, self.width, self.stride)
        y = self.conv(self.width, (3, 3), padding=1, name="conv2")(y)
        y = self.last_norm("bn2", y)
        return self.add(self.shortcut(x, self.width), y, relu)


class BottleneckUnit(Unit):
    """1x1, 3x3 and 1x1 convolutions (He et al. 2015, figure 5, right).

    Attributes:
        groups: number of groups of the 3x3 convolution: ResNeXt's cardinality (Xie et al.,
            figure 3c).
        group_width: channels of each group where the unit's width is 64: ResNeXt's width.
        narrow_first: whether the first convolution has half as many channels as the second
            (SENet-154).
        stride_in_first: whether the first convolution has the stride, as in networks trained in
            Caffe; otherwise the 3x3 convolution has it.
    """

    groups: int = 1
    group_width: int = 64
    narrow_first: bool = False
    stride_in_first: bool = False

    @nn.compact
    def __call__(self, x: Images) -> Map:
        """Returns the unit's output."""
        inner = self.groups * (self.width * self.group_width // 64)
        first = inner // 2 if self.narrow_first else inner
        stride1, stride2 = (self.stride, 1) if self.stride_in_first else (1, self.stride)

        y = self.se_at("pre", x)
        y = self.conv(first, (1, 1), strides=stride1, name="conv1")(y)
        y = relu(self.norm(name="bn1")(y))
        y = self.conv3x3(y, 2, inner, stride2, self.groups)
        y = self.conv(4 * self.width, (1, 1), name="conv3")(y)
        y = self.last_norm("bn3", y)
        return self.add(self.shortcut(x, 4 * self.width), y, relu)


class PreactBasicUnit(Unit):
    """Two 3x3 convolutions, each after batch norm and ReLU (He et al. 2016, figure 4e).

    Where shapes differ, and in the network's first unit, the shortcut starts after the first
    batch norm and ReLU (appendix of the paper).
    """

    @nn.compact
    def __call__(self, x: Images) -> Map:
        """Returns the unit's output."""
        y = relu(self.norm(name="bn1")(self.se_at("pre", x)))
        if self.first or not self.keeps_shape(x, self.width):
            x = y
        y = self.conv(self.width, (3, 3), strides=self.stride, padding=1, name="conv1")(y)
        y = relu(self.norm(name="bn2")(y))
        y = self.conv(self.width, (3, 3), padding=1, name="conv2")(y)
        y = self.se_at("standard", y)
        return self.add(self.shortcut(x, self.width, norm=False), y)


class PreactBottleneckUnit(Unit):
    """1x1, 3x3 and 1x1 convolutions, each after batch norm and ReLU; see `PreactBasicUnit`."""

    @nn.compact
    def __call__(self, x: Images) -> Map:
        """Returns the unit's output."""
        y = relu(self.norm(name="bn1")(self.se_at("pre", x)))
        if self.first or not self.keeps_shape(x, 4 * self.width):
            x = y
        y = self.conv(self.width, (1, 1), name="conv1")(y)
        y = relu(self.norm(name="bn2")(y))
        y = self.conv(self.width, (3, 3), strides=self.stride, padding=1, name="conv2")(y)
        y = relu(self.norm(name="bn3")(self.se_at("3x3", y)))
        y = self.conv(4 * self.width, (1, 1), name="conv3")(y)
        y = self.se_at("standard", y)
        return self.add(self.shortcut(x, 4 * self.width, norm=False), y)


class ResNet(Network, kw_only=True):
    """A residual network.

    The units of stage i are the submodules `stage{i}_unit{j}`, counted from 1 (the papers'
    conv2_x is stage 1 here).

    Attributes:
        stage_sizes: number of units of each stage. The first unit of every stage except the
            first halves height and width.
        widths: width of the units of each stage.
        unit: factory for the units: a `Unit` class, or a partial of one.
        stem: "imagenet", a 7x7 convolution of stride 2 and 3x3 max pooling; "deep", three 3x3
            convolutions and the pooling; or "cifar", one 3x3 convolution.
        stem_widths: channels of the stem's convolutions; if empty, 64, or 64, 64 and 128 if it is
            deep, or those of the first stage if it is "cifar".
        stem_pool: "max", that pooling; or "conv", a 3x3 convolution of stride 2 in its place.
        pool_ceil: whether that pooling is unpadded and rounds the size up, as in Caffe;
            otherwise it has one pixel of padding on each side.
        projection: whether the shortcut is a convolution where shapes differ, with batch norm
            unless the unit has pre-activation; otherwise it is `pad_shortcut`.
        zero_init: whether the last batch norm of each branch is initialised with scale 0, so that
            the unit starts as an identity (Goyal et al., arXiv:1706.02677, section 5.1). Units
            with pre-activation have no such batch norm.
        stochastic_depth: rate of stochastic depth (Huang et al., arXiv:1603.09382). With k of n
            units before it, a unit skips its branch with probability stochastic_depth * k / (n - 1)
            (as in timm).
        final_norm: whether batch norm and ReLU follow the last unit instead of the stem's
            convolution. Units with pre-activation need this.
        se_placement: position of the SE block in a unit (SE paper, figure 5): "standard", on
            the branch before the addition; "pre", before the branch's first layer; "post",
            after the addition and its ReLU; "identity", on the shortcut. Or "3x3", directly after
            a bottleneck's 3x3 convolution and its batch norm (section 6.5, SE_3x3).
        se_stages: stages, counted from 1, whose units have SE blocks; None for all.
            A selective kernel stands in place of the first 3x3 convolution of these units, which
            must be without pre-activation.
    """

    stage_sizes: tuple[int, ...]
    widths: tuple[int, ...]
    unit: Callable[..., nn.Module] = BasicUnit
    stem: str = "imagenet"
    stem_widths: tuple[int, ...] = ()
    stem_pool: str = "max"
    pool_ceil: bool = False
    projection: bool = True
    zero_init: bool = False
    stochastic_depth: float = 0.0
    final_norm: bool = False
    se_placement: str = "standard"
    se_stages: tuple[int, ...] | None = None

    def __post_init__(self):
        check_choice("stem", self.stem, ("imagenet", "deep", "cifar"))
        check_choice("stem_pool", self.stem_pool, ("max", "conv"))
        placements = ("standard", "pre", "post", "identity", "3x3")
        check_choice("se_placement", self.se_placement, placements)
        if self.se_placement == "3x3" and factory_of(self.unit) in (BasicUnit, PreactBasicUnit):
            raise UserError(
                'se_placement="3x3" needs bottleneck units, which this network does not have; '
                f"choose from {', '.join(placements[:-1])}"
            )
        if replaces_convolution(self.se) and self.se_placement != "standard":
            raise UserError(
                f'se_placement="{self.se_placement}" does not apply to a selective kernel, which '
                "stands in place of a 3x3 convolution; leave it out"
            )
        for stage in self.se_stages or ():
            if stage not in range(1, len(self.stage_sizes) + 1):
                raise UserError(
                    f"se_stages names stage {stage!r}, which does not exist; choose from 1 to "
                    f"{len(self.stage_sizes)}"
                )
        super().__post_init__()

    @property
    def takes_selective_kernels(self) -> bool:
        """Whether the units are `BasicUnit` or `BottleneckUnit`."""
        return factory_of(self.unit) in (BasicUnit, BottleneckUnit)

    def feature_maps(self, x: Images, train: bool) -> Maps:
        """Returns the output of each stage."""
        conv = self.make_conv(use_bias=False, padding=0, kernel_init=he_normal)
        norm = self.make_norm(train)
        x = self.stem_map(x, conv, norm)
        maps = {}
        rates = iter(np.linspace(0, self.stochastic_depth if train else 0, sum(self.stage_sizes)))
        for i, (size, width) in enumerate(zip(self.stage_sizes, self.widths, strict=True), start=1):
            for j in range(1, size + 1):
                unit = functools.partial(
                    self.unit,
                    width=width,
                    stride=2 if i > 1 and j == 1 else 1,
                    conv=conv,
                    norm=norm,
                    first=i == j == 1,
                    projection=self.projection,
                    zero_init=self.zero_init,
                    se=self.se if self.se_stages is None or i in self.se_stages else None,
                    se_placement=self.se_placement,
                    drop_rate=float(next(rates)),
                    name=f"stage{i}_unit{j}",
                )
                x = self.apply_unit(functools.partial(apply_module, make=unit), x, train)
            maps[f"stage{i}"] = x
        if self.final_norm:
            maps[f"stage{len(maps)}"] = relu(norm(name="final_bn")(x))
        return maps

    def stem_map(
        self, x: Images, conv: Callable[..., nn.Module], norm: Callable[..., nn.Module]
    ) -> Map:
        """Returns the output of the layers before the first unit."""
        usual = {"imagenet": (64,), "deep": (64, 64, 128), "cifar": self.widths[:1]}
        widths = self.stem_widths or usual[self.stem]
        if self.stem == "deep":
            for i, (width, stride) in enumerate(zip(widths, (2, 1, 1), strict=True), start=1):
                x = conv(width, (3, 3), strides=stride, padding=1, name=f"stem_conv{i}")(x)
                x = relu(norm(name=f"stem_bn{i}")(x))
        else:
            if self.stem == "imagenet":
                x = conv(widths[0], (7, 7), strides=2, padding=3, name="stem_conv")(x)
            else:
                x = conv(widths[0], (3, 3), padding=1, name="stem_conv")(x)
            if not self.final_norm:
                x = relu(norm(name="stem_bn")(x))
        if self.stem != "cifar" and self.stem_pool == "conv":
            x = conv(x.shape[-1], (3, 3), strides=2, padding=1, name="stem_pool_conv")(x)
            x = relu(norm(name="stem_pool_bn")(x))
        elif self.stem != "cifar":
            padding = [(0, (size - 3) % 2) if self.pool_ceil else (1, 1) for size in x.shape[1:3]]
            x = max_pool(x, (3, 3), strides=(2, 2), padding=padding)
        return x


_RESNET = "He et al., Deep Residual Learning for Image Recognition, arXiv:1512.03385"
_PREACT = "He et al., Identity Mappings in Deep Residual Networks, arXiv:1603.05027"
_RESNEXT = "Xie et al., Aggregated Residual Transformations, arXiv:1611.05431"

_stride_in_first = functools.partial(BottleneckUnit, stride_in_first=True)
_32x4d = functools.partial(BottleneckUnit, groups=32, group_width=4)

# Networks for ImageNet: `<name>` in the form that is usual today, and `<name>_caffe` in the form
# of networks trained in Caffe, which He et al. and the authors of the SE paper released. The two
# forms of a ResNeXt differ only in their pooling.
for _name, _paper, _stage_sizes, _unit, _caffe_unit in [
    ("resnet18", f"{_RESNET}, table 1", (2, 2, 2, 2), BasicUnit, None),
    ("resnet34", f"{_RESNET}, table 1", (3, 4, 6, 3), BasicUnit, None),
    ("resnet50", f"{_RESNET}, table 1", (3, 4, 6, 3), BottleneckUnit, _stride_in_first),
    ("resnet101", f"{_RESNET}, table 1", (3, 4, 23, 3), BottleneckUnit, _stride_in_first),
    ("resnet152", f"{_RESNET}, table 1", (3, 8, 36, 3), BottleneckUnit, _stride_in_first),
    ("resnext50_32x4d", f"{_RESNEXT}, table 1", (3, 4, 6, 3), _32x4d, _32x4d),
    ("resnext101_32x4d", f"{_RESNEXT}, section 5.1", (3, 4, 23, 3), _32x4d, _32x4d),
]:
    _sizes = {"stage_sizes": _stage_sizes, "widths": (64, 128, 256, 512)}
    _usual = f"{_paper}; stride in the 3x3"
    register(_name, ResNet, input_size=224, paper=_usual, unit=_unit, **_sizes)
    if _caffe_unit:
        _stride = "stride in the first 1x1, " if _caffe_unit is _stride_in_first else ""
        register(
            f"{_name}_caffe",
            ResNet,
            input_size=224,
            paper=f"{_paper}; {_stride}ceiling pooling",
            unit=_caffe_unit,
            pool_ceil=True,
            **_sizes,
        )

register(
    "senet154",
    ResNet,
    input_size=224,
    paper=f"{SE_PAPER}, section 5.4 and appendix",
    published_with_se=True,
    stage_sizes=(3, 8, 36, 3),
    widths=(64, 128, 256, 512),
    unit=functools.partial(
        BottleneckUnit, groups=64, group_width=4, narrow_first=True, shortcut_kernel=3
    ),
    stem="deep",
    pool_ceil=True,
    dropout=0.2,
)

register_for_cifar = functools.partial(
    register,
    module=ResNet,
    input_size=32,
    crop_pct=1.0,
    num_classes=10,
    mean=CIFAR10_MEAN,
    std=CIFAR10_STD,
    stem="cifar",
)

for _depth in (20, 32, 44, 56, 110):
    register_for_cifar(
        f"resnet{_depth}_cifar",
        paper=f"{_RESNET}, section 4.2",
        stage_sizes=((_depth - 2) // 6,) * 3,
        widths=(16, 32, 64),
        projection=False,
    )
register_for_cifar(
    "resnet164_cifar",
    paper=f"{_PREACT}, table 2",
    stage_sizes=(18, 18, 18),
    widths=(16, 32, 64),
    unit=BottleneckUnit,
)
register_for_cifar(
    "preact_resnet110_cifar",
    paper=f"{_PREACT}, table 2",
    stage_sizes=(18, 18, 18),
    widths=(16, 32, 64),
    unit=PreactBasicUnit,
    projection=False,
    final_norm=True,
)
register_for_cifar(
    "preact_resnet164_cifar",
    paper=f"{_PREACT}, table 2",
    stage_sizes=(18, 18, 18),
    widths=(16, 32, 64),
    unit=PreactBottleneckUnit,
    final_norm=True,
)
register_for_cifar(
    "resnext29_8x64d_cifar",
    paper=f"{_RESNEXT}, section 5.3",
    stage_sizes=(3, 3, 3),
    widths=(64, 128, 256),
    unit=functools.partial(BottleneckUnit, groups=8),
)
