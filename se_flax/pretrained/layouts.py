"""The tensor names in published weights, for each family of networks."""

import dataclasses
import fnmatch
import re

import numpy as np

from se_flax.pretrained.convert import Layout, Transform
from se_flax.pretrained.mobile_layouts import (
    TIMM_EFFICIENTNET,
    TIMM_EFFICIENTNET_V2,
    TIMM_MOBILENET_V1,
    TIMM_MOBILENET_V3_LARGE,
    TIMM_MOBILENET_V3_SMALL,
    TORCHVISION_EFFICIENTNET,
    TORCHVISION_MOBILENET_V2,
    TORCHVISION_MOBILENET_V3_LARGE,
    TORCHVISION_MOBILENET_V3_SMALL,
    torchvision_efficientnet_v2,
)
from se_flax.pretrained.synsets import synsets_of

_UNITS = (
    (r"stage(\d+)_unit(\d+)", lambda match: f"layer{match[1]}/{int(match[2]) - 1}"),
    ("shortcut_conv", "downsample/0"),
    ("shortcut_bn", "downsample/1"),
)

TIMM_RESNET = Layout(
    source="torchvision's and timm's",
    libraries=("torchvision", "timm"),
    rules=(
        ("^stem_conv$", "conv1"),
        ("^stem_bn$", "bn1"),
        *_UNITS,
        ("se/reduce", "se/fc1"),
        ("se/expand", "se/fc2"),
        ("^classifier$", "fc"),
    ),
    convolutions=((r".*\.se\.fc\d\.weight", 1),),
)

# The layers of the deep stem are numbered, ReLUs included; ResNet-RS has two more for the pooling.
TIMM_RESNET_D = dataclasses.replace(
    TIMM_RESNET,
    source="timm's",
    libraries=("timm",),
    rules=(
        ("^stem_conv1$", "conv1/0"),
        ("^stem_bn1$", "conv1/1"),
        ("^stem_conv2$", "conv1/3"),
        ("^stem_bn2$", "conv1/4"),
        ("^stem_conv3$", "conv1/6"),
        ("^stem_bn3$", "bn1"),
        ("^stem_pool_conv$", "maxpool/0"),
        ("^stem_pool_bn$", "maxpool/1"),
        ("shortcut_conv", "downsample/1"),
        ("shortcut_bn", "downsample/2"),
        *TIMM_RESNET.rules,
    ),
)


def _timm_skresnet(sk: str) -> Layout:
    """Returns the layout of units whose convolution `sk` is the selective kernel."""
    return dataclasses.replace(
        TIMM_RESNET,
        source="timm's",
        libraries=("timm",),
        rules=(
            *TIMM_RESNET.rules,
            ("/sk/reduce_bn$", f"/{sk}/attn/bn"),
            ("/sk/(reduce|select)$", rf"/{sk}/attn/fc_\1"),
            (r"/sk/(conv|bn)(\d)$", lambda match: f"/{sk}/paths/{int(match[2]) - 1}/{match[1]}"),
            (r"^(layer\d/\d+)/(conv|bn)(\d)$", r"\1/conv\3/\2"),
        ),
        convolutions=((r".*\.attn\.fc_\w+\.weight", 1),),
    )


TIMM_REGNET = Layout(
    source="timm's",
    libraries=("timm",),
    rules=(
        ("^stem_(conv|bn)$", r"stem/\1"),
        (r"stage(\d+)_unit(\d+)", r"s\1/b\2"),
        (r"/(conv|bn)(\d)$", r"/conv\2/\1"),
        ("shortcut_(conv|bn)", r"downsample/\1"),
        ("se/reduce", "se/fc1"),
        ("se/expand", "se/fc2"),
        ("^classifier$", "head/fc"),
    ),
    convolutions=((r".*\.se\.fc\d\.weight", 1),),
)

TORCHVISION_REGNET = dataclasses.replace(
    TIMM_REGNET,
    source="torchvision's",
    libraries=("torchvision",),
    rules=(
        ("^stem_conv$", "stem/0"),
        ("^stem_bn$", "stem/1"),
        (
            r"stage(\d+)_unit(\d+)",
            lambda match: f"trunk_output/block{match[1]}/block{match[1]}-{int(match[2]) - 1}",
        ),
        (r"/conv(\d)$", lambda match: f"/f/{'abc'[int(match[1]) - 1]}/0"),
        (r"/bn(\d)$", lambda match: f"/f/{'abc'[int(match[1]) - 1]}/1"),
        ("shortcut_conv", "proj/0"),
        ("shortcut_bn", "proj/1"),
        ("se/reduce", "f/se/fc1"),
        ("se/expand", "f/se/fc2"),
        ("^classifier$", "fc"),
    ),
)

