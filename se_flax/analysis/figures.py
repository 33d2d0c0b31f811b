"""What figures share."""

from types import ModuleType

# Colours that remain apart for colour-blind readers (Okabe and Ito, 2008); black is beside them.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def pyplot() -> ModuleType:
    """Returns `matplotlib.pyplot`, drawing to files alone."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
