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

from se_flax.layers.residual import residual_sum
from se_flax.models.registry import register

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
        width: channels of the branch's 3x3 convolutions.
        stride: 1, or 2 to halve height and width.
        bottleneck: a branch of 1x1, 3x3 and 1x1 convolutions, the last 4 times wider,
            rather than of two 3x3 convolutions.
        preactivation: batch norm and ReLU stand before each convolution (He et al. 2016)
            rather than batch norm after it, ReLU between and after the addition.
        projection: where shapes differ the shortcut is a 1x1 convolution, with batch norm
            unless pre-activated; otherwise it is `pad_shortcut`.
        zero_init: see `ResNet`.
        conv, norm: the convolution and normalisation to use.
        se: makes the block that rescales the branch before the addition, if any.
    """

    width: int
    stride: int
    bottleneck: bool
    preactivation: bool
    projection: bool
    zero_init: bool
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    se: Callable[..., nn.Module] | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c2"]:
        """Returns the unit's output."""
        if self.bottleneck:
            convolutions = [
                (self.width, 1, 1),
                (self.width, 3, self.stride),
                (4 * self.width, 1, 1),
            ]
        else:
            convolutions = [(self.width, 3, self.stride), (self.width, 3, 1)]
        channels = convolutions[-1][0]
        same_shape = self.stride == 1 and x.shape[-1] == channels

        y = shortcut = x
        for i, (features, kernel, stride) in enumerate(convolutions, start=1):
            conv = self.conv(
                features, (kernel, kernel), strides=stride, padding=kernel // 2, name=f"conv{i}"
            )
            if self.preactivation:
                y = jax.nn.relu(self.norm(name=f"bn{i}")(y))
                if i == 1 and not same_shape:
                    shortcut = y
                y = conv(y)
            elif i < len(convolutions):
                y = jax.nn.relu(self.norm(name=f"bn{i}")(conv(y)))
            else:
                scale_init = nn.initializers.zeros if self.zero_init else nn.initializers.ones
                y = self.norm(name=f"bn{i}", scale_init=scale_init)(conv(y))

        if self.se is not None:
            y = self.se(name="se")(y)

        if not same_shape and self.projection:
            shortcut = self.conv(channels, (1, 1), strides=self.stride, name="shortcut_conv")(
                shortcut
            )
            if not self.preactivation:
                shortcut = self.norm(name="shortcut_bn")(shortcut)
        elif not same_shape:
            shortcut = pad_shortcut(shortcut, channels, self.stride)
        return residual_sum(shortcut, y, None if self.preactivation else jax.nn.relu)


class ResNet(nn.Module):
    """A residual network.

    The units of stage i are the submodules `stage{i}_unit{j}`, counted from 1 (the papers'
    conv2_x is stage 1 here).

    Attributes:
        stage_sizes: number of units of each stage; every stage but the first halves height
            and width in its first unit.
        widths: width of the units of each stage.
        bottleneck, preactivation, projection: see `ResidualUnit`.
        large_stem: the stem is a 7x7 convolution of stride 2 and 3x3 maximum pooling, for
            ImageNet, rather than a 3x3 convolution, for 32x32 images.
        zero_init: the last batch norm of each unit's branch starts with scale 0, so that the
            unit starts as an identity (Goyal et al., arXiv:1706.02677, section 5.1). Units
            with pre-activation have no such batch norm.
        num_classes: size of the classifier's output.
        se: makes the SE block of each unit, called with its name; None for none.
        dtype: computation type; parameters, statistics and logits are float32.
        sync_axis: mapped axis (of `jax.pmap`) whose devices share batch statistics.
    """

    stage_sizes: tuple[int, ...]
    widths: tuple[int, ...]
    bottleneck: bool = False
    preactivation: bool = False
    projection: bool = True
    large_stem: bool = True
    zero_init: bool = False
    num_classes: int = 1000
    se: Callable[..., nn.Module] | None = None
    dtype: DTypeLike = jnp.float32
    sync_axis: str | None = None

    @nn.compact
    def __call__(
        self, images: Float[Array, "n h w c"], train: bool = False
    ) -> Float[Array, "n num_classes"]:
        """Returns logits; with `train`, normalises by batch statistics and updates them."""
        conv = functools.partial(
            nn.Conv, use_bias=False, padding=0, kernel_init=he_normal, dtype=self.dtype
        )
        norm = functools.partial(
            nn.BatchNorm,
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            dtype=self.dtype,
            axis_name=self.sync_axis,
        )
        x = images.astype(self.dtype)
        if self.large_stem:
            x = conv(64, (7, 7), strides=2, padding=3, name="stem_conv")(x)
        else:
            x = conv(self.widths[0], (3, 3), padding=1, name="stem_conv")(x)
        if not self.preactivation:
            x = jax.nn.relu(norm(name="stem_bn")(x))
        if self.large_stem:
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))

        for i, (size, width) in enumerate(zip(self.stage_sizes, self.widths, strict=True), start=1):
            for j in range(1, size + 1):
                x = ResidualUnit(
                    width=width,
                    stride=2 if i > 1 and j == 1 else 1,
                    bottleneck=self.bottleneck,
                    preactivation=self.preactivation,
                    projection=self.projection,
                    zero_init=self.zero_init,
                    conv=conv,
                    norm=norm,
                    se=self.se,
                    name=f"stage{i}_unit{j}",
                )(x)
        if self.preactivation:
            x = jax.nn.relu(norm(name="final_bn")(x))
        x = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
        return nn.Dense(self.num_classes, name="classifier")(x)


_RESNET = "He et al., Deep Residual Learning for Image Recognition, arXiv:1512.03385"
_PREACT = "He et al., Identity Mappings in Deep Residual Networks, arXiv:1603.05027"

for _depth, _sizes, _bottleneck in [
    (18, (2, 2, 2, 2), False),
    (34, (3, 4, 6, 3), False),
    (50, (3, 4, 6, 3), True),
    (101, (3, 4, 23, 3), True),
    (152, (3, 8, 36, 3), True),
]:
    register(
        f"resnet{_depth}",
        ResNet,
        input_size=224,
        paper=f"{_RESNET}, table 1; stride in the 3x3 convolution",
        stage_sizes=_sizes,
        widths=(64, 128, 256, 512),
        bottleneck=_bottleneck,
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
        large_stem=False,
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
        large_stem=False,
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
    large_stem=False,
)
