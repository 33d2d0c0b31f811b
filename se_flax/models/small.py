"""Small convolutional networks for CIFAR-10, in which others have tested SE blocks."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from se_flax.layers.cpu import max_pool_2x2
from se_flax.models.base import Images, Logits, Map, Maps, Network, last
from se_flax.models.registry import CIFAR10_MEAN, CIFAR10_STD, register


class SmallCNN(Network, kw_only=True):
    """The network of Keras' CIFAR-10 example.

    It has two stages, each of two 3x3 convolutions, 2x2 max pooling and dropout, then a dense
    layer with dropout and the classifier. ReLU follows each convolution and the dense layer. The
    first convolution of a stage keeps height and width; the second is unpadded and removes one
    pixel on each side.

    SENet_Keras (github.com/RayXie29/SENet_Keras) reports that an SE block improved "a small CNN"
    from 75.39% to 76.28% on CIFAR-10. It does not describe the layers, the block's position and
    reduction, or the training. Here each stage has one block, between its second convolution and
    its pooling, with the default reduction of 16.

    The image size at initialisation fixes the number of inputs of the dense layer: 2304 for
    32 x 32.

    Attributes:
        widths: channels of the convolutions of each stage.
        hidden: width of the dense layer.
        dropout: dropout rate after each stage's pooling.
        hidden_dropout: dropout rate after the dense layer.
    """

    widths: tuple[int, ...] = (32, 64)
    hidden: int = 512
    dropout: float = 0.25
    hidden_dropout: float = 0.5

    def feature_maps(self, x: Images, train: bool) -> Maps:
        """Returns the output of each stage's pooling."""
        maps = {}
        for i in range(1, len(self.widths) + 1):
            x = self.apply_dropout(x, train) if i > 1 else x
            x = self.apply_unit(functools.partial(SmallCNN.stage, i=i), x, train)
            maps[f"stage{i}"] = x
        return maps

    def stage(self, x: Images, i: int) -> Map:
        """Returns the output of stage i, counted from 1, without its dropout."""
        conv = self.make_conv(kernel_size=(3, 3), features=self.widths[i - 1])
        x = jax.nn.relu(conv(padding="SAME", name=f"stage{i}_conv1")(x))
        x = jax.nn.relu(conv(padding="VALID", name=f"stage{i}_conv2")(x))
        return max_pool_2x2(self.rescale(x, name=f"stage{i}_se"))

    def classify(self, maps: Maps, train: bool) -> Logits:
        """Returns the logits after two dense layers."""
        x = self.apply_dropout(last(maps), train)
        x = x.reshape(x.shape[0], -1)
        x = jax.nn.relu(nn.Dense(self.hidden, dtype=self.dtype, name="hidden")(x))
        x = nn.Dropout(self.hidden_dropout, deterministic=not train)(x)
        return self.make_classifier()(x.astype(jnp.float32))


class ThreeLayerCNN(Network, kw_only=True):
    """Three 3x3 convolutions, each with ReLU and 2x2 max pooling, and a classifier.

    Section 2 of "Variations of Squeeze and Excitation networks" (arXiv:2304.06502) compares the
    SE block and its variants in a "three layer CNN" on CIFAR-10: "we replace the 2nd conv layer
    with the module". Accordingly, with `se` the block *replaces* the second convolution and its
    ReLU, so the network has fewer parameters than without a block. The paper does not give widths,
    pooling or head. Here the first two convolutions have the same width, so that the replacement
    changes no shapes; the pooling after the replaced convolution remains; and the head is one
    dense layer.

    Attributes:
        widths: (channels of the first two convolutions, channels of the third).
    """

    widths: tuple[int, int] = (32, 64)

    def feature_maps(self, x: Images, train: bool) -> Maps:
        """Returns the output of each layer's pooling."""
        maps = {}
        first, third = self.widths
        for i, width in enumerate((first, first, third), start=1):
            layer = functools.partial(ThreeLayerCNN.layer, i=i, width=width)
            x = self.apply_unit(layer, x, train)
            maps[f"stage{i}"] = x
        return maps

    def layer(self, x: Images, i: int, width: int) -> Map:
        """Returns the output of the pooling after convolution i, counted from 1."""
        if i == 2 and self.se:
            return max_pool_2x2(self.rescale(x, name="se"))
        conv = self.make_conv(kernel_size=(3, 3))
        return max_pool_2x2(jax.nn.relu(conv(width, name=f"conv{i}")(x)))

    def classify(self, maps: Maps, train: bool) -> Logits:
        """Returns the logits after one dense layer."""
        x = self.apply_dropout(last(maps), train)
        return self.make_classifier()(x.reshape(x.shape[0], -1).astype(jnp.float32))


register(
    "small_cnn",
    SmallCNN,
    input_size=32,
    num_classes=10,
    mean=CIFAR10_MEAN,
    std=CIFAR10_STD,
    paper="Chollet et al., Keras 2, examples/cifar10_cnn.py",
)
register(
    "cnn3",
    ThreeLayerCNN,
    input_size=32,
    num_classes=10,
    mean=CIFAR10_MEAN,
    std=CIFAR10_STD,
    paper="Variations of Squeeze and Excitation networks, arXiv:2304.06502, section 2",
)
