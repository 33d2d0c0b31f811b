"""Inception-v3 (Szegedy et al., arXiv:1512.00567, section 6), and a variant for 32x32 images.

Submodules are named like the PyTorch ports of the TensorFlow weights.
"""

from se_flax.models.inception import ConvSpec, Inception, ModuleSpec, average, halve, halve_around
from se_flax.models.registry import CIFAR10_MEAN, CIFAR10_STD, register

STEM = (
    ConvSpec("conv2d_1a", 32, 3, 2, padded=False),
    ConvSpec("conv2d_2a", 32, 3, padded=False),
    ConvSpec("conv2d_2b", 64, 3),
    halve,
    ConvSpec("conv2d_3b", 80),
    ConvSpec("conv2d_4a", 192, 3, padded=False),
    halve,
)
STEM_CIFAR = (
    ConvSpec("conv2d_1a", 32, 3),
    ConvSpec("conv2d_2a", 32, 3),
    ConvSpec("conv2d_2b", 64, 3),
    ConvSpec("conv2d_3b", 80),
    ConvSpec("conv2d_4a", 192, 3),
)


def _figure_5(name: str, proj: int) -> ModuleSpec:
    return ModuleSpec(
        name,
        (
            (ConvSpec("branch1x1", 64),),
            (ConvSpec("branch5x5_1", 48), ConvSpec("branch5x5_2", 64, 5)),
            (
                ConvSpec("branch3x3dbl_1", 64),
                ConvSpec("branch3x3dbl_2", 96, 3),
                ConvSpec("branch3x3dbl_3", 96, 3),
            ),
            (average, ConvSpec("branch_pool", proj)),
        ),
    )


def _figure_6(name: str, width: int) -> ModuleSpec:
    return ModuleSpec(
        name,
        (
            (ConvSpec("branch1x1", 192),),
            (
                ConvSpec("branch7x7_1", width),
                ConvSpec("branch7x7_2", width, (1, 7)),
                ConvSpec("branch7x7_3", 192, (7, 1)),
            ),
            (
                ConvSpec("branch7x7dbl_1", width),
                ConvSpec("branch7x7dbl_2", width, (7, 1)),
                ConvSpec("branch7x7dbl_3", width, (1, 7)),
                ConvSpec("branch7x7dbl_4", width, (7, 1)),
                ConvSpec("branch7x7dbl_5", 192, (1, 7)),
            ),
            (average, ConvSpec("branch_pool", 192)),
        ),
    )


def _figure_7(name: str) -> ModuleSpec:
    return ModuleSpec(
        name,
        (
            (ConvSpec("branch1x1", 320),),
            (
                ConvSpec("branch3x3_1", 384),
                (ConvSpec("branch3x3_2a", 384, (1, 3)), ConvSpec("branch3x3_2b", 384, (3, 1))),
            ),
            (
                ConvSpec("branch3x3dbl_1", 448),
                ConvSpec("branch3x3dbl_2", 384, 3),
                (
                    ConvSpec("branch3x3dbl_3a", 384, (1, 3)),
                    ConvSpec("branch3x3dbl_3b", 384, (3, 1)),
                ),
            ),
            (average, ConvSpec("branch_pool", 192)),
        ),
    )


def _stages(padded: bool) -> tuple[tuple[ModuleSpec, ...], ...]:
    """Returns the modules; with padding, the reducing ones halve the resolution exactly."""
    pool = halve_around if padded else halve
    mixed_6a = ModuleSpec(
        "mixed_6a",
        (
            (ConvSpec("branch3x3", 384, 3, 2, padded),),
            (
                ConvSpec("branch3x3dbl_1", 64),
                ConvSpec("branch3x3dbl_2", 96, 3),
                ConvSpec("branch3x3dbl_3", 96, 3, 2, padded),
            ),
            (pool,),
        ),
    )
    mixed_7a = ModuleSpec(
        "mixed_7a",
        (
            (ConvSpec("branch3x3_1", 192), ConvSpec("branch3x3_2", 320, 3, 2, padded)),
            (
                ConvSpec("branch7x7x3_1", 192),
                ConvSpec("branch7x7x3_2", 192, (1, 7)),
                ConvSpec("branch7x7x3_3", 192, (7, 1)),
                ConvSpec("branch7x7x3_4", 192, 3, 2, padded),
            ),
            (pool,),
        ),
    )
    return (
        (_figure_5("mixed_5b", 32), _figure_5("mixed_5c", 64), _figure_5("mixed_5d", 64)),
        (
            mixed_6a,
            _figure_6("mixed_6b", 128),
            _figure_6("mixed_6c", 160),
            _figure_6("mixed_6d", 160),
            _figure_6("mixed_6e", 192),
        ),
        (mixed_7a, _figure_7("mixed_7b"), _figure_7("mixed_7c")),
    )


_PAPER = "Szegedy et al., Rethinking the Inception Architecture, arXiv:1512.00567"
HALF = (0.5, 0.5, 0.5)

register(
    "inception_v3",
    Inception,
    input_size=299,
    interpolation="bicubic",
    paper=f"{_PAPER}, section 6, as released in TF-Slim: the stem differs from table 1",
    mean=HALF,
    std=HALF,
    stem=STEM,
    stages=_stages(padded=False),
    auxiliary=True,
    dropout=0.5,
)

# This project's variant for 32x32 images. All convolutions of the stem are padded, and it has no
# strides and no pooling, so that the modules see 32x32, 16x16 and 8x8 (35x35, 17x17 and 8x8 in the
# published network). There is no auxiliary classifier and no dropout. It stands in for the
# "custom" Inception-v3 in a course's reproduction of the SE paper on CIFAR, but is not that
# network.
register(
    "inception_v3_cifar",
    Inception,
    input_size=32,
    num_classes=10,
    mean=CIFAR10_MEAN,
    std=CIFAR10_STD,
    paper=f"this project's variant, for 32x32 images, of {_PAPER}",
    stem=STEM_CIFAR,
    stages=_stages(padded=True),
)
