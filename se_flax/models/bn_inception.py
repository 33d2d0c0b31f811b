"""BN-Inception (Ioffe & Szegedy, arXiv:1502.03167, figure 5), as released for Caffe.

Names and widths are those of the released weights. The modules that halve the resolution have no
1x1 convolution and no projection after the pooling. On even sizes their pooling equals Caffe's. On
odd sizes Caffe cannot concatenate the branches; here the pooled map has the convolutions' size.
"""

from se_flax.models.inception import (
    ConvSpec,
    Inception,
    ModuleSpec,
    Pool,
    average,
    halve_ceil,
    halve_same,
    maximum,
)
from se_flax.models.registry import register


def _module(
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
            *([(ConvSpec("1x1", conv1x1),)] if conv1x1 else []),
            (ConvSpec("3x3_reduce", conv3x3[0]), ConvSpec("3x3", conv3x3[1], 3, stride)),
            (
                ConvSpec("double_3x3_reduce", double[0]),
                ConvSpec("double_3x3_1", double[1], 3),
                ConvSpec("double_3x3_2", double[1], 3, stride),
            ),
            (pool, *([ConvSpec("pool_proj", proj)] if proj else [])),
        ),
    )


register(
    "bn_inception",
    Inception,
    input_size=224,
    paper="Ioffe and Szegedy, Batch Normalization, arXiv:1502.03167, figure 5, as released for "
    "Caffe: the first convolution is not separable",
    # As for the released weights: trained on values 0 to 255, with only the mean subtracted.
    mean=(128 / 255, 117 / 255, 104 / 255),
    std=(1 / 255, 1 / 255, 1 / 255),
    # As in the weights that the authors of the SE paper released.
    se_form={"conv_bias": False, "mean": (123 / 255, 117 / 255, 104 / 255)},
    stem=(
        ConvSpec("conv1_7x7_s2", 64, 7, 2),
        halve_ceil,
        ConvSpec("conv2_3x3_reduce", 64),
        ConvSpec("conv2_3x3", 192, 3),
        halve_ceil,
    ),
    stages=(
        (
            _module("3a", 64, (64, 64), (64, 96), average, 32),
            _module("3b", 64, (64, 96), (64, 96), average, 64),
        ),
        (
            _module("3c", 0, (128, 160), (64, 96), halve_same, 0),
            _module("4a", 224, (64, 96), (96, 128), average, 128),
            _module("4b", 192, (96, 128), (96, 128), average, 128),
            _module("4c", 160, (128, 160), (128, 160), average, 128),
            _module("4d", 96, (128, 192), (160, 192), average, 128),
        ),
        (
            _module("4e", 0, (128, 192), (192, 256), halve_same, 0),
            _module("5a", 352, (192, 320), (160, 224), average, 128),
            _module("5b", 352, (192, 320), (192, 224), maximum, 128),
        ),
    ),
    conv_bias=True,
    epsilon=1e-5,
)
