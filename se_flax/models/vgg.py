"""VGG networks (Simonyan & Zisserman, arXiv:1409.1556, table 1), with or without SE blocks."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from se_flax.layers.cpu import max_pool_2x2
from se_flax.layers.initializers import he_normal
from se_flax.models.base import Images, Logits, Map, Maps, Network, last
from se_flax.models.registry import register

dense_init = nn.initializers.normal(0.01)

POOLED = 7  # height and width of the first dense layer's input


def adaptive_average_pool(x: Images, size: int) -> Float[Array, "n {size} {size} c"]:
    """Averages over a grid of size x size windows that covers the feature map.

    For a map of h rows, window i covers the rows from floor(i h / size) up to, but not including,
    ceil((i + 1) h / size), and columns likewise. If size does not divide h, some windows overlap;
    if h is less than size, rows are repeated.
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


class VGG(Network, kw_only=True):
    """A VGG network: stages of 3x3 convolutions with ReLU, each stage followed by 2x2 max pooling.

    After the stages come two dense layers of width 4096, with ReLU and dropout, and the
    classifier. The convolutions of stage i are the submodules `stage{i}_conv{j}`, counted from 1.
    The dense layers take a 7x7 feature map; for image sizes other than 224 the last map is
    averaged to 7x7 (`adaptive_average_pool`).

    SE blocks follow the ReLU of every convolution: "the SE block can be integrated into
    standard architectures such as VGGNet by insertion after the non-linearity following each
    convolution" (SE paper, section 3.3).

    Attributes:
        stage_sizes: number of convolutions of each stage.
        widths: channels of the convolutions of each stage.
        batch_norm: whether there is a batch norm between each convolution and its ReLU, as in
            the SE paper's VGG-16.
        dropout: dropout rate after each of the two dense layers.
    """

    stage_sizes: tuple[int, ...]
    widths: tuple[int, ...]
    batch_norm: bool = False
    dropout: float = 0.5

    def feature_maps(self, x: Images, train: bool) -> Maps:
        """Returns the output of each stage's pooling."""
        maps = {}
        for i in range(1, len(self.stage_sizes) + 1):
            x = self.apply_unit(functools.partial(VGG.stage, i=i, train=train), x, train)
            maps[f"stage{i}"] = x
        return maps

    def stage(self, x: Images, i: int, train: bool) -> Map:
        """Returns the output of stage i, counted from 1."""
        conv = self.make_conv(padding=1, kernel_init=he_normal)
        norm = self.make_norm(train)
        for j in range(1, self.stage_sizes[i - 1] + 1):
            x = conv(self.widths[i - 1], (3, 3), name=f"stage{i}_conv{j}")(x)
            if self.batch_norm:
                x = norm(name=f"stage{i}_bn{j}")(x)
            x = self.rescale(jax.nn.relu(x), f"stage{i}_se{j}", norm if self.batch_norm else None)
        return max_pool_2x2(x)

    def classify(self, maps: Maps, train: bool) -> Logits:
        """Returns the logits after three dense layers."""
        x = adaptive_average_pool(last(maps), POOLED)
        x = x.reshape(x.shape[0], -1)
        for name in ("fc6", "fc7"):
            x = nn.Dense(4096, kernel_init=dense_init, dtype=self.dtype, name=name)(x)
            x = self.apply_dropout(jax.nn.relu(x), train)
        return self.make_classifier(kernel_init=dense_init)(x.astype(jnp.float32))


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
