"""A detector's parameters and multiply-adds equal those that PyTorch counts in torchvision's."""

import pytest

from se_flax.burden import burden
from se_flax.detection import create_detector

pytestmark = pytest.mark.references

PIXELS, REGIONS, CLASSES = 160, 20, 5


@pytest.mark.parametrize("form", ["", "_v2"])
def test_multiply_adds_and_parameters_are_equal(form):
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from tests.references import torchvision_detectors

    torchvision_detectors.use_operators_in_python()
    build = torchvision_detectors.build_v2 if form else torchvision_detectors.build
    theirs = build(
        *("resnet50", CLASSES),
        min_size=PIXELS,
        max_size=PIXELS,
        rpn_nms_thresh=1.0,  # so that there are as many regions as places
        rpn_pre_nms_top_n_test=REGIONS,
        rpn_post_nms_top_n_test=REGIONS,
        box_score_thresh=1.0,
    )
    count = FlopCounterMode(display=False)
    with count, torch.no_grad():
        theirs([torch.rand(3, PIXELS, PIXELS)])
    of_layers = ("convolution", "addmm")
    flops = {str(name): each for name, each in count.get_flop_counts()["Global"].items()}
    wanted = sum(each for name, each in flops.items() if name.endswith(of_layers)) // 2

    model = create_detector(f"fasterrcnn_resnet50_fpn{form}", CLASSES, proposals_after=REGIONS)
    counted = burden(model, PIXELS)
    assert counted.multiply_adds == wanted
    frozen = [m for m in theirs.modules() if isinstance(m, torchvision_detectors.FrozenBatchNorm2d)]
    in_buffers = sum(each.weight.numel() + each.bias.numel() for each in frozen)
    parameters = sum(each.numel() for each in theirs.parameters())
    assert counted.parameters == parameters + in_buffers
