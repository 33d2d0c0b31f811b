import numpy as np


def assert_share(count, number, probability):
    """Five standard deviations: one in two million."""
    deviation = np.sqrt(number * probability * (1 - probability))
    assert abs(count - number * probability) <= 5 * deviation + 1e-9
