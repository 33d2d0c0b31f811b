"""How published weights name the tensors of each family of networks."""

import dataclasses
import fnmatch

from se_flax.pretrained.convert import Layout

_UNITS = (
    (r"stage(\d+)_unit(\d+)", lambda match: f"layer{match[1]}/{int(match[2]) - 1}"),
    ("shortcut_conv", "downsample/0"),
    ("shortcut_bn", "downsample/1"),
)

TIMM_RESNET = Layout(
    source="torchvision's and timm's",
    rules=(
        ("^stem_conv$", "conv1"),
        ("^stem_bn$", "bn1"),
        *_UNITS,
        ("se/reduce", "se/fc1"),
        ("se/expand", "se/fc2"),
        ("^classifier$", "fc"),
    ),
)

CAFFE_RESNET = dataclasses.replace(
    TIMM_RESNET,
    source="pretrainedmodels'",
    rules=(*TIMM_RESNET.rules, ("^fc$", "last_linear")),
)

RELEASED_SENET = Layout(
    source="timm's legacy and pretrainedmodels'",
    rules=(
        ("^stem_(conv|bn)$", r"layer0/\g<1>1"),
        (r"^stem_(conv|bn)(\d)$", r"layer0/\1\2"),
        *_UNITS,
        ("se/reduce", "se_module/fc1"),
        ("se/expand", "se_module/fc2"),
        ("^classifier$", "last_linear"),
    ),
)

# The first pattern that a network's name matches counts.
_LAYOUTS: tuple[tuple[str, tuple[Layout, ...]], ...] = (
    ("*senet154", (RELEASED_SENET,)),
    ("se_resne*_caffe", (RELEASED_SENET,)),
    ("resne*_caffe", (TIMM_RESNET, CAFFE_RESNET)),
    ("*resne*_cifar", ()),
    ("*resne[tx]*", (TIMM_RESNET,)),
)


def layouts_of(name: str) -> tuple[Layout, ...]:
    """Returns the layouts in which weights of a registered network are published."""
    return next((value for pattern, value in _LAYOUTS if fnmatch.fnmatch(name, pattern)), ())
