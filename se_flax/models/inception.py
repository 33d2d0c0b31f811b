"""Inception networks, with or without SE blocks: BN-Inception, Inception-v3, Inception-ResNet-v2.

One module serves them all; what sets each apart is a table of its layers, further down.
"""

import dataclasses
import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from se_flax.errors import UserError
from se_flax.layers.conv import conv_general_dilated
from se_flax.layers.residual import residual_sum
from se_flax.models.checks import check_images, check_size
from se_flax.models.registry import register

Pool = Callable[[Float[Array, "n h w c"]], Float[Array, "n h2 w2 c"]]


@dataclasses.dataclass(frozen=True)
class Conv:
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
Layers = tuple["Conv | Pool | tuple[Conv, ...]", ...]


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

    entry: Conv
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 features"]:
        """Returns the layer's output."""
        kernel = self.entry.kernel
        kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = [(size // 2, size // 2) if self.entry.padded else (0, 0) for size in kernel]
        x = self.conv(
            self.entry.features, kernel, strides=self.entry.stride, padding=padding, name="conv"
        )(x)
        return jax.nn.relu(self.norm(name="bn")(x))


def apply_layers(
    layers: Layers, x: Float[Array, "n h w c"], layer: Callable[..., nn.Module]
) -> Float[Array, "n h2 w2 c2"]:
    """Returns the output of a row of layers; `layer` makes a `ConvLayer` of an entry."""
    for entry in layers:
        if isinstance(entry, Conv):
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
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c2"]:
        """Returns the module's output."""
        residual = self.entry.scale is not None
        outputs = [apply_layers(branch, x, self.layer) for branch in self.entry.branches]
        y = jnp.concatenate(outputs, axis=-1)
        if residual:
            y = self.projection(x.shape[-1], (1, 1), name="projection")(y)
        if self.se:
            y = self.se(name="se")(y)
        if residual:
            activation = jax.nn.relu if self.entry.activate else None
            y = residual_sum(x, self.entry.scale * y, activation)
        return y


class Inception(nn.Module):
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
        dropout: before the classifier, the rate of it.
        num_classes: size of the classifiers' output.
        se: makes the SE block of each module, called with its name; None for none.
        dtype: computation type; parameters, statistics and logits are float32.
        sync_axis: mapped axis (of `jax.pmap`) whose devices share batch statistics.
    """

    stem: Layers
    stages: tuple[tuple[ModuleSpec, ...], ...]
    final: Layers = ()
    conv_bias: bool = False
    epsilon: float = 1e-3
    auxiliary: bool = False
    dropout: float = 0.0
    num_classes: int = 1000
    se: Callable[..., nn.Module] | None = None
    dtype: DTypeLike = jnp.float32
    sync_axis: str | None = None

    @nn.compact
    def __call__(
        self, images: Float[Array, "n h w c"], train: bool = False, features: bool = False
    ) -> Float[Array, "n num_classes"] | dict[str, Float[Array, "n h w c"]]:
        """Returns logits; with `train`, normalises by batch statistics and updates them.

        With `features`, returns instead the output of each stage by its name, `stage1` first;
        that of the last stage is what the classifier sees before its pooling.

        Raises:
            UserError: if the images are too small for the auxiliary classifier, and it is to
                be initialised or trained.
        """
        check_images(images)
        conv = functools.partial(
            nn.Conv,
            kernel_init=nn.initializers.he_normal(),
            conv_general_dilated=conv_general_dilated,
            dtype=self.dtype,
        )
        norm = functools.partial(
            nn.BatchNorm,
            use_running_average=not train,
            momentum=0.9,
            epsilon=self.epsilon,
            dtype=self.dtype,
            axis_name=self.sync_axis,
        )
        layer = functools.partial(
            ConvLayer, conv=functools.partial(conv, use_bias=self.conv_bias), norm=norm
        )
        x = apply_layers(self.stem, images.astype(self.dtype), layer)
        maps = {}
        for i, modules in enumerate(self.stages, start=1):
            for entry in modules:
                x = InceptionModule(entry, layer, conv, self.se, name=entry.name)(x)
            maps[f"stage{i}"] = x
        check_size(images, x)
        x = apply_layers(self.final, x, layer)
        maps[f"stage{len(maps)}"] = x
        if features:
            return maps
        if self.auxiliary and (train or self.is_initializing()):
            logits = self._auxiliary_logits(maps[f"stage{len(maps) - 1}"], layer)
            self.sow("intermediates", "auxiliary_logits", logits)
        x = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, name="classifier")(x)

    def _auxiliary_logits(
        self, x: Float[Array, "n h w c"], layer: Callable[..., nn.Module]
    ) -> Float[Array, "n num_classes"]:
        # Average pooling leaves (size - 5) // 3 + 1 positions, of which the second convolution
        # needs 5.
        if min(x.shape[1:3]) < 17:
            raise UserError(
                "the auxiliary classifier needs a map of at least 17x17, as images of 299x299 "
                f"give, not {x.shape[1]}x{x.shape[2]}; for smaller images build the network with "
                "auxiliary=False"
            )
        x = nn.avg_pool(x, (5, 5), strides=(3, 3))
        x = layer(Conv("auxiliary_conv1", 128), name="auxiliary_conv1")(x)
        second = Conv("auxiliary_conv2", 768, 5, padded=False)
        x = layer(second, name=second.name)(x)
        x = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
        return nn.Dense(self.num_classes, name="auxiliary_classifier")(x)


_AROUND = ((1, 1), (1, 1))
_average: Pool = functools.partial(nn.avg_pool, window_shape=(3, 3), padding=_AROUND)
_average_inside: Pool = functools.partial(_average, count_include_pad=False)
_maximum: Pool = functools.partial(nn.max_pool, window_shape=(3, 3), padding=_AROUND)
_halve: Pool = functools.partial(nn.max_pool, window_shape=(3, 3), strides=(2, 2))
_halve_around: Pool = functools.partial(_halve, padding=_AROUND)
_halve_same: Pool = functools.partial(_halve, padding="SAME")


def _halve_ceil(x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
    """Without padding, and with the size rounded up, as Caffe does."""
    padding = [(0, (size - 3) % 2) for size in x.shape[1:3]]
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=padding)


# BN-Inception, with the names and widths of the weights released for Caffe. The modules that
# halve the grid have no 1x1 convolution and no projection after the pooling; that pooling is
# Caffe's on even sizes, and on odd ones, which Caffe cannot concatenate, as large as the
# convolutions beside it.


def _bn_module(
    name: str,
    conv1x1: int,
    conv3x3: tuple[int, int],
    double: tuple[int, int],
    pool: Pool,
    proj: int,
) -> ModuleSpec:
    stride = 1 if proj else 2
    return ModuleSpec(
        f"inception_{name}",
        (
            *([(Conv("1x1", conv1x1),)] if conv1x1 else []),
            (Conv("3x3_reduce", conv3x3[0]), Conv("3x3", conv3x3[1], 3, stride)),
            (
                Conv("double_3x3_reduce", double[0]),
                Conv("double_3x3_1", double[1], 3),
                Conv("double_3x3_2", double[1], 3, stride),
            ),
            (pool, *([Conv("pool_proj", proj)] if proj else [])),
        ),
    )


register(
    "bn_inception",
    Inception,
    input_size=224,
    paper="Ioffe and Szegedy, Batch Normalization, arXiv:1502.03167, figure 5, as released for "
    "Caffe: the first convolution is not separable",
    # Of the released weights, which were trained on 0 to 255 with the mean alone subtracted.
    mean=(128 / 255, 117 / 255, 104 / 255),
    std=(1 / 255, 1 / 255, 1 / 255),
    # As the authors of the SE paper released theirs.
    se_form={"conv_bias": False, "mean": (123 / 255, 117 / 255, 104 / 255)},
    stem=(
        Conv("conv1_7x7_s2", 64, 7, 2),
        _halve_ceil,
        Conv("conv2_3x3_reduce", 64),
        Conv("conv2_3x3", 192, 3),
        _halve_ceil,
    ),
    stages=(
        (
            _bn_module("3a", 64, (64, 64), (64, 96), _average, 32),
            _bn_module("3b", 64, (64, 96), (64, 96), _average, 64),
        ),
        (
            _bn_module("3c", 0, (128, 160), (64, 96), _halve_same, 0),
            _bn_module("4a", 224, (64, 96), (96, 128), _average, 128),
            _bn_module("4b", 192, (96, 128), (96, 128), _average, 128),
            _bn_module("4c", 160, (128, 160), (128, 160), _average, 128),
            _bn_module("4d", 96, (128, 192), (160, 192), _average, 128),
        ),
        (
            _bn_module("4e", 0, (128, 192), (192, 256), _halve_same, 0),
            _bn_module("5a", 352, (192, 320), (160, 224), _average, 128),
            _bn_module("5b", 352, (192, 320), (192, 224), _maximum, 128),
        ),
    ),
    conv_bias=True,
    epsilon=1e-5,
)


# Inception-v3 and Inception-ResNet-v2, with the names that TensorFlow's weights have in PyTorch.

_STEM = (
    Conv("conv2d_1a", 32, 3, 2, padded=False),
    Conv("conv2d_2a", 32, 3, padded=False),
    Conv("conv2d_2b", 64, 3),
    _halve,
    Conv("conv2d_3b", 80),
    Conv("conv2d_4a", 192, 3, padded=False),
    _halve,
)
_STEM_CIFAR = (
    Conv("conv2d_1a", 32, 3),
    Conv("conv2d_2a", 32, 3),
    Conv("conv2d_2b", 64, 3),
    Conv("conv2d_3b", 80),
    Conv("conv2d_4a", 192, 3),
)


def _v3_module_5(name: str, proj: int) -> ModuleSpec:
    return ModuleSpec(
        name,
        (
            (Conv("branch1x1", 64),),
            (Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, 5)),
            (
                Conv("branch3x3dbl_1", 64),
                Conv("branch3x3dbl_2", 96, 3),
                Conv("branch3x3dbl_3", 96, 3),
            ),
            (_average, Conv("branch_pool", proj)),
        ),
    )


def _v3_module_6(name: str, width: int) -> ModuleSpec:
    return ModuleSpec(
        name,
        (
            (Conv("branch1x1", 192),),
            (
                Conv("branch7x7_1", width),
                Conv("branch7x7_2", width, (1, 7)),
                Conv("branch7x7_3", 192, (7, 1)),
            ),
            (
                Conv("branch7x7dbl_1", width),
                Conv("branch7x7dbl_2", width, (7, 1)),
                Conv("branch7x7dbl_3", width, (1, 7)),
                Conv("branch7x7dbl_4", width, (7, 1)),
                Conv("branch7x7dbl_5", 192, (1, 7)),
            ),
            (_average, Conv("branch_pool", 192)),
        ),
    )


def _v3_module_7(name: str) -> ModuleSpec:
    return ModuleSpec(
        name,
        (
            (Conv("branch1x1", 320),),
            (
                Conv("branch3x3_1", 384),
                (Conv("branch3x3_2a", 384, (1, 3)), Conv("branch3x3_2b", 384, (3, 1))),
            ),
            (
                Conv("branch3x3dbl_1", 448),
                Conv("branch3x3dbl_2", 384, 3),
                (Conv("branch3x3dbl_3a", 384, (1, 3)), Conv("branch3x3dbl_3b", 384, (3, 1))),
            ),
            (_average, Conv("branch_pool", 192)),
        ),
    )


def _v3_stages(padded: bool) -> tuple[tuple[ModuleSpec, ...], ...]:
    """The modules; `padded`, those that reduce the grid halve it exactly."""
    pool = _halve_around if padded else _halve
    mixed_6a = ModuleSpec(
        "mixed_6a",
        (
            (Conv("branch3x3", 384, 3, 2, padded),),
            (
                Conv("branch3x3dbl_1", 64),
                Conv("branch3x3dbl_2", 96, 3),
                Conv("branch3x3dbl_3", 96, 3, 2, padded),
            ),
            (pool,),
        ),
    )
    mixed_7a = ModuleSpec(
        "mixed_7a",
        (
            (Conv("branch3x3_1", 192), Conv("branch3x3_2", 320, 3, 2, padded)),
            (
                Conv("branch7x7x3_1", 192),
                Conv("branch7x7x3_2", 192, (1, 7)),
                Conv("branch7x7x3_3", 192, (7, 1)),
                Conv("branch7x7x3_4", 192, 3, 2, padded),
            ),
            (pool,),
        ),
    )
    return (
        (_v3_module_5("mixed_5b", 32), _v3_module_5("mixed_5c", 64), _v3_module_5("mixed_5d", 64)),
        (
            mixed_6a,
            _v3_module_6("mixed_6b", 128),
            _v3_module_6("mixed_6c", 160),
            _v3_module_6("mixed_6d", 160),
            _v3_module_6("mixed_6e", 192),
        ),
        (mixed_7a, _v3_module_7("mixed_7b"), _v3_module_7("mixed_7c")),
    )


_V3_PAPER = "Szegedy et al., Rethinking the Inception Architecture, arXiv:1512.00567"
_HALF = (0.5, 0.5, 0.5)

register(
    "inception_v3",
    Inception,
    input_size=299,
    interpolation="bicubic",
    paper=f"{_V3_PAPER}, section 6, as released in TF-Slim: another stem than in table 1",
    mean=_HALF,
    std=_HALF,
    stem=_STEM,
    stages=_v3_stages(padded=False),
    auxiliary=True,
    dropout=0.5,
)

# A form of this project's own, for 32x32 images: the stem has no strides, no pooling and full
# padding, so that the modules see 32x32, 16x16 and 8x8 (in the published network 35x35, 17x17
# and 8x8); there is no auxiliary classifier and no dropout. It stands for the "custom"
# Inception-v3 of a course's reproduction of the SE paper on CIFAR, and does not claim to be it.
register(
    "inception_v3_cifar",
    Inception,
    input_size=32,
    paper=f"this project's form for 32x32 images of {_V3_PAPER}",
    stem=_STEM_CIFAR,
    stages=_v3_stages(padded=True),
)


def _block35(i: int) -> ModuleSpec:
    return ModuleSpec(
        f"block35_{i}",
        (
            (Conv("branch0", 32),),
            (Conv("branch1_1", 32), Conv("branch1_2", 32, 3)),
            (Conv("branch2_1", 32), Conv("branch2_2", 48, 3), Conv("branch2_3", 64, 3)),
        ),
        scale=0.17,
    )


def _block17(i: int) -> ModuleSpec:
    return ModuleSpec(
        f"block17_{i}",
        (
            (Conv("branch0", 192),),
            (
                Conv("branch1_1", 128),
                Conv("branch1_2", 160, (1, 7)),
                Conv("branch1_3", 192, (7, 1)),
            ),
        ),
        scale=0.10,
    )


def _block8(i: int) -> ModuleSpec:
    # The last one is neither scaled nor activated, as with the released weights.
    return ModuleSpec(
        f"block8_{i}",
        (
            (Conv("branch0", 192),),
            (
                Conv("branch1_1", 192),
                Conv("branch1_2", 224, (1, 3)),
                Conv("branch1_3", 256, (3, 1)),
            ),
        ),
        scale=0.20 if i < 10 else 1.0,
        activate=i < 10,
    )


_MIXED_5B = ModuleSpec(
    "mixed_5b",
    (
        (Conv("branch0", 96),),
        (Conv("branch1_1", 48), Conv("branch1_2", 64, 5)),
        (Conv("branch2_1", 64), Conv("branch2_2", 96, 3), Conv("branch2_3", 96, 3)),
        (_average_inside, Conv("branch3_2", 64)),
    ),
)
_MIXED_6A = ModuleSpec(
    "mixed_6a",
    (
        (Conv("branch0", 384, 3, 2, padded=False),),
        (
            Conv("branch1_1", 256),
            Conv("branch1_2", 256, 3),
            Conv("branch1_3", 384, 3, 2, padded=False),
        ),
        (_halve,),
    ),
)
_MIXED_7A = ModuleSpec(
    "mixed_7a",
    (
        (Conv("branch0_1", 256), Conv("branch0_2", 384, 3, 2, padded=False)),
        (Conv("branch1_1", 256), Conv("branch1_2", 288, 3, 2, padded=False)),
        (
            Conv("branch2_1", 256),
            Conv("branch2_2", 288, 3),
            Conv("branch2_3", 320, 3, 2, padded=False),
        ),
        (_halve,),
    ),
)

register(
    "inception_resnet_v2",
    Inception,
    input_size=299,
    crop=0.8975,
    interpolation="bicubic",
    paper="Szegedy et al., Inception-v4 and Inception-ResNet, arXiv:1602.07261, section 3.2, as "
    "released in TF-Slim: stem of Inception-v3, 10, 20 and 10 blocks",
    mean=_HALF,
    std=_HALF,
    stem=_STEM,
    stages=(
        (_MIXED_5B, *(_block35(i) for i in range(1, 11))),
        (_MIXED_6A, *(_block17(i) for i in range(1, 21))),
        (_MIXED_7A, *(_block8(i) for i in range(1, 11))),
    ),
    final=(Conv("conv2d_7b", 1536),),
    dropout=0.2,
)
