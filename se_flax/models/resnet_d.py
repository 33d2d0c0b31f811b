"""ResNet-D (He et al., arXiv:1812.01187, figure 2) and ResNet-RS (Bello et al., arXiv:2103.07579).

Both are ResNets with a stem of three 3x3 convolutions, and with 2x2 average pooling before the
convolution on the shortcuts that halve the resolution. ResNet-RS has SE blocks with r = 4, and a
convolution of stride 2 in place of the stem's max pooling.
"""

import functools

from se_flax.layers.squeeze_excite import SqueezeExcite
from se_flax.models.registry import register
from se_flax.models.resnet import BasicUnit, BottleneckUnit, ResNet

_D = {"widths": (64, 128, 256, 512), "stem": "deep", "stem_widths": (32, 32, 64)}
_basic = functools.partial(BasicUnit, average_down=True)
_bottleneck = functools.partial(BottleneckUnit, average_down=True)

for _depth, _stage_sizes, _unit, _pixels in (
    (18, (2, 2, 2, 2), _basic, 288),
    (34, (3, 4, 6, 3), _basic, 288),
    (50, (3, 4, 6, 3), _bottleneck, 288),
    (101, (3, 4, 23, 3), _bottleneck, 320),
    (152, (3, 8, 36, 3), _bottleneck, 320),
    (200, (3, 24, 36, 3), _bottleneck, 320),
):
    register(
        f"resnet{_depth}d",
        ResNet,
        input_size=_pixels,
        crop_pct=0.95 if _pixels == 288 else 1.0,
        interpolation="bicubic",
        paper="He et al., Bag of Tricks, arXiv:1812.01187, figure 2; the size is that of timm's "
        "weights",
        stage_sizes=_stage_sizes,
        unit=_unit,
        **_D,
    )

# Depths and input sizes of timm's weights; table 7 of the paper has several sizes for each depth.
for _depth, _stage_sizes, _pixels, _crop_pct in (
    (50, (3, 4, 6, 3), 224, 0.91),
    (101, (3, 4, 23, 3), 288, 0.94),
    (152, (3, 8, 36, 3), 320, 1.0),
    (200, (3, 24, 36, 3), 320, 1.0),
):
    register(
        f"resnetrs{_depth}",
        ResNet,
        input_size=_pixels,
        crop_pct=_crop_pct,
        interpolation="bicubic",
        paper="Bello et al., Revisiting ResNets, arXiv:2103.07579, section 4.1 and table 7",
        published_with_se=True,
        se=functools.partial(SqueezeExcite, reduction=4),
        dropout=0.25,
        stage_sizes=_stage_sizes,
        unit=_bottleneck,
        stem_pool="conv",
        **_D,
    )
