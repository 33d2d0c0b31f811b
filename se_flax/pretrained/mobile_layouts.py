"""The tensor names in published weights of EfficientNets and MobileNets."""

import dataclasses
import re

from se_flax.pretrained.convert import Layout


def _numbered(match: re.Match, stage_sizes: tuple[int, ...]) -> str:
    """Returns torchvision's number of a unit, which counts from 1 through all stages."""
    return f"features/{sum(stage_sizes[: int(match[1]) - 1]) + int(match[2])}"


TIMM_EFFICIENTNET = Layout(
    source="timm's",
    libraries=("timm",),
    rules=(
        ("^stem_conv$", "conv_stem"),
        ("^stem_bn$", "bn1"),
        ("^head_conv$", "conv_head"),
        ("^head_bn$", "bn2"),
        # The units of the first stage have no expanding convolution.
        (r"^(stage1_unit\d+)/depthwise_bn", r"\1/bn1"),
        (r"^(stage1_unit\d+)/project_conv", r"\1/conv_pw"),
        (r"^(stage1_unit\d+)/project_bn", r"\1/bn2"),
        (
            r"stage(\d+)_unit(\d+)",
            lambda match: f"blocks/{int(match[1]) - 1}/{int(match[2]) - 1}",
        ),
        ("expand_conv", "conv_pw"),
        ("expand_bn", "bn1"),
        ("depthwise_conv", "conv_dw"),
        ("depthwise_bn", "bn2"),
        ("project_conv", "conv_pwl"),
        ("project_bn", "bn3"),
        ("se/reduce", "se/conv_reduce"),
        ("se/expand", "se/conv_expand"),
    ),
    convolutions=((r".*\.se\.conv_\w+\.weight", 1),),
)

TORCHVISION_EFFICIENTNET = Layout(
    source="torchvision's",
    libraries=("torchvision",),
    rules=(
        (r"^stem_(conv|bn)$", r"features/0/\1"),
        (r"^head_(conv|bn)$", r"features/8/\1"),
        # The units of the first stage have no expanding convolution.
        (r"^(stage1_unit\d+)/depthwise_", r"\1/block/0/"),
        (r"^(stage1_unit\d+)/se", r"\1/block/1"),
        (r"^(stage1_unit\d+)/project_", r"\1/block/2/"),
        (r"stage(\d+)_unit(\d+)", lambda match: f"features/{match[1]}/{int(match[2]) - 1}"),
        ("expand_", "block/0/"),
        ("depthwise_", "block/1/"),
        ("/se/", "/block/2/"),
        ("project_", "block/3/"),
        ("/conv$", "/0"),
        ("/bn$", "/1"),
        ("/reduce$", "/fc1"),
        ("/expand$", "/fc2"),
        ("^classifier$", "classifier/1"),
    ),
    convolutions=((r".*\.fc\d\.weight", 1),),
)

# Of the fused units, those of the first stage have one convolution, and those of two stages two.
TIMM_EFFICIENTNET_V2 = dataclasses.replace(
    TIMM_EFFICIENTNET,
    rules=(
        (r"^(stage1_unit\d+)/fused_conv", r"\1/conv"),
        ("fused_conv", "conv_exp"),
        ("fused_bn", "bn1"),
        (r"^(stage[23]_unit\d+)/project_bn", r"\1/bn2"),
        *TIMM_EFFICIENTNET.rules,
    ),
)


def torchvision_efficientnet_v2(stages: int) -> Layout:
    """Returns the layout of an EfficientNetV2 with so many stages."""
    return dataclasses.replace(
        TORCHVISION_EFFICIENTNET,
        rules=(
            (r"^head_(conv|bn)$", rf"features/{stages + 1}/\1"),
            ("fused_", "block/0/"),
            (r"^(stage[23]_unit\d+)/project_", r"\1/block/1/"),
            *TORCHVISION_EFFICIENTNET.rules,
        ),
    )


