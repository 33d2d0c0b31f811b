"""Inception networks, with or without SE blocks: the modules, and a network built from a table.

The tables are in bn_inception.py, inception_v3.py and inception_resnet.py. The SE blocks' positions
are those of the SE paper, arXiv:1709.01507, figure 2.
"""

import dataclasses
import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from se_flax.errors import UserError
from se_flax.layers.cpu import max_pool, residual_sum
from se_flax.layers.make_block import make_block
from se_flax.models.base import Images, Logits, Map, Maps, Network, apply_module

he_normal = nn.initializers.he_normal()

Pool = Callable[[Images], Float[Array, "n h2 w2 c"]]


@dataclasses.dataclass(frozen=True)
class ConvSpec:
    """A table entry for a convolution, which batch norm and ReLU follow.

    Attributes:
        name: name of the submodule.
        features: number of output channels.
        kernel: (height, width) of the kernel, or one number for both.
        stride: stride in both directions.
        padded: whether to pad with kernel // 2 zeros on each side, which keeps the size if the
            stride is 1.
    """

    name: str
    features: int
    kernel: int | tuple[int, int] = 1
    stride: int = 1
    padded: bool = True


# Layers applied in sequence. A nested tuple holds parallel convolutions, whose outputs are
# concatenated.
Layers = tuple["ConvSpec | Pool | tuple[ConvSpec, ...]", ...]


@dataclasses.dataclass(frozen=True)
class ModuleSpec:
    """A table entry for an Inception module.

    Attributes:
        name: name of the submodule.
        branches: sequences of layers, all applied to the module's input; their outputs are
            concatenated.
        scale: factor of the residual branch, or None for a module without a shortcut. In a
            residual module, a 1x1 convolution maps the concatenated branches to the input's
            channels; the result, times `scale`, is added to the input.
        activate: whether a ReLU follows that addition.
    """

    name: str
    branches: tuple[Layers, ...]
    scale: float | None = None
    activate: bool = True


class ConvLayer(nn.Module):
    """Convolution, batch norm and ReLU, as specified by a table entry."""

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
    """Applies layers in sequence; `layer` creates a `ConvLayer` from an entry."""
    for entry in layers:
        if isinstance(entry, ConvSpec):
            x = layer(entry, name=entry.name)(x)
        elif isinstance(entry, tuple):
            x = jnp.concatenate([layer(e, name=e.name)(x) for e in entry], axis=-1)
        else:
            x = entry(x)
    return x


class InceptionModule(nn.Module):
    """An Inception module, as specified by a table entry: y = se(concatenated branches).

    With a scale s it is residual: y = relu(x + s * se(projection(concatenated branches))).

    Attributes:
        entry: the table entry.
        layer: factory that creates a `ConvLayer` from an entry.
        projection: factory for the 1x1 convolution of a residual module.
        se: factory for the SE block, or None.
        norm: factory for the SE block's batch norms, if it has any.
    """

    entry: ModuleSpec
    layer: Callable[..., nn.Module]
    projection: Callable[..., nn.Module]
    se: Callable[..., nn.Module] | None = None
    norm: Callable[..., nn.Module] | None = None

    @nn.compact
    def __call__(self, x: Images) -> Map:
        """Returns the module's output."""
        scale = self.entry.scale
        outputs = [apply_layers(branch, x, self.layer) for branch in self.entry.branches]
        y = jnp.concatenate(outputs, axis=-1)
        if scale is not None:
            y = self.projection(x.shape[-1], (1, 1), name="projection")(y)
        if self.se:
            y = make_block(self.se, norm=self.norm)(y)
        if scale is not None:
            activation = jax.nn.relu if self.entry.activate else None
            y = residual_sum(x, scale * y, activation)
        return y


class Inception(Network, kw_only=True):
    """An Inception network.

    With SE blocks, every Inception module has one, including those that reduce the resolution. It
    rescales the module's output, the concatenation of its branches (SE paper, figure 2). In a
    residual module it follows the 1x1 convolution and precedes the scaled addition (figure 3).

    Attributes:
        stem: layers before the first module.
        stages: modules, grouped by resolution.
        final: layers after the last module.
        conv_bias: whether the convolutions have biases, in addition to those of batch norm.
        epsilon: constant that batch norm adds to the variance.
        auxiliary: whether there is a second classifier, on the output of the second-to-last stage.
            In training, its logits are sown into the collection `intermediates` as
            `auxiliary_logits`, for the loss to use. In evaluation they are not computed, but the
            parameters exist.
    """

    stem: Layers
    stages: tuple[tuple[ModuleSpec, ...], ...]
    final: Layers = ()
    conv_bias: bool = False
    epsilon: float = 1e-3
    auxiliary: bool = False

    def feature_maps(self, x: Images, train: bool) -> Maps:
        """Returns the output of each stage; the last one includes the final layers."""
        layer, projection = self.make_layer(train), self.make_conv(kernel_init=he_normal)
        norm = self.make_norm(train, epsilon=self.epsilon)
        x = apply_layers(self.stem, x, layer)
        maps = {}
        for i, modules in enumerate(self.stages, start=1):
            for entry in modules:
                module = functools.partial(
                    InceptionModule, entry, layer, projection, self.se, norm, name=entry.name
                )
                x = self.apply_unit(functools.partial(apply_module, make=module), x, train)
            maps[f"stage{i}"] = x
        maps[f"stage{len(maps)}"] = apply_layers(self.final, x, layer)
        return maps

    def classify(self, maps: Maps, train: bool) -> Logits:
        """Returns logits; in training also sows those of the auxiliary classifier."""
        if self.auxiliary and (train or self.is_initializing()):
            logits = self.classify_early(maps[f"stage{len(maps) - 1}"], train)
            self.sow("intermediates", "auxiliary_logits", logits)
        return super().classify(maps, train)

    def classify_early(self, x: Images, train: bool) -> Logits:
        """Returns the logits of the auxiliary classifier."""
        # Average pooling leaves (size - 5) // 3 + 1 rows and columns; the second convolution
        # needs at least 5.
        if min(x.shape[1:3]) < 17:
            raise UserError(
                "the auxiliary classifier needs a feature map of at least 17x17, the size for "
                f"images of 299x299, not {x.shape[1]}x{x.shape[2]}; use larger images, or build "
                "the network with auxiliary=False"
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
        """Returns a factory that creates a `ConvLayer` from an entry."""
        conv = self.make_conv(use_bias=self.conv_bias, kernel_init=he_normal)
        norm = self.make_norm(train, epsilon=self.epsilon)
        return functools.partial(ConvLayer, conv=conv, norm=norm)


# Pooling layers for the tables.
_AROUND = ((1, 1), (1, 1))
average: Pool = functools.partial(nn.avg_pool, window_shape=(3, 3), padding=_AROUND)
average_inside: Pool = functools.partial(average, count_include_pad=False)
maximum: Pool = functools.partial(max_pool, window_shape=(3, 3), padding=_AROUND)
halve: Pool = functools.partial(max_pool, window_shape=(3, 3), strides=(2, 2))
halve_around: Pool = functools.partial(halve, padding=_AROUND)
halve_same: Pool = functools.partial(halve, padding="SAME")


def halve_ceil(x: Images) -> Float[Array, "n h2 w2 c"]:
    """Max-pools 3x3 windows with stride 2, without padding; rounds the size up, as Caffe does."""
    padding = [(0, (size - 3) % 2) for size in x.shape[1:3]]
    return max_pool(x, (3, 3), strides=(2, 2), padding=padding)
