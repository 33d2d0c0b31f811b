"""The networks equal independent implementations of them."""

import pytest

from tests.references import comparison

pytestmark = pytest.mark.references


@pytest.mark.parametrize(("name", "reference"), comparison.REFERENCES)
def test_equals_its_reference(name, reference):
    result = comparison.compare(name, reference)
    assert result.parameters == result.their_parameters
    assert result.logits < 1e-4
    assert result.spread > 1e-3


@pytest.mark.parametrize(("name", "reference"), comparison.TRAINED)
def test_equals_its_reference_in_training(name, reference):
    result = comparison.compare_training(name, reference)
    assert result.logits < 1e-4
    assert result.batch_stats < 1e-4
    assert result.gradients < 1e-4
