"""SKNets: residual networks with selective kernels (Li et al., arXiv:1903.06586), as timm has them.

`skresnext50_32x4d` is the paper's SKNet-50 (table 1). `skresnet18` and `skresnet34` are timm's own:
each kernel sees half of the input's channels, and the gates' bottlenecks have other widths. Other
ResNets and ResNeXts take selective kernels with `create_model(name, se="sk")`.
"""

import functools

from se_flax.layers.selective_kernel import SelectiveKernel
from se_flax.models.registry import register
from se_flax.models.resnet import BasicUnit, BottleneckUnit, ResNet

_PAPER = "Li et al., Selective Kernel Networks, arXiv:1903.06586"
_split = functools.partial(SelectiveKernel, reduction=8, min_width=16, split_input=True)

for _name, _paper, _stage_sizes, _unit, _kernel in (
    ("skresnet18", f"{_PAPER}; the network is timm's", (2, 2, 2, 2), BasicUnit, _split),
    ("skresnet34", f"{_PAPER}; the network is timm's", (3, 4, 6, 3), BasicUnit, _split),
    (
        "skresnext50_32x4d",
        f"{_PAPER}, table 1, SKNet-50",
        (3, 4, 6, 3),
        functools.partial(BottleneckUnit, groups=32, group_width=4),
        SelectiveKernel,
    ),
):
    register(
        _name,
        ResNet,
        input_size=224,
        interpolation="bicubic",
        paper=_paper,
        published_with_se=True,
        se=_kernel,
        stage_sizes=_stage_sizes,
        widths=(64, 128, 256, 512),
        unit=_unit,
    )
