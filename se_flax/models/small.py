"""Small convolutional networks for CIFAR-10 on which SE blocks were tried."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from se_flax.layers.cpu import max_pool_2x2
from se_flax.models.base import Images, Logits, Maps, Network, last
from se_flax.models.registry import register


class SmallCNN(Network, kw_only=True):
    """Two stages of two 3x3 convolutions, 2x2 maximum pooling and dropout, and a dense layer.

    ReLU follows each layer. It is the network of Keras' CIFAR-10 example: the first convolution
    of a stage keeps height and width, the second takes a pixel off each side. SENet_Keras tells
    that an SE block took "a small CNN" from 75.39% to 76.28% on CIFAR-10, but neither its layers
    nor where the block stands, its reduction or the training. Here a block stands at the end of
    each stage's convolutions, before the pooling, with the reduction of 16 that is its default.

    The dense layer has as many inputs as the images it was initialised for leave it: 2304 for
    32 x 32.

    Attributes:
        widths: channels of the convolutions of each stage.
        hidden: width of the dense layer.
        dropout: after each stage's pooling, the rate of it.
        hidden_dropout: after the dense layer, the rate of it.
    """

    widths: tuple[int, ...] = (32, 64)
    hidden: int = 512
    dropout: float = 0.25
    hidden_dropout: float = 0.5

    def feature_maps(self, x: Images, train: bool) -> Maps:
        """Returns the output of each stage's pooling."""
        conv = self.make_conv(kernel_size=(3, 3))
        maps = {}
        for i, width in enumerate(self.widths, start=1):
            x = self.apply_dropout(x, train) if i > 1 else x
            x = jax.nn.relu(conv(width, padding="SAME", name=f"stage{i}_conv1")(x))
            x = jax.nn.relu(conv(width, padding="VALID", name=f"stage{i}_conv2")(x))
            x = max_pool_2x2(self.rescale(x, name=f"stage{i}_se"))
            maps[f"stage{i}"] = x
        return maps

    def classify(self, maps: Maps, train: bool) -> Logits:
        """Returns logits of two dense layers."""
        x = self.apply_dropout(last(maps), train)
        x = x.reshape(len(x), -1)
        x = jax.nn.relu(nn.Dense(self.hidden, dtype=self.dtype, name="hidden")(x))
        x = nn.Dropout(self.hidden_dropout, deterministic=not train)(x)
        return self.make_classifier()(x.astype(jnp.float32))


class ThreeLayerCNN(Network, kw_only=True):
    """Three 3x3 convolutions, each with ReLU and 2x2 maximum pooling, and a classifier.

    Section 2 of "Variations of Squeeze and Excitation networks" (arXiv:2304.06502) compares the
    SE block and its variants in a "three layer CNN" on CIFAR-10: "we replace the 2nd conv layer
    with the module". With `se`, accordingly, the block stands *instead* of the second
    convolution and its ReLU, so that the network has fewer parameters than without. The paper
    gives no widths, pooling or head. Here the first two convolutions are equally wide, for the
    replacement to keep every shape; the pooling stays where the convolution goes; and the last
    map is classified by one dense layer.

    Attributes:
        widths: channels of the first two convolutions, and of the third.
    """

    widths: tuple[int, int] = (32, 64)

    def feature_maps(self, x: Images, train: bool) -> Maps:
        """Returns the output of each layer's pooling."""
        conv = self.make_conv(kernel_size=(3, 3))
        maps = {}
        first, third = self.widths
        for i, width in enumerate((first, first, third), start=1):
            if i == 2 and self.se:
                x = self.rescale(x, name="se")
            else:
                x = jax.nn.relu(conv(width, name=f"conv{i}")(x))
            x = max_pool_2x2(x)
            maps[f"stage{i}"] = x
        return maps

    def classify(self, maps: Maps, train: bool) -> Logits:
        """Returns logits of one dense layer."""
        x = self.apply_dropout(last(maps), train)
        return self.make_classifier()(x.reshape(len(x), -1).astype(jnp.float32))


register(
    "small_cnn",
    SmallCNN,
    input_size=32,
    num_classes=10,
    paper="Chollet et al., Keras 2, examples/cifar10_cnn.py",
)
register(
    "cnn3",
    ThreeLayerCNN,
    input_size=32,
    num_classes=10,
    paper="Variations of Squeeze and Excitation networks, arXiv:2304.06502, section 2",
)
