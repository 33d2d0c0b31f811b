"""Colours and set-up shared by the figures."""

import sys
from types import ModuleType

# Colours that colour-blind readers can distinguish (Okabe and Ito, 2008); black is used separately.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def pyplot() -> ModuleType:
    """Returns `matplotlib.pyplot`; outside IPython, with a backend that only writes files."""
    import matplotlib

    ipython = sys.modules.get("IPython")
    if ipython is None or ipython.get_ipython() is None:  # else figures are shown in a notebook
        matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
