"""Shake-Shake for 32x32 images (Gastaldi, arXiv:1705.07485, table 1), with or without SE blocks."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from se_flax.layers.cpu import residual_sum
from se_flax.layers.make_block import make_block
from se_flax.models.base import Images, Map, Maps, Network, apply_module
from se_flax.models.registry import CIFAR10_MEAN, CIFAR10_STD, register
from se_flax.models.resnet import he_normal, relu

Factors = Float[Array, "n 1 1 1"]


@jax.custom_vjp
def shake(a: Images, b: Images, alpha: Factors, beta: Factors) -> Images:
    """Returns alpha a + (1 - alpha) b, whose gradients for a and b are as if alpha were beta."""
    return alpha * a + (1 - alpha) * b


def _shake_forward(a, b, alpha, beta):
    return shake(a, b, alpha, beta), beta


def _shake_backward(beta, ct):
    return beta * ct, (1 - beta) * ct, jnp.zeros_like(beta), jnp.zeros_like(beta)


shake.defvjp(_shake_forward, _shake_backward)


class ShakeUnit(nn.Module):
    """A residual unit with two branches: y = shortcut(x) + se(alpha branch1(x) + (1 - alpha) ...).

    Each branch is ReLU, 3x3 convolution, batch norm, ReLU, 3x3 convolution and batch norm (figure
    1). In training, each image has its own alpha from 0 to 1, and another one for the gradient
    ("Shake-Shake-Image" of table 1); otherwise alpha is 1/2. Where shapes differ, the shortcut is
    two 1x1 convolutions, of every second pixel and of their neighbours below and to the right.

    Attributes:
        width: number of output channels.
        stride: 1, or 2 to halve height and width.
        conv, norm: factories for convolutions and batch norms.
        se: factory for the SE block, or None.
    """

    width: int
    stride: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    se: Callable[..., nn.Module] | None = None

    @nn.compact
    def __call__(self, x: Images, train: bool) -> Map:
        """Returns the unit's output."""
        branches = [self.branch(x, i) for i in (1, 2)]
        shape = (x.shape[0], 1, 1, 1)
        alpha = beta = jnp.full(shape, 0.5, x.dtype)
        if train:
            alpha, beta = jax.random.uniform(self.make_rng("dropout"), (2, *shape), x.dtype)
        y = shake(*branches, alpha, beta)
        y = make_block(self.se, norm=self.norm)(y) if self.se else y
        return residual_sum(self.shortcut(x), y)

    def branch(self, x: Images, i: int) -> Map:
        """Returns the output of branch i, counted from 1."""
        conv = functools.partial(self.conv, self.width, (3, 3), padding=1)
        y = conv(strides=self.stride, name=f"branch{i}_conv1")(relu(x))
        y = relu(self.norm(name=f"branch{i}_bn1")(y))
        return self.norm(name=f"branch{i}_bn2")(conv(name=f"branch{i}_conv2")(y))

    def shortcut(self, x: Images) -> Map:
        """Gives x the branches' output shape."""
        if x.shape[-1] == self.width:
            return x
        x = relu(x)
        shifted = jax.lax.slice(x, (0, 1, 1, 0), x.shape)
        shifted = jnp.pad(shifted, ((0, 0), (0, 1), (0, 1), (0, 0)))
        conv = functools.partial(self.conv, self.width // 2, (1, 1), strides=self.stride)
        halves = [conv(name="shortcut_conv1")(x), conv(name="shortcut_conv2")(shifted)]
        return self.norm(name="shortcut_bn")(jnp.concatenate(halves, axis=-1))


class ShakeShake(Network, kw_only=True):
    """A Shake-Shake network: three stages of units with two branches.

    Attributes:
        stage_sizes: number of units of each stage. The first unit of every stage except the first
            halves height and width.
        widths: channels of each stage.
    """

    stage_sizes: tuple[int, ...]
    widths: tuple[int, ...]

    def feature_maps(self, x: Images, train: bool) -> Maps:
        """Returns the output of each stage."""
        conv = self.make_conv(use_bias=False, padding=0, kernel_init=he_normal)
        norm = self.make_norm(train)
        x = norm(name="stem_bn")(conv(16, (3, 3), padding=1, name="stem_conv")(x))
        maps = {}
        for i, (size, width) in enumerate(zip(self.stage_sizes, self.widths, strict=True), start=1):
            for j in range(1, size + 1):
                unit = functools.partial(
                    ShakeUnit,
                    width=width,
                    stride=2 if i > 1 and j == 1 else 1,
                    conv=conv,
                    norm=norm,
                    se=self.se,
                    name=f"stage{i}_unit{j}",
                )
                unit = functools.partial(apply_module, make=unit, train=train)
                x = self.apply_unit(unit, x, train)
            maps[f"stage{i}"] = x
        maps[f"stage{len(maps)}"] = relu(x)
        return maps


register(
    "shake_shake26_2x96d_cifar",
    ShakeShake,
    input_size=32,
    crop_pct=1.0,
    num_classes=10,
    mean=CIFAR10_MEAN,
    std=CIFAR10_STD,
    paper="Gastaldi, Shake-Shake regularization, arXiv:1705.07485, table 1",
    stage_sizes=(4, 4, 4),
    widths=(96, 192, 384),
)
