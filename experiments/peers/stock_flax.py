"""ResNets and EfficientNet-B0, with or without SE blocks, made only of Flax's own layers."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

conv = functools.partial(nn.Conv, use_bias=False)


class SE(nn.Module):
    """The block as in the paper's figure 2."""

    width: int
    activation: Any = nn.relu

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the output."""
        y = jnp.mean(x, axis=(1, 2))
        y = self.activation(nn.Dense(self.width, dtype=x.dtype)(y))
        return x * nn.sigmoid(nn.Dense(x.shape[-1], dtype=x.dtype)(y))[:, None, None]


class ResNet20(nn.Module):
    """ResNet-20 for 32x32 images; where shapes differ, the shortcut is padded with zeros."""

    se: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Returns logits."""
        norm = functools.partial(nn.BatchNorm, not train, momentum=0.9, dtype=self.dtype)
        x = nn.relu(norm()(conv(16, (3, 3), dtype=self.dtype)(x)))
        for width in (16, 32, 64):
            for unit in range(3):
                stride = 2 if unit == 0 and width > 16 else 1
                y = nn.relu(norm()(conv(width, (3, 3), stride, padding=1, dtype=self.dtype)(x)))
                y = norm()(conv(width, (3, 3), dtype=self.dtype)(y))
                if self.se:
                    y = SE(max(1, width // 16))(y)
                more = width - x.shape[-1]
                x = jnp.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), (0, more)))
                x = nn.relu(x + y)
        return nn.Dense(10)(jnp.mean(x, axis=(1, 2)).astype(jnp.float32))


class ResNet50(nn.Module):
    """ResNet-50 for ImageNet."""

    se: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Returns logits."""
        norm = functools.partial(nn.BatchNorm, not train, momentum=0.9, dtype=self.dtype)
        x = conv(64, (7, 7), 2, padding=3, dtype=self.dtype)(x)
        x = nn.max_pool(nn.relu(norm()(x)), (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        for stage, (width, units) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)]):
            for unit in range(units):
                stride = 2 if unit == 0 and stage > 0 else 1
                y = nn.relu(norm()(conv(width, (1, 1), dtype=self.dtype)(x)))
                y = nn.relu(norm()(conv(width, (3, 3), stride, padding=1, dtype=self.dtype)(y)))
                y = norm()(conv(4 * width, (1, 1), dtype=self.dtype)(y))
                if self.se:
                    y = SE(width // 4)(y)
                if unit == 0:
                    x = norm()(conv(4 * width, (1, 1), stride, dtype=self.dtype)(x))
                x = nn.relu(x + y)
        return nn.Dense(1000)(jnp.mean(x, axis=(1, 2)).astype(jnp.float32))


class EfficientNetB0(nn.Module):
    """EfficientNet-B0 for ImageNet, without dropout and stochastic depth."""

    se: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Returns logits."""
        norm = functools.partial(
            nn.BatchNorm, not train, momentum=0.99, epsilon=1e-3, dtype=self.dtype
        )
        x = nn.swish(norm()(conv(32, (3, 3), 2, dtype=self.dtype)(x)))
        for units, channels, kernel, first_stride, expansion in (
            (1, 16, 3, 1, 1),
            (2, 24, 3, 2, 6),
            (2, 40, 5, 2, 6),
            (3, 80, 3, 2, 6),
            (3, 112, 5, 1, 6),
            (4, 192, 5, 2, 6),
            (1, 320, 3, 1, 6),
        ):
            for unit in range(units):
                stride = first_stride if unit == 0 else 1
                y, inner = x, x.shape[-1] * expansion
                if expansion > 1:
                    y = nn.swish(norm()(conv(inner, (1, 1), dtype=self.dtype)(y)))
                y = conv(
                    inner, (kernel, kernel), stride, feature_group_count=inner, dtype=self.dtype
                )(y)
                y = nn.swish(norm()(y))
                if self.se:
                    y = SE(x.shape[-1] // 4, nn.swish)(y)
                y = norm()(conv(channels, (1, 1), dtype=self.dtype)(y))
                x = x + y if x.shape == y.shape else y
        x = nn.swish(norm()(conv(1280, (1, 1), dtype=self.dtype)(x)))
        return nn.Dense(1000)(jnp.mean(x, axis=(1, 2)).astype(jnp.float32))


NETWORKS: dict[str, Callable[[Any], nn.Module]] = {
    "resnet20_cifar": functools.partial(ResNet20, False),
    "se_resnet20_cifar": functools.partial(ResNet20, True),
    "resnet50": functools.partial(ResNet50, False),
    "se_resnet50": functools.partial(ResNet50, True),
    "efficientnet_b0": functools.partial(EfficientNetB0, True),
}
