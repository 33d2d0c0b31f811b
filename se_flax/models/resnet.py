"""Residual networks for 32x32 images and for ImageNet, with or without SE blocks.

One module serves them all; the table at the end of the file gives each its fields.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from se_flax.errors import UserError, check_choice
from se_flax.layers.conv import Conv
from se_flax.layers.residual import residual_sum
from se_flax.layers.squeeze_excite import SqueezeExcite
from se_flax.models.checks import check_images
from se_flax.models.registry import SE_PAPER, register

he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def pad_shortcut(
    x: Float[Array, "n h w c"], channels: int, stride: int
) -> Float[Array, "n h2 w2 channels"]:
    """Subsamples x and appends zero channels: option A of He et al. 2015, section 3.3."""
    x = x[:, ::stride, ::stride]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, channels - x.shape[-1])))


class ResidualUnit(nn.Module):
    """A residual unit: y = shortcut(x) + se(branch(x)).

    Attributes:
        width: channels of the branch's 3x3 convolutions, if not grouped.
        stride: 1, or 2 to halve height and width.
        first: this is the network's first unit, right after the stem.
        shortcut_kernel: size of the shortcut's convolution, where it is one.
        se: makes the block that rescales the branch before the addition, if any.
        se_placement: see `ResNet`, as all that is not named here.
        conv, norm: the convolution and normalisation to use.
    """

    width: int
    stride: int
    first: bool
    shortcut_kernel: int
    bottleneck: bool
    groups: int
    group_width: int
    narrow_first: bool
    stride_in_first: bool
    preactivation: bool
    projection: bool
    zero_init: bool
    se_placement: str
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    se: Callable[..., nn.Module] | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c2"]:
        """Returns the unit's output."""
        if self.bottleneck:
            inner = self.groups * (self.width * self.group_width // 64)
            first = inner // 2 if self.narrow_first else inner
            strides = (self.stride, 1) if self.stride_in_first else (1, self.stride)
            convolutions = [
                (first, 1, strides[0], 1),
                (inner, 3, strides[1], self.groups),
                (4 * self.width, 1, 1, 1),
            ]
        else:
            convolutions = [(self.width, 3, self.stride, 1), (self.width, 3, 1, 1)]
        channels = convolutions[-1][0]
        same_shape = self.stride == 1 and x.shape[-1] == channels

        def se_at(placement, y):
            return self.se(name="se")(y) if self.se and self.se_placement == placement else y

        shortcut = x
        y = se_at("pre", x)
        for i, (features, kernel, stride, groups) in enumerate(convolutions, start=1):
            conv = self.conv(
                features,
                (kernel, kernel),
                strides=stride,
                padding=kernel // 2,
                feature_group_count=groups,
                name=f"conv{i}",
            )
            if self.preactivation:
                y = jax.nn.relu(self.norm(name=f"bn{i}")(y))
                if i == 1 and (self.first or not same_shape):
                    shortcut = y
                y = conv(y)
            elif i < len(convolutions):
                y = jax.nn.relu(self.norm(name=f"bn{i}")(conv(y)))
            else:
                scale_init = nn.initializers.zeros if self.zero_init else nn.initializers.ones
                y = self.norm(name=f"bn{i}", scale_init=scale_init)(conv(y))
        if not same_shape and self.projection:
            kernel = self.shortcut_kernel
            shortcut = self.conv(
                channels,
                (kernel, kernel),
                strides=self.stride,
                padding=kernel // 2,
                name="shortcut_conv",
            )(shortcut)
            if not self.preactivation:
                shortcut = self.norm(name="shortcut_bn")(shortcut)
        elif not same_shape:
            shortcut = pad_shortcut(shortcut, channels, self.stride)
        shortcut = se_at("identity", shortcut)
        activation = None if self.preactivation else jax.nn.relu
        gate = None
        if self.se and self.se_placement == "standard":
            block = self.se(name="se")
            if isinstance(block, SqueezeExcite):
                gate = block.gate_of(y)
            else:
                y = block(y)
        y = residual_sum(shortcut, y, activation, gate)
        return se_at("post", y)


class ResNet(nn.Module):
    """A residual network.

    The units of stage i are the submodules `stage{i}_unit{j}`, counted from 1 (the papers'
    conv2_x is stage 1 here).

    Attributes:
        stage_sizes: number of units of each stage; every stage but the first halves height
            and width in its first unit.
        widths: width of the units of each stage.
        bottleneck: the branch of a unit is of 1x1, 3x3 and 1x1 convolutions, the last 4 times
            wider, rather than of two 3x3 convolutions.
        groups, group_width: the 3x3 convolutions of bottlenecks are in so many groups, each
            this wide where the unit's width is 64: ResNeXt's cardinality and width (Xie et
            al., arXiv:1611.05431).
        narrow_first: a bottleneck's first convolution is half as wide as its second (SENet-154).
        stride_in_first: a bottleneck halves height and width in its first convolution, as the
            networks trained in Caffe do, rather than in the 3x3 one.
        preactivation: batch norm and ReLU stand before each convolution (He et al. 2016)
            rather than batch norm after it, ReLU between and after the addition. The first
            one of a unit is also on its shortcut where shapes differ and in the first unit
            (their appendix).
        projection: where shapes differ the shortcut is a convolution, with batch norm unless
            pre-activated; otherwise it is `pad_shortcut`.
        shortcut_kernel: size of that convolution, from the second stage on.
        stem: "imagenet", a 7x7 convolution of stride 2 and 3x3 maximum pooling; "deep", three
            3x3 convolutions and the pooling; or "cifar", one 3x3 convolution.
        pool_ceil: that pooling has no padding and rounds the size up (Caffe) rather than one
            pixel of it all around.
        dropout: before the classifier, the rate of it.
        zero_init: the last batch norm of each unit's branch starts with scale 0, so that the
            unit starts as an identity (Goyal et al., arXiv:1706.02677, section 5.1). Units
            with pre-activation have no such batch norm.
        num_classes: size of the classifier's output.
        se: makes the SE block of each unit, called with its name; None for none.
        se_placement: where in a unit it stands (SE paper, figure 5): "standard", on the
            branch before the addition; "pre", before the branch's first layer; "post", after
            the addition and its ReLU; "identity", on the shortcut.
        se_stages: the stages, counted from 1, whose units have it; None for all.
        dtype: computation type; parameters, statistics and logits are float32.
        sync_axis: mapped axis (of `jax.pmap`) whose devices share batch statistics.
    """

    stage_sizes: tuple[int, ...]
    widths: tuple[int, ...]
    bottleneck: bool = False
    groups: int = 1
    group_width: int = 64
    narrow_first: bool = False
    stride_in_first: bool = False
    preactivation: bool = False
    projection: bool = True
    shortcut_kernel: int = 1
    stem: str = "imagenet"
    pool_ceil: bool = False
    dropout: float = 0.0
    zero_init: bool = False
    num_classes: int = 1000
    se: Callable[..., nn.Module] | None = None
    se_placement: str = "standard"
    se_stages: tuple[int, ...] | None = None
    dtype: DTypeLike = jnp.float32
    sync_axis: str | None = None

    def __post_init__(self):
        check_choice("stem", self.stem, ("imagenet", "deep", "cifar"))
        check_choice("se_placement", self.se_placement, ("standard", "pre", "post", "identity"))
        for stage in self.se_stages or ():
            if stage not in range(1, len(self.stage_sizes) + 1):
                raise UserError(
                    f"there is no stage {stage!r} to have SE blocks; the stages are 1 to "
                    f"{len(self.stage_sizes)}"
                )
        super().__post_init__()

    @nn.compact
    def __call__(
        self, images: Float[Array, "n h w c"], train: bool = False, features: bool = False
    ) -> Float[Array, "n num_classes"] | dict[str, Float[Array, "n h w c"]]:
        """Returns logits; with `train`, normalises by batch statistics and updates them.

        With `features`, returns instead the output of each stage by its name, `stage1` first.
        """
        conv = functools.partial(
            Conv, use_bias=False, padding=0, kernel_init=he_normal, dtype=self.dtype
        )
        norm = functools.partial(
            nn.BatchNorm,
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            dtype=self.dtype,
            axis_name=self.sync_axis,
        )
        check_images(images)
        x = images.astype(self.dtype)
        if self.stem == "deep":
            for i, (width, stride) in enumerate([(64, 2), (64, 1)], start=1):
                x = conv(width, (3, 3), strides=stride, padding=1, name=f"stem_conv{i}")(x)
                x = jax.nn.relu(norm(name=f"stem_bn{i}")(x))
            x = conv(128, (3, 3), padding=1, name="stem_conv3")(x)
            x = jax.nn.relu(norm(name="stem_bn3")(x))
        else:
            if self.stem == "imagenet":
                x = conv(64, (7, 7), strides=2, padding=3, name="stem_conv")(x)
            else:
                x = conv(self.widths[0], (3, 3), padding=1, name="stem_conv")(x)
            if not self.preactivation:
                x = jax.nn.relu(norm(name="stem_bn")(x))
        if self.stem != "cifar":
            padding = [(0, (size - 3) % 2) if self.pool_ceil else (1, 1) for size in x.shape[1:3]]
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=padding)

        maps = {}
        for i, (size, width) in enumerate(zip(self.stage_sizes, self.widths, strict=True), start=1):
            for j in range(1, size + 1):
                x = ResidualUnit(
                    width=width,
                    stride=2 if i > 1 and j == 1 else 1,
                    first=i == j == 1,
                    shortcut_kernel=self.shortcut_kernel if i > 1 else 1,
                    bottleneck=self.bottleneck,
                    groups=self.groups,
                    group_width=self.group_width,
                    narrow_first=self.narrow_first,
                    stride_in_first=self.stride_in_first,
                    preactivation=self.preactivation,
                    projection=self.projection,
                    zero_init=self.zero_init,
                    conv=conv,
                    norm=norm,
                    se=self.se if self.se_stages is None or i in self.se_stages else None,
                    se_placement=self.se_placement,
                    name=f"stage{i}_unit{j}",
                )(x)
            maps[f"stage{i}"] = x
        if self.preactivation:
            x = jax.nn.relu(norm(name="final_bn")(x))
            maps[f"stage{len(maps)}"] = x
        if features:
            return maps
        x = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, name="classifier")(x)