CAFFE_RESNET = dataclasses.replace(
    TIMM_RESNET,
    source="pretrainedmodels'",
    rules=(*TIMM_RESNET.rules, ("^fc$", "last_linear")),
    libraries=("pretrainedmodels",),
)

RELEASED_SENET = Layout(
    source="timm's legacy and pretrainedmodels'",
    libraries=("timm", "pretrainedmodels"),
    rules=(
        ("^stem_(conv|bn)$", r"layer0/\g<1>1"),
        (r"^stem_(conv|bn)(\d)$", r"layer0/\1\2"),
        *_UNITS,
        ("se/reduce", "se_module/fc1"),
        ("se/expand", "se_module/fc2"),
        ("^classifier$", "last_linear"),
    ),
    convolutions=((r".*\.se_module\.fc\d\.weight", 1),),
)

CAFFE_BN_INCEPTION = Layout(
    source="pretrainedmodels'",
    libraries=("pretrainedmodels",),
    rules=(
        (r"^(inception_\d\w)/", r"\1_"),
        ("/conv$", ""),
        ("/bn$", "_bn"),
        ("^classifier$", "last_linear"),
    ),
    # The Caffe network takes blue, green, red; ours takes red, green, blue.
    transforms=((r"conv1_7x7_s2\.weight$", lambda tensor: tensor[:, ::-1]),),
)


def _in_order_of_synsets(tensor: np.ndarray) -> np.ndarray:
    """Sorts the rows of a classifier by synset, today's usual order of ImageNet's classes.

    The authors of the SE paper used the order of the ILSVRC development kits
    (github.com/hujie-frank/SENet/issues/25), as does TFDS's `imagenet_resized`.
    """
    names = synsets_of("imagenet_resized/32x32")
    return tensor[np.argsort(names)] if len(tensor) == len(names) else tensor


RELEASED_SE_BN_INCEPTION = Layout(
    source="its authors' Caffe",
    rules=(
        (r"^conv(\d)_", r"conv\1/"),
        ("double_3x3_1", "double3x3a"),
        ("double_3x3_2", "double3x3b"),
        ("double_3x3_reduce", "double3x3_reduce"),
        ("/se/reduce$", "_1x1_down"),
        ("/se/expand$", "_1x1_up"),
        ("/conv$", ""),
    ),
    transforms=(
        (r"conv1\.7x7_s2\.weight$", lambda tensor: tensor[:, ::-1]),
        (r"classifier\.", _in_order_of_synsets),
    ),
)

INCEPTION_V3 = Layout(
    source="torchvision's and timm's",
    libraries=("torchvision", "timm"),
    rules=(
        ("^mixed_", "Mixed_"),
        (r"^conv2d_(1a|2a|2b|4a)", r"Conv2d_\1_3x3"),
        ("^conv2d_3b", "Conv2d_3b_1x1"),
        ("^auxiliary_conv1", "AuxLogits/conv0"),
        ("^auxiliary_conv2", "AuxLogits/conv1"),
        ("^auxiliary_classifier$", "AuxLogits/fc"),
        ("^classifier$", "fc"),
    ),
    # torchvision's files have these tensors, and a network with `auxiliary=False` does not use
    # them. TensorFlow's weights lack them.
    ignored=r"AuxLogits\.",
    optional=r"AuxLogits\.",
)

TIMM_INCEPTION_RESNET = Layout(
    source="timm's",
    libraries=("timm",),
    rules=(
        (r"^block35_(\d+)", lambda match: f"repeat/{int(match[1]) - 1}"),
        (r"^block17_(\d+)", lambda match: f"repeat_1/{int(match[1]) - 1}"),
        ("^block8_10/", "block8/"),
        (r"^block8_(\d)", lambda match: f"repeat_2/{int(match[1]) - 1}"),
        (r"branch(\d)_(\d)", lambda match: f"branch{match[1]}/{int(match[2]) - 1}"),
        ("projection", "conv2d"),
        ("^classifier$", "classif"),
    ),
)

RELEASED_INCEPTION_RESNET = dataclasses.replace(
    TIMM_INCEPTION_RESNET,
    source="pretrainedmodels'",
    rules=(*TIMM_INCEPTION_RESNET.rules, ("^classif$", "last_linear")),
    libraries=("pretrainedmodels",),
)


