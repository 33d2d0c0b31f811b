"""The interface of a network: its fields, its call signature and its outputs."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from se_flax.errors import UserError
from se_flax.layers.batch_norm import BatchNorm
from se_flax.layers.blocks import replaces_convolution
from se_flax.layers.cpu import Conv
from se_flax.layers.make_block import make_block

Images = Float[Array, "n h w c"]
Map = Float[Array, "n h2 w2 c2"]  # made from images, or from another map
Maps = dict[str, Float[Array, "n _ _ _"]]
Logits = Float[Array, "n num_classes"]


class Network(nn.Module, kw_only=True):
    """Base class of all networks.

    A network is a subclass that adds its own fields and implements `feature_maps`. A call of
    `register` in the same file gives it a name. This is a complete network, whose classifier
    sees the mean of the last feature map:

        class Tiny(Network, kw_only=True):
            width: int = 32

            def feature_maps(self, x, train):
                conv, norm = self.make_conv(use_bias=False), self.make_norm(train)
                x = jax.nn.relu(norm(name="bn")(conv(self.width, (3, 3), name="conv")(x)))
                return {"stage1": self.rescale(x, name="se", norm=norm)}

        register("tiny", Tiny, input_size=32, num_classes=10, paper="nowhere yet")

    Attributes:
        num_classes: size of the classifier's output.
        dropout: dropout rate, before the classifier unless a network says otherwise.
        se: factory for the SE blocks, called with each block's name; None for a network without
            SE blocks. See `make_block`.
        dtype: computation type; parameters, batch statistics and logits are float32.
        sync_axis: name of the mapped axis (of `jax.pmap`) over which batch statistics are
            averaged; None for no averaging.
        remat: whether training computes the maps inside each unit again for the gradient, instead
            of keeping them (see `apply_unit`). The results are the same to rounding.
    """

    num_classes: int = 1000
    dropout: float = 0.0
    se: Callable[..., nn.Module] | None = None
    dtype: DTypeLike = jnp.float32
    sync_axis: str | None = None
    remat: bool = False

    def __post_init__(self):
        super().__post_init__()
        if replaces_convolution(self.se) and not self.takes_selective_kernels:
            raise UserError(
                'a selective kernel (se="sk") can stand only in the residual units of ResNets and '
                "ResNeXts without pre-activation, in place of a 3x3 convolution; choose one of "
                'these, for example "resnet50", or another block'
            )

    @property
    def takes_selective_kernels(self) -> bool:
        """Whether units can have a selective kernel in place of a 3x3 convolution."""
        return False

    @nn.compact
    def __call__(
        self,
        images: Float[ArrayLike, "n h w c"],
        train: bool = False,
        features: bool = False,
    ) -> Logits | Maps:
        """Returns logits, or feature maps.

        Args:
            images: batch of normalised images, [n, h, w, c].
            train: whether to normalise by batch statistics, update the running ones (collection
                `batch_stats`) and apply dropout (rng collection `dropout`).
            features: whether to return the feature maps of `feature_maps` instead of logits.

        Raises:
            UserError: if the images do not have four axes, or are too small for the network.
        """
        if images.ndim != 4:
            raise UserError(
                "images must have shape [n, height, width, channels], not "
                f"{list(images.shape)}; for a single image pass image[None]"
            )
        maps = self.feature_maps(jnp.asarray(images, self.dtype), train)
        if 0 in last(maps).shape:
            height, width = images.shape[1:3]
            raise UserError(
                f"images of {height} x {width} are too small for this network; pass larger ones"
            )
        return maps if features else self.classify(maps, train)

    def feature_maps(self, x: Images, train: bool) -> Maps:
        """Returns the stages' feature maps by name, from `stage1` to the classifier's input."""
        raise NotImplementedError

    def classify(self, maps: Maps, train: bool) -> Logits:
        """Returns logits, by default from the last feature map's mean over positions."""
        x = jnp.mean(last(maps), axis=(1, 2), dtype=jnp.float32)
        return self.make_classifier()(self.apply_dropout(x, train))

    def make_classifier(self, **fields: Any) -> nn.Module:
        """Creates the last layer; `fields` are fields of `nn.Dense`."""
        return nn.Dense(self.num_classes, name="classifier", **fields)

    def apply_dropout(self, x: Float[Array, "..."], train: bool) -> Float[Array, "..."]:
        """Applies dropout with rate `self.dropout`."""
        return nn.Dropout(self.dropout, deterministic=not train)(x)

    def apply_unit(self, unit: Callable[["Network", Images], Map], x: Images, train: bool) -> Map:
        """Returns unit(self, x), for a unit or a stage of the network.

        In training with `remat`, only x and the output are kept for the gradient.

        Args:
            unit: a function of a network and its input, which creates submodules of that network.
            x: the unit's input.
            train: see `__call__`.
        """

        def apply(network, x):
            return unit(network, x)

        return nn.remat(apply)(self, x) if self.remat and train else apply(self, x)

    def rescale(self, x: Images, name: str, norm: Callable[..., nn.Module] | None = None) -> Images:
        """Applies an SE block, if the network has SE blocks; `norm` is what `make_norm` returns."""
        return make_block(self.se, name, norm=norm)(x) if self.se else x

    def make_conv(self, **fields: Any) -> Callable[..., nn.Module]:
        """Returns a factory for convolutions; `fields` are fields of `nn.Conv`."""
        return functools.partial(Conv, dtype=self.dtype, **fields)

    def make_norm(
        self, train: bool, momentum: float = 0.9, epsilon: float = 1e-5
    ) -> Callable[..., nn.Module]:
        """Returns a factory for batch norms."""
        return functools.partial(
            BatchNorm,
            use_running_average=not train,
            momentum=momentum,
            epsilon=epsilon,
            dtype=self.dtype,
            axis_name=self.sync_axis,
        )


def apply_module(network: Network, x: Images, make: Callable[[], nn.Module], **options: Any) -> Map:
    """Returns make()(x, **options), where make() is a submodule of the network."""
    return make()(x, **options)


def last(maps: Maps) -> Images:
    """Returns the last feature map, which is the classifier's input."""
    return list(maps.values())[-1]
