"""Inception-ResNet-v2 (Szegedy et al., arXiv:1602.07261, section 3.2), as released in TF-Slim.

Submodules are named like the PyTorch ports of the TensorFlow weights.
"""

from se_flax.models.inception import ConvSpec, Inception, ModuleSpec, average_inside, halve
from se_flax.models.inception_v3 import HALF, STEM
from se_flax.models.registry import register


def _block35(i: int) -> ModuleSpec:
    return ModuleSpec(
        f"block35_{i}",
        (
            (ConvSpec("branch0", 32),),
            (ConvSpec("branch1_1", 32), ConvSpec("branch1_2", 32, 3)),
            (ConvSpec("branch2_1", 32), ConvSpec("branch2_2", 48, 3), ConvSpec("branch2_3", 64, 3)),
        ),
        scale=0.17,
    )


def _block17(i: int) -> ModuleSpec:
    return ModuleSpec(
        f"block17_{i}",
        (
            (ConvSpec("branch0", 192),),
            (
                ConvSpec("branch1_1", 128),
                ConvSpec("branch1_2", 160, (1, 7)),
                ConvSpec("branch1_3", 192, (7, 1)),
            ),
        ),
        scale=0.10,
    )


def _block8(i: int) -> ModuleSpec:
    # In the released weights, the last block is neither scaled nor activated.
    return ModuleSpec(
        f"block8_{i}",
        (
            (ConvSpec("branch0", 192),),
            (
                ConvSpec("branch1_1", 192),
                ConvSpec("branch1_2", 224, (1, 3)),
                ConvSpec("branch1_3", 256, (3, 1)),
            ),
        ),
        scale=0.20 if i < 10 else 1.0,
        activate=i < 10,
    )


_MIXED_5B = ModuleSpec(
    "mixed_5b",
    (
        (ConvSpec("branch0", 96),),
        (ConvSpec("branch1_1", 48), ConvSpec("branch1_2", 64, 5)),
        (ConvSpec("branch2_1", 64), ConvSpec("branch2_2", 96, 3), ConvSpec("branch2_3", 96, 3)),
        (average_inside, ConvSpec("branch3_2", 64)),
    ),
)
_MIXED_6A = ModuleSpec(
    "mixed_6a",
    (
        (ConvSpec("branch0", 384, 3, 2, padded=False),),
        (
            ConvSpec("branch1_1", 256),
            ConvSpec("branch1_2", 256, 3),
            ConvSpec("branch1_3", 384, 3, 2, padded=False),
        ),
        (halve,),
    ),
)
_MIXED_7A = ModuleSpec(
    "mixed_7a",
    (
        (ConvSpec("branch0_1", 256), ConvSpec("branch0_2", 384, 3, 2, padded=False)),
        (ConvSpec("branch1_1", 256), ConvSpec("branch1_2", 288, 3, 2, padded=False)),
        (
            ConvSpec("branch2_1", 256),
            ConvSpec("branch2_2", 288, 3),
            ConvSpec("branch2_3", 320, 3, 2, padded=False),
        ),
        (halve,),
    ),
)

register(
    "inception_resnet_v2",
    Inception,
    input_size=299,
    crop_pct=0.8975,
    interpolation="bicubic",
    paper="Szegedy et al., Inception-v4 and Inception-ResNet, arXiv:1602.07261, section 3.2, as "
    "released in TF-Slim: stem of Inception-v3, 10, 20 and 10 blocks",
    mean=HALF,
    std=HALF,
    stem=STEM,
    stages=(
        (_MIXED_5B, *(_block35(i) for i in range(1, 11))),
        (_MIXED_6A, *(_block17(i) for i in range(1, 21))),
        (_MIXED_7A, *(_block8(i) for i in range(1, 11))),
    ),
    final=(ConvSpec("conv2d_7b", 1536),),
    dropout=0.2,
)