def _vgg16_layouts(layers_per_convolution: int) -> tuple[Layout, ...]:
    # `features` numbers all layers: each convolution, its batch norm if any, its ReLU, and the
    # pooling of each stage.
    def index(match: re.Match) -> str:
        stage, layer, convolution = int(match[1]), match[2], int(match[3])
        before = sum((2, 2, 3, 3, 3)[: stage - 1]) + convolution - 1
        place = before * layers_per_convolution + stage - 1 + (layer == "bn")
        return f"features/{place}"

    # The inputs of the first dense layer are [c, h, w] there and [h, w, c] here. timm writes that
    # layer as a convolution.
    def channels_last(x: np.ndarray) -> np.ndarray:
        return x.reshape(-1, 512, 7, 7).transpose(0, 2, 3, 1).reshape(len(x), -1)

    return tuple(
        Layout(
            source=f"{library}'s",
            libraries=(library,),
            rules=(
                (r"^stage(\d)_(conv|bn)(\d)$", index),
                ("^classifier$", classifier),
                ("^fc6$", fc6),
                ("^fc7$", fc7),
            ),
            transforms=((rf"{fc6}\.weight".replace("/", r"\."), channels_last),),
            convolutions=((r"pre_logits\.fc1\.weight", 7), (r"pre_logits\.fc2\.weight", 1)),
        )
        for library, fc6, fc7, classifier in (
            ("torchvision", "classifier/0", "classifier/3", "classifier/6"),
            ("timm", "pre_logits/fc1", "pre_logits/fc2", "head/fc"),
        )
    )


CHENYAOFO_RESNET = dataclasses.replace(
    TIMM_RESNET,
    source="chenyaofo/pytorch-cifar-models'",
    libraries=("chenyaofo",),
    fields=(("projection", True),),
)


def _padding_on_both_sides() -> tuple[tuple[str, Transform], ...]:
    """Returns the transforms for shortcuts that pad channels on both sides, as akamaster's do.

    Where the number of channels doubles from 2p to 4p, those shortcuts put p channels of zeros
    before the input's channels and p after; ours put 2p after. The networks are the same up to
    the order of the channels between units.
    """
    order = np.arange(16)  # the place in their network of each channel between units of stage 1
    transforms = []
    for stage in (2, 3):
        p = len(order) // 2
        before, order = order, np.r_[p + order, :p, 3 * p : 4 * p]
        transforms += [
            (rf"layer{stage}\.0\.conv1\.weight", _reordered(before, axis=1)),
            (rf"layer{stage}\.[1-9]\d*\.conv1\.weight", _reordered(order, axis=1)),
            (rf"layer{stage}\.\d+\.(conv2|bn2)\.", _reordered(order, axis=0)),
        ]
    return (*transforms, (r"linear\.weight", _reordered(order, axis=1)))


def _reordered(order: np.ndarray, axis: int) -> Transform:
    def reorder(tensor: np.ndarray) -> np.ndarray:
        fits = tensor.ndim > axis and tensor.shape[axis] == len(order)
        return np.take(tensor, order, axis) if fits else tensor

    return reorder


AKAMASTER_RESNET = dataclasses.replace(
    TIMM_RESNET,
    source="akamaster/pytorch_resnet_cifar10's",
    libraries=("akamaster",),
    rules=(*TIMM_RESNET.rules, ("^fc$", "linear")),
    transforms=_padding_on_both_sides(),
)

PYTORCHCV_RESNET = Layout(
    source="pytorchcv's",
    libraries=("pytorchcv",),
    rules=(
        (r"(unit\d+)/(conv|bn)(\d)$", r"\1/body/conv\3/\2"),
        (r"^stage(\d)_", r"features/stage\1/"),
        (r"^stem_(conv|bn)$", r"features/init_block/\1"),
        (r"shortcut_(conv|bn)", r"identity_conv/\1"),
        ("se/reduce", "se/conv1"),
        ("se/expand", "se/conv2"),
        ("^classifier$", "output"),
    ),
    convolutions=((r".*\.se\.conv\d\.weight", 1),),
)

PYTORCHCV_PREACT_RESNET = dataclasses.replace(
    PYTORCHCV_RESNET,
    rules=(
        *PYTORCHCV_RESNET.rules,
        ("^features/init_block/conv$", "features/init_block"),
        ("identity_conv/conv$", "identity_conv"),
        ("^final_bn$", "features/post_activ/bn"),
    ),
)

PYTORCHCV_BASIC_RESNET = dataclasses.replace(PYTORCHCV_RESNET, fields=(("projection", True),))

