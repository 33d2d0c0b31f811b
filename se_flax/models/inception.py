"""Inception networks, with or without SE blocks: the modules, and a network made of a table.

The tables are in bn_inception.py, inception_v3.py and inception_resnet.py. Where the SE blocks
stand is from the SE paper, arXiv:1709.01507, figure 2.
"""

import dataclasses
import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from se_flax.errors import UserError
from se_flax.layers.cpu import residual_sum
from se_flax.layers.make_block import make_block
from se_flax.models.base import Images, Logits, Map, Maps, Network

he_normal = nn.initializers.he_normal()

Pool = Callable[[Images], Float[Array, "n h2 w2 c"]]


@dataclasses.dataclass(frozen=True)
class ConvSpec:
    """A convolution in a table of layers; batch norm and ReLU follow it.

    Attributes:
        name: of the submodule.
        features: number of output channels.
        kernel: its height and width; one number stands for both.
        stride: in both directions.
        padded: has zeros around, half as many as the kernel is wide, so that with stride 1
            the size stays.
    """

    name: str
    features: int
    kernel: int | tuple[int, int] = 1
    stride: int = 1
    padded: bool = True


# A row of layers; a row within a row is of convolutions side by side, to be concatenated.
Layers = tuple["ConvSpec | Pool | tuple[ConvSpec, ...]", ...]


@dataclasses.dataclass(frozen=True)
class ModuleSpec:
    """An Inception module in a table.

    Attributes:
        name: of the submodule.
        branches: its rows of layers, all of the same input; their outputs are concatenated.
        scale: None, or the factor by which the branches, brought to the input's channels by
            a 1x1 convolution, are multiplied before they are added to the input.
        activate: a ReLU follows that addition.
    """

    name: str
    branches: tuple[Layers, ...]
    scale: float | None = None
    activate: bool = True


