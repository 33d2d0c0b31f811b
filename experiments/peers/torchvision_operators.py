"""Importing this lets torchvision be imported where its compiled operators do not load.

None of them is used here, and the import needs only their names.
"""

import sys

import torch

_NAMES = ("nms", "qnms", "roi_align", "qroi_align", "_roi_align_backward", "roi_pool")
_NAMES += ("_roi_pool_backward", "ps_roi_align", "_ps_roi_align_backward", "ps_roi_pool")
_NAMES += ("_ps_roi_pool_backward", "deform_conv2d", "_deform_conv2d_backward")

try:
    import torchvision  # noqa: F401
except RuntimeError:  # operator torchvision::nms does not exist
    for _module in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[_module]
    _library = torch.library.Library("torchvision", "FRAGMENT")
    for _name in _NAMES:
        _library.define(f"{_name}(Tensor x) -> Tensor")
