import numpy as np


def assert_frequency(count, number, probability):
    """Allows five standard deviations, which are exceeded by chance once in two million times."""
    deviation = np.sqrt(number * probability * (1 - probability))
    assert abs(count - number * probability) <= 5 * deviation + 1e-9