class ConvLayer(nn.Module):
    """Convolution, batch norm and ReLU, as a table's entry says."""

    entry: ConvSpec
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Images) -> Float[Array, "n h2 w2 features"]:
        """Returns the layer's output."""
        kernel = self.entry.kernel
        kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = [(size // 2, size // 2) if self.entry.padded else (0, 0) for size in kernel]
        x = self.conv(
            self.entry.features, kernel, strides=self.entry.stride, padding=padding, name="conv"
        )(x)
        return jax.nn.relu(self.norm(name="bn")(x))


def apply_layers(layers: Layers, x: Images, layer: Callable[..., nn.Module]) -> Map:
    """Returns the output of a row of layers; `layer` makes a `ConvLayer` of an entry."""
    for entry in layers:
        if isinstance(entry, ConvSpec):
            x = layer(entry, name=entry.name)(x)
        elif isinstance(entry, tuple):
            x = jnp.concatenate([layer(e, name=e.name)(x) for e in entry], axis=-1)
        else:
            x = entry(x)
    return x


class InceptionModule(nn.Module):
    """An Inception module, as a table's entry says: y = se(concatenated branches).

    With a scale s it is residual: y = relu(x + s * se(projection(concatenated branches))).

    Attributes:
        entry: the table's entry.
        layer: makes a `ConvLayer` of an entry.
        projection: makes the 1x1 convolution of a residual module.
        se: makes the block that rescales the branches, if any.
    """

    entry: ModuleSpec
    layer: Callable[..., nn.Module]
    projection: Callable[..., nn.Module]
    se: Callable[..., nn.Module] | None = None

    @nn.compact
    def __call__(self, x: Images) -> Map:
        """Returns the module's output."""
        scale = self.entry.scale
        outputs = [apply_layers(branch, x, self.layer) for branch in self.entry.branches]
        y = jnp.concatenate(outputs, axis=-1)
        if scale is not None:
            y = self.projection(x.shape[-1], (1, 1), name="projection")(y)
        if self.se:
            y = make_block(self.se)(y)
        if scale is not None:
            activation = jax.nn.relu if self.entry.activate else None
            y = residual_sum(x, scale * y, activation)
        return y


class Inception(Network, kw_only=True):
    """An Inception network.

    With SE blocks, each Inception module has one, those that reduce the grid included: on its
    output, the concatenation of its branches (SE paper, figure 2), or in residual modules, in
    which that is the branch of a residual unit, after the 1x1 convolution and before the
    scaled addition (figure 3).

    Attributes:
        stem: the layers before the first module.
        stages: the modules, in groups of one resolution each.
        final: the layers after the last module.
        conv_bias: the convolutions followed by batch norm have biases too.
        epsilon: what batch norm adds to the variance.
        auxiliary: there is a second classifier on the output of the last stage but one. In
            training its logits are sown into the collection `intermediates` as
            `auxiliary_logits`, for a loss to add to the network's own; otherwise it is not
            computed. Its parameters are always there.
    """

    stem: Layers
    stages: tuple[tuple[ModuleSpec, ...], ...]
    final: Layers = ()
    conv_bias: bool = False
    epsilon: float = 1e-3
    auxiliary: bool = False

    def feature_maps(self, x: Images, train: bool) -> Maps:
        """Returns the output of each stage; that of the last one, after the final layers."""
        layer, projection = self.make_layer(train), self.make_conv(kernel_init=he_normal)
        x = apply_layers(self.stem, x, layer)
        maps = {}
        for i, modules in enumerate(self.stages, start=1):
            for entry in modules:
                x = InceptionModule(entry, layer, projection, self.se, name=entry.name)(x)
            maps[f"stage{i}"] = x
        maps[f"stage{len(maps)}"] = apply_layers(self.final, x, layer)
        return maps

    def classify(self, maps: Maps, train: bool) -> Logits:
        """Returns logits, and sows those of the auxiliary classifier."""
        if self.auxiliary and (train or self.is_initializing()):
            logits = self.classify_early(maps[f"stage{len(maps) - 1}"], train)
            self.sow("intermediates", "auxiliary_logits", logits)
        return super().classify(maps, train)

    def classify_early(self, x: Images, train: bool) -> Logits:
        """Returns the logits of the auxiliary classifier."""
        # Average pooling leaves (size - 5) // 3 + 1 positions, of which the second convolution
        # needs 5.
        if min(x.shape[1:3]) < 17:
            raise UserError(
                "the auxiliary classifier needs a map of at least 17x17, as images of 299x299 "
                f"give, not {x.shape[1]}x{x.shape[2]}; for smaller images build the network with "
                "auxiliary=False"
            )
        layers = (
            ConvSpec("auxiliary_conv1", 128),
            ConvSpec("auxiliary_conv2", 768, 5, padded=False),
        )
        x = nn.avg_pool(x, (5, 5), strides=(3, 3))
        x = apply_layers(layers, x, self.make_layer(train))
        x = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
        return nn.Dense(self.num_classes, name="auxiliary_classifier")(x)

    def make_layer(self, train: bool) -> Callable[..., nn.Module]:
        """Returns what makes a `ConvLayer` of an entry."""
        conv = self.make_conv(use_bias=self.conv_bias, kernel_init=he_normal)
        norm = self.make_norm(train, epsilon=self.epsilon)
        return functools.partial(ConvLayer, conv=conv, norm=norm)


# The poolings of the tables.
_AROUND = ((1, 1), (1, 1))
average: Pool = functools.partial(nn.avg_pool, window_shape=(3, 3), padding=_AROUND)
average_inside: Pool = functools.partial(average, count_include_pad=False)
maximum: Pool = functools.partial(nn.max_pool, window_shape=(3, 3), padding=_AROUND)
halve: Pool = functools.partial(nn.max_pool, window_shape=(3, 3), strides=(2, 2))
halve_around: Pool = functools.partial(halve, padding=_AROUND)
halve_same: Pool = functools.partial(halve, padding="SAME")


def halve_ceil(x: Images) -> Float[Array, "n h2 w2 c"]:
    """Without padding, and with the size rounded up, as Caffe does."""
    padding = [(0, (size - 3) % 2) for size in x.shape[1:3]]
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=padding)