# timm's V1 has no head; its units, and the first of V2, have no expanding convolution.
TIMM_MOBILENET_V1 = dataclasses.replace(
    TIMM_EFFICIENTNET,
    rules=(
        (r"unit(\d+)/depthwise_bn", r"unit\1/bn1"),
        (r"unit(\d+)/project_conv", r"unit\1/conv_pw"),
        (r"unit(\d+)/project_bn", r"unit\1/bn2"),
        *TIMM_EFFICIENTNET.rules,
    ),
)

TORCHVISION_MOBILENET_V2 = Layout(
    source="torchvision's",
    libraries=("torchvision",),
    rules=(
        (r"^stem_(conv|bn)$", r"features/0/\1"),
        (r"^head_(conv|bn)$", r"features/18/\1"),
        (r"^(stage1_unit1)/depthwise_", r"\1/conv/0/"),
        (r"^(stage1_unit1)/project_conv", r"\1/conv/1"),
        (r"^(stage1_unit1)/project_bn", r"\1/conv/2"),
        (r"stage(\d+)_unit(\d+)", lambda match: _numbered(match, (1, 2, 3, 4, 3, 3, 1))),
        ("expand_", "conv/0/"),
        ("depthwise_", "conv/1/"),
        ("project_conv", "conv/2"),
        ("project_bn", "conv/3"),
        ("(?<=/)conv$", "0"),
        ("(?<=/)bn$", "1"),
        ("^classifier$", "classifier/1"),
    ),
)


def _mobilenet_v3_layouts(stage_sizes: tuple[int, ...], with_se: str) -> tuple[Layout, Layout]:
    """Returns timm's and torchvision's layout; `with_se` matches the stages that have SE blocks."""
    stages = len(stage_sizes)
    timm = dataclasses.replace(
        TIMM_EFFICIENTNET,
        rules=(
            ("^head_conv$", f"blocks/{stages}/0/conv"),
            ("^head_bn$", f"blocks/{stages}/0/bn1"),
            ("^hidden$", "conv_head"),
            *TIMM_EFFICIENTNET.rules,
        ),
        convolutions=(*TIMM_EFFICIENTNET.convolutions, (r"conv_head\.weight", 1)),
    )
    torchvision = dataclasses.replace(
        TORCHVISION_EFFICIENTNET,
        rules=(
            (r"^stem_(conv|bn)$", r"features/0/\1"),
            (r"^head_(conv|bn)$", rf"features/{sum(stage_sizes) + 1}/\1"),
            # The unit of the first stage has no expanding convolution.
            (r"^(stage1_unit1)/depthwise_", r"\1/block/0/"),
            (r"^(stage1_unit1)/se", r"\1/block/1"),
            (r"^(stage1_unit1)/project_", rf"\1/block/{2 if re.match(with_se, '1') else 1}/"),
            (rf"^(stage(?!{with_se})\d_unit\d)/project_", r"\1/block/2/"),
            (r"stage(\d+)_unit(\d+)", lambda match: _numbered(match, stage_sizes)),
            ("expand_", "block/0/"),
            ("depthwise_", "block/1/"),
            ("/se/", "/block/2/"),
            ("project_", "block/3/"),
            ("(?<=/)conv$", "0"),
            ("(?<=/)bn$", "1"),
            ("/reduce$", "/fc1"),
            ("/expand$", "/fc2"),
            ("^classifier$", "classifier/3"),
            ("^hidden$", "classifier/0"),
        ),
    )
    return timm, torchvision


TIMM_MOBILENET_V3_LARGE, TORCHVISION_MOBILENET_V3_LARGE = _mobilenet_v3_layouts(
    (1, 2, 3, 4, 2, 3), with_se="[356]"
)
TIMM_MOBILENET_V3_SMALL, TORCHVISION_MOBILENET_V3_SMALL = _mobilenet_v3_layouts(
    (1, 2, 3, 2, 3), with_se="[1345]"
)