_RESNET = "He et al., Deep Residual Learning for Image Recognition, arXiv:1512.03385"
_PREACT = "He et al., Identity Mappings in Deep Residual Networks, arXiv:1603.05027"
_RESNEXT = "Xie et al., Aggregated Residual Transformations, arXiv:1611.05431"

# For ImageNet: in the form now usual, and under `<name>_caffe` in that of the networks trained
# in Caffe, among them He et al.'s and the SE networks that their authors released.
for _name, _paper, _fields in [
    ("resnet18", f"{_RESNET}, table 1", {"stage_sizes": (2, 2, 2, 2)}),
    ("resnet34", f"{_RESNET}, table 1", {"stage_sizes": (3, 4, 6, 3)}),
    ("resnet50", f"{_RESNET}, table 1", {"stage_sizes": (3, 4, 6, 3), "bottleneck": True}),
    ("resnet101", f"{_RESNET}, table 1", {"stage_sizes": (3, 4, 23, 3), "bottleneck": True}),
    ("resnet152", f"{_RESNET}, table 1", {"stage_sizes": (3, 8, 36, 3), "bottleneck": True}),
    (
        "resnext50_32x4d",
        f"{_RESNEXT}, table 1",
        {"stage_sizes": (3, 4, 6, 3), "bottleneck": True, "groups": 32, "group_width": 4},
    ),
    (
        "resnext101_32x4d",
        f"{_RESNEXT}, section 5.1",
        {"stage_sizes": (3, 4, 23, 3), "bottleneck": True, "groups": 32, "group_width": 4},
    ),
]:
    _fields = {"widths": (64, 128, 256, 512), **_fields}
    register(_name, ResNet, input_size=224, paper=f"{_paper}; stride in the 3x3", **_fields)
    # The ResNeXts trained in Caffe differ by their pooling alone.
    if "bottleneck" in _fields:
        _stride_in_first = "groups" not in _fields
        register(
            f"{_name}_caffe",
            ResNet,
            input_size=224,
            paper=f"{_paper}; {'stride in the first 1x1, ' * _stride_in_first}ceiling pooling",
            stride_in_first=_stride_in_first,
            pool_ceil=True,
            **_fields,
        )

