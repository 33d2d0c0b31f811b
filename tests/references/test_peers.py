"""What stands in for torchvision's compiled operators in comparisons of speed equals them."""

import numpy as np
import pytest

from experiments.speed import detectors

pytestmark = pytest.mark.references


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def random_boxes(torch, n):
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(n, 2, generator=generator) * 90 - 10
    sides = torch.rand(n, 2, generator=generator) * 60
    return torch.cat([corners, corners + sides], dim=1)


def test_roi_align_and_its_gradient_are_torchvisions(torch):
    import inspect
    import sys

    from experiments.peers import torchvision_detector

    theirs = inspect.unwrap(sys.modules["torchvision.ops.roi_align"]._roi_align)
    rois = torch.cat([torch.tensor([0.0, 1.0] * 10)[:, None], random_boxes(torch, 20)], dim=1)
    generator = torch.Generator().manual_seed(1)
    maps = torch.randn(2, 8, 20, 24, generator=generator).requires_grad_()
    # torchvision's form in Python takes points outside the map for points at its border.
    rois[:, 1:] = rois[:, 1:].clamp(0, 79)
    ours = torchvision_detector.roi_align(maps, rois, (7, 7), 0.25, 2)
    expected = theirs(maps, rois, 0.25, 7, 7, 2, False)
    torch.testing.assert_close(ours, expected)
    weights = torch.randn(ours.shape, generator=generator)
    gradients = [torch.autograd.grad((weights * each).sum(), maps)[0] for each in (ours, expected)]
    torch.testing.assert_close(*gradients)


def test_suppression_is_greedy(torch):
    from experiments.peers import torchvision_detector
    from tests.references import torchvision_detectors

    boxes = random_boxes(torch, 200)
    scores = (torch.rand(200, generator=torch.Generator().manual_seed(2)) * 50).round()
    for threshold in (0.3, 0.7):
        ours = torchvision_detector.nms(boxes, scores, threshold)
        expected = torchvision_detectors.nms(boxes, scores, threshold)
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.slow
def test_detectors_take_turns_in_processes_of_their_own(torch):
    cases = [
        detectors.Case(implementation, "resnet50", "inference", 1, 64, 96)
        for implementation in ("se_flax", "torchvision")
    ]
    rows = list(detectors.measure_detectors(2, 0.0, cases))
    assert [row["implementation"] for row in rows] == ["se_flax", "torchvision"]
    assert all(len(row["seconds"]) == 2 and min(row["seconds"]) > 0 for row in rows)
    assert detectors.ratios(rows).keys() == {("inference", "torchvision resnet50")}
