"""The contract of a network: its fields, how it is called, and what it returns."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from se_flax.errors import UserError
from se_flax.layers.cpu import Conv
from se_flax.layers.make_block import make_block

Images = Float[Array, "n h w c"]
Map = Float[Array, "n h2 w2 c2"]  # made from images, or from another map
Maps = dict[str, Float[Array, "n _ _ _"]]
Logits = Float[Array, "n num_classes"]


class Network(nn.Module, kw_only=True):
    """What all networks have in common.

    A network is a subclass with fields of its own and `feature_maps`; `register` in the same file
    gives it a name. That is all, if the last map is classified by its mean:

        class Tiny(Network, kw_only=True):
            width: int = 32

            def feature_maps(self, x, train):
                conv, norm = self.make_conv(use_bias=False), self.make_norm(train)
                x = jax.nn.relu(norm(name="bn")(conv(self.width, (3, 3), name="conv")(x)))
                return {"stage1": self.rescale(x, name="se")}

        register("tiny", Tiny, input_size=32, num_classes=10, paper="nowhere yet")

    Attributes:
        num_classes: size of the classifier's output.
        dropout: its rate, before the classifier unless a network says otherwise.
        se: makes its SE blocks, each called with its name; None for none. See `make_block`.
        dtype: computation type; parameters, statistics and logits are float32.
        sync_axis: mapped axis (of `jax.pmap`) whose devices share batch statistics.
    """

    num_classes: int = 1000
    dropout: float = 0.0
    se: Callable[..., nn.Module] | None = None
    dtype: DTypeLike = jnp.float32
    sync_axis: str | None = None

    @nn.compact
    def __call__(
        self,
        images: Float[ArrayLike, "n h w c"],
        train: bool = False,
        features: bool = False,
    ) -> Logits | Maps:
        """Returns logits, or feature maps.

        Args:
            images: normalised, channels last.
            train: normalise by batch statistics and update them (collection `batch_stats`), and
                drop out (rng collection `dropout`).
            features: return the maps that `feature_maps` does instead.

        Raises:
            UserError: if the images are no batch of images, or too small for the network.
        """
        if images.ndim != 4:
            raise UserError(
                "images must be of shape [n, height, width, channels], not "
                f"{list(images.shape)}; a single one is image[None]"
            )
        maps = self.feature_maps(jnp.asarray(images, self.dtype), train)
        if 0 in last(maps).shape:
            height, width = images.shape[1:3]
            raise UserError(f"images of {height} x {width} are too small for this network")
        return maps if features else self.classify(maps, train)

    def feature_maps(self, x: Images, train: bool) -> Maps:
        """Returns the output of each stage by name, `stage1` first and the classifier's last."""
        raise NotImplementedError

    def classify(self, maps: Maps, train: bool) -> Logits:
        """Returns logits: by default of the last map's mean over positions."""
        x = jnp.mean(last(maps), axis=(1, 2), dtype=jnp.float32)
        return self.make_classifier()(self.apply_dropout(x, train))

    def make_classifier(self, **fields: Any) -> nn.Module:
        """Makes the last layer; `fields` are those of `nn.Dense`."""
        return nn.Dense(self.num_classes, name="classifier", **fields)

    def apply_dropout(self, x: Float[Array, "..."], train: bool) -> Float[Array, "..."]:
        """Applies dropout at the network's rate."""
        return nn.Dropout(self.dropout, deterministic=not train)(x)

    def rescale(self, x: Images, name: str) -> Images:
        """Applies an SE block, if the network has any."""
        return make_block(self.se, name)(x) if self.se else x

    def make_conv(self, **fields: Any) -> Callable[..., nn.Module]:
        """Returns what makes convolutions; `fields` are those of `nn.Conv`."""
        return functools.partial(Conv, dtype=self.dtype, **fields)

    def make_norm(
        self, train: bool, momentum: float = 0.9, epsilon: float = 1e-5
    ) -> Callable[..., nn.Module]:
        """Returns what makes batch norms."""
        return functools.partial(
            nn.BatchNorm,
            use_running_average=not train,
            momentum=momentum,
            epsilon=epsilon,
            dtype=self.dtype,
            axis_name=self.sync_axis,
        )


def last(maps: Maps) -> Images:
    """Returns the map that the classifier sees."""
    return list(maps.values())[-1]