register(
    "senet154",
    ResNet,
    input_size=224,
    paper=f"{SE_PAPER}, section 5.1 and appendix",
    published_with_se=True,
    stage_sizes=(3, 8, 36, 3),
    widths=(64, 128, 256, 512),
    bottleneck=True,
    groups=64,
    group_width=4,
    narrow_first=True,
    shortcut_kernel=3,
    stem="deep",
    pool_ceil=True,
    dropout=0.2,
)

for _depth in (20, 32, 44, 56, 110):
    register(
        f"resnet{_depth}_cifar",
        ResNet,
        input_size=32,
        paper=f"{_RESNET}, section 4.2",
        stage_sizes=((_depth - 2) // 6,) * 3,
        widths=(16, 32, 64),
        projection=False,
        stem="cifar",
    )
for _name, _preactivation in (("resnet164_cifar", False), ("preact_resnet164_cifar", True)):
    register(
        _name,
        ResNet,
        input_size=32,
        paper=f"{_PREACT}, table 2",
        stage_sizes=(18, 18, 18),
        widths=(16, 32, 64),
        bottleneck=True,
        preactivation=_preactivation,
        stem="cifar",
    )
register(
    "preact_resnet110_cifar",
    ResNet,
    input_size=32,
    paper=f"{_PREACT}, table 2",
    stage_sizes=(18, 18, 18),
    widths=(16, 32, 64),
    preactivation=True,
    projection=False,
    stem="cifar",
)
register(
    "resnext29_8x64d_cifar",
    ResNet,
    input_size=32,
    paper=f"{_RESNEXT}, section 5.2",
    stage_sizes=(3, 3, 3),
    widths=(64, 128, 256),
    bottleneck=True,
    groups=8,
    stem="cifar",
)
