"""The losses equal PyTorch's."""

import importlib

import numpy as np
import pytest

from tests.test_losses import LABELS, LAM, LOGITS, SEVERAL, WEIGHTS, batch_of, trained, wanted

pytestmark = pytest.mark.references


def theirs(make, targets):
    """Returns PyTorch's loss of the pixels times a parameter, which is 1, and its gradient."""
    import torch

    scale = torch.ones(3, requires_grad=True)
    loss = make(torch)(torch.tensor(LOGITS) * scale, torch.tensor(targets))
    loss.backward()
    return loss.item(), scale.grad.numpy()


def assert_equal(ours, expected, factor=1.0):
    assert ours[0] == pytest.approx(factor * expected[0], rel=1e-5)
    np.testing.assert_allclose(ours[1], factor * expected[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [(), WEIGHTS], ids=["unweighted", "weighted"])
@pytest.mark.parametrize(("devices", "parts"), [(1, 1), (2, 2)])
def test_cross_entropy_with_class_weights_and_smoothing(smoothing, weights, devices, parts):
    def make(torch):
        weight = torch.tensor(weights) if weights else None
        return torch.nn.CrossEntropyLoss(weight=weight, label_smoothing=smoothing)

    options = {"label_smoothing": smoothing, "class_weights": weights}
    ours = trained(batch_of(LABELS), devices, parts, **options)
    assert_equal(ours, theirs(make, LABELS.astype(np.int64)))


@pytest.mark.parametrize("weights", [(), WEIGHTS], ids=["unweighted", "weighted"])
def test_cross_entropy_of_mixed_images(weights):
    # PyTorch divides the sum of the weighted losses of soft targets by the number of images; here,
    # it is divided by the sum of the images' weights.
    targets = wanted(LABELS, mixed=True).astype(np.float32)
    sum_of_weights = (targets @ np.float32(weights or np.ones(3))).sum()

    def make(torch):
        return torch.nn.CrossEntropyLoss(weight=torch.tensor(weights) if weights else None)

    ours = trained(batch_of(LABELS, mixed=True), class_weights=weights)
    assert_equal(ours, theirs(make, targets), factor=8 / sum_of_weights)
    assert len(LAM) == 8


@pytest.mark.parametrize("mixed", [False, True], ids=["plain", "mixed"])
@pytest.mark.parametrize("labels", [LABELS, SEVERAL], ids=["one class", "several classes"])
def test_binary_cross_entropy(labels, mixed):
    targets = wanted(labels, mixed).astype(np.float32)
    ours = trained(batch_of(labels, mixed), loss="bce")
    assert_equal(ours, theirs(lambda torch: torch.nn.BCEWithLogitsLoss(), targets))


def test_binary_cross_entropy_with_class_weights():
    # PyTorch's mean is not divided by the mean weight.
    def make(torch):
        return torch.nn.BCEWithLogitsLoss(weight=torch.tensor(WEIGHTS))

    ours = trained(batch_of(SEVERAL), loss="bce", class_weights=WEIGHTS)
    assert_equal(ours, theirs(make, SEVERAL.astype(np.float32)), factor=1 / np.mean(WEIGHTS))


def test_binary_cross_entropy_is_smoothed_as_by_timm():
    from tests.references import torch_models  # noqa: F401  before timm

    make = importlib.import_module("timm.loss").BinaryCrossEntropy
    ours = trained(batch_of(LABELS), loss="bce", label_smoothing=0.1)
    expected = theirs(lambda _: make(smoothing=0.1), LABELS.astype(np.int64))
    assert_equal(ours, expected)


def test_mixed_targets_are_made_0_or_1_as_by_timm():
    from tests.references import torch_models  # noqa: F401  before timm

    make = importlib.import_module("timm.loss").BinaryCrossEntropy
    ours = trained(batch_of(LABELS, mixed=True), loss="bce", target_threshold=0.4)
    targets = wanted(LABELS, mixed=True).astype(np.float32)
    assert_equal(ours, theirs(lambda _: make(smoothing=0.0, target_threshold=0.4), targets))
