import numpy as np


def assert_frequency(count, number, probability):
    """Allows five standard deviations, which chance exceeds once in two million."""
    deviation = np.sqrt(number * probability * (1 - probability))
    assert abs(count - number * probability) <= 5 * deviation + 1e-9