# The first pattern that matches a network's name applies.
_LAYOUTS: tuple[tuple[str, tuple[Layout, ...]], ...] = (
    ("bn_inception", (CAFFE_BN_INCEPTION,)),
    ("se_bn_inception", (RELEASED_SE_BN_INCEPTION,)),
    ("inception_v3", (INCEPTION_V3,)),
    ("inception_resnet_v2", (TIMM_INCEPTION_RESNET, RELEASED_INCEPTION_RESNET)),
    ("*inception*", ()),
    ("*senet154", (RELEASED_SENET,)),
    ("se_resne*_caffe", (RELEASED_SENET,)),
    ("resne*_caffe", (TIMM_RESNET, CAFFE_RESNET)),
    ("preact_resnet164_cifar", (PYTORCHCV_PREACT_RESNET,)),
    ("*preact*", ()),
    ("*resnext*_cifar", ()),
    ("*resnet164_cifar", (PYTORCHCV_RESNET,)),
    ("se_resnet*_cifar", (PYTORCHCV_BASIC_RESNET,)),
    ("resnet*_cifar", (AKAMASTER_RESNET, CHENYAOFO_RESNET, PYTORCHCV_BASIC_RESNET)),
    ("se_resnet152d", (TIMM_RESNET_D,)),
    ("se_resnet200d", (TIMM_RESNET_D,)),
    ("se_resnet*d", ()),
    ("resnet*d", (TIMM_RESNET_D,)),
    ("*resnetrs*", (TIMM_RESNET_D,)),
    ("*skresnet*", (_timm_skresnet("conv1"),)),
    ("*skresnext*", (_timm_skresnet("conv2"),)),
    ("*resne[tx]*", (TIMM_RESNET,)),
    # Where torchvision's widths differ, its network has a name of its own.
    ("*regnet_*_torch", (TIMM_REGNET, TORCHVISION_REGNET)),
    ("regnet_x_400mf", (TIMM_REGNET,)),
    ("*regnet_y_800mf", (TIMM_REGNET,)),
    ("*regnet_y_8gf", (TIMM_REGNET,)),
    ("*regnet_?_600mf", (TIMM_REGNET,)),
    ("*regnet_?_4gf", (TIMM_REGNET,)),
    ("*regnet_?_6_4gf", (TIMM_REGNET,)),
    ("*regnet_?_12gf", (TIMM_REGNET,)),
    ("se_regnet_x*", ()),
    ("*regnet_*", (TIMM_REGNET, TORCHVISION_REGNET)),
    ("*efficientnet_b?", (TIMM_EFFICIENTNET,)),
    ("*efficientnet_b[0-4]_torch", (TIMM_EFFICIENTNET, TORCHVISION_EFFICIENTNET)),
    # timm's B5 to B7 have another epsilon than torchvision's.
    ("*efficientnet_b[5-7]_torch", (TORCHVISION_EFFICIENTNET,)),
    ("*efficientnet_b5_timm", (TIMM_EFFICIENTNET,)),
    ("*efficientnet_v2_?", (TIMM_EFFICIENTNET_V2,)),
    ("*efficientnet_v2_s_torch", (torchvision_efficientnet_v2(stages=6),)),
    ("*efficientnet_v2_[ml]_torch", (torchvision_efficientnet_v2(stages=7),)),
    ("mobilenet_v1", (TIMM_MOBILENET_V1,)),
    ("mobilenet_v2", (TIMM_EFFICIENTNET, TORCHVISION_MOBILENET_V2)),
    ("*mobilenet_v3_large", (TIMM_MOBILENET_V3_LARGE,)),
    ("*mobilenet_v3_large_timm", (TIMM_MOBILENET_V3_LARGE,)),
    ("*mobilenet_v3_large_torch", (TORCHVISION_MOBILENET_V3_LARGE,)),
    ("*mobilenet_v3_small", (TIMM_MOBILENET_V3_SMALL,)),
    ("*mobilenet_v3_small_timm", (TIMM_MOBILENET_V3_SMALL,)),
    ("*mobilenet_v3_small_torch", (TORCHVISION_MOBILENET_V3_SMALL,)),
    ("vgg16", _vgg16_layouts(layers_per_convolution=2)),
    ("vgg16_bn", _vgg16_layouts(layers_per_convolution=3)),
)


def layouts_of(name: str) -> tuple[Layout, ...]:
    """Returns the layouts in which a registered network's weights are published."""
    return next((value for pattern, value in _LAYOUTS if fnmatch.fnmatch(name, pattern)), ())


# Why no weights can be read for networks of which some are published.
_REASONS = (
    (
        "preact_resnet110_cifar",
        "pytorchcv's preresnet110 has convolutions on its shortcuts, and the first shortcut starts "
        "before the batch norm",
    ),
    (
        "se_preact_*",
        "pytorchcv's sepreresnet has a batch norm after its first convolution, and none after its "
        "last unit",
    ),
)


def why_none(name: str) -> str:
    """Returns why no weights can be read for a network, or "" if none are known to be published."""
    return next((reason for pattern, reason in _REASONS if fnmatch.fnmatch(name, pattern)), "")
