"""VGG networks (Simonyan & Zisserman, arXiv:1409.1556), with or without SE blocks."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from se_flax.layers.conv import Conv
from se_flax.layers.pool import max_pool_2x2
from se_flax.models.checks import check_images, check_size
from se_flax.models.registry import register

he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
dense_init = nn.initializers.normal(0.01)

POOLED = 7  # height and width of what the first dense layer sees


def adaptive_average_pool(
    x: Float[Array, "n h w c"], size: int
) -> Float[Array, "n {size} {size} c"]:
    """Averages over size x size windows that share the map out as evenly as they can.

    Window i goes from floor(i h / size) up to, not including, ceil((i + 1) h / size): windows
    of a height that size does not divide overlap, and a smaller map is repeated.
    """

    def averages(length: int) -> np.ndarray:
        weights = np.zeros((size, length), np.float32)
        for i in range(size):
            start, stop = i * length // size, -(-(i + 1) * length // size)
            weights[i, start:stop] = 1 / (stop - start)
        return weights

    if x.shape[1:3] == (size, size):
        return x
    rows, columns = averages(x.shape[1]), averages(x.shape[2])
    return jnp.einsum(
        "ih,jw,nhwc->nijc", rows, columns, x.astype(jnp.float32), precision="highest"
    ).astype(x.dtype)


class VGG(nn.Module):
    """A VGG network: stages of 3x3 convolutions and ReLU, 2x2 maximum pooling after each.

    Two dense layers of 4096 with ReLU and dropout follow, and the classifier. The convolutions
    of stage i are the submodules `stage{i}_conv{j}`, counted from 1. Images of other sizes than
    224 are averaged to the 7x7 map that the dense layers take (`adaptive_average_pool`).

    SE blocks stand after the ReLU of every convolution: "the SE block can be integrated into
    standard architectures such as VGGNet by insertion after the non-linearity following each
    convolution" (SE paper, section 3.3).

    Attributes:
        stage_sizes: number of convolutions of each stage.
        widths: channels of the convolutions of each stage.
        batch_norm: whether batch norm stands between each convolution and its ReLU, as in the
            SE paper's own VGG-16.
        dropout: after each of the two dense layers, the rate of it.
        num_classes: size of the classifier's output.
        se: makes the SE block of each convolution, called with its name; None for none.
        dtype: computation type; parameters, statistics and logits are float32.
        sync_axis: mapped axis (of `jax.pmap`) whose devices share batch statistics.
    """

    stage_sizes: tuple[int, ...]
    widths: tuple[int, ...]
    batch_norm: bool = False
    dropout: float = 0.5
    num_classes: int = 1000
    se: Callable[..., nn.Module] | None = None
    dtype: DTypeLike = jnp.float32
    sync_axis: str | None = None

    @nn.compact
    def __call__(
        self, images: Float[Array, "n h w c"], train: bool = False, features: bool = False
    ) -> Float[Array, "n num_classes"] | dict[str, Float[Array, "n h w c"]]:
        """Returns logits; with `train`, normalises by batch statistics and updates them.

        Training draws from the rng collection `dropout`. With `features`, returns instead the
        output of each stage's pooling by its name, `stage1` first.

        Raises:
            UserError: if the images are so small that pooling leaves nothing.
        """
        check_images(images)
        conv = functools.partial(Conv, padding=1, kernel_init=he_normal, dtype=self.dtype)
        norm = functools.partial(
            nn.BatchNorm,
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            dtype=self.dtype,
            axis_name=self.sync_axis,
        )
        x = images.astype(self.dtype)
        maps = {}
        for i, (size, width) in enumerate(zip(self.stage_sizes, self.widths, strict=True), start=1):
            for j in range(1, size + 1):
                x = conv(width, (3, 3), name=f"stage{i}_conv{j}")(x)
                if self.batch_norm:
                    x = norm(name=f"stage{i}_bn{j}")(x)
                x = jax.nn.relu(x)
                if self.se:
                    x = self.se(name=f"stage{i}_se{j}")(x)
            x = max_pool_2x2(x)
            maps[f"stage{i}"] = x
        check_size(images, x)
        if features:
            return maps
        x = adaptive_average_pool(x, POOLED)
        x = x.reshape(len(x), -1)
        dense = functools.partial(nn.Dense, kernel_init=dense_init)
        for name in ("fc6", "fc7"):
            x = jax.nn.relu(dense(4096, dtype=self.dtype, name=name)(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return dense(self.num_classes, name="classifier")(x.astype(jnp.float32))


for _name, _batch_norm in (("vgg16", False), ("vgg16_bn", True)):
    register(
        _name,
        VGG,
        input_size=224,
        paper="Simonyan & Zisserman, Very Deep Convolutional Networks, arXiv:1409.1556, table 1 D"
        + "; batch norm after each convolution" * _batch_norm,
        stage_sizes=(2, 2, 3, 3, 3),
        widths=(64, 128, 256, 512, 512),
        batch_norm=_batch_norm,
    )
