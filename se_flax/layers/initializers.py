"""Initialisers of convolutions that several networks and blocks share."""

import flax.linen as nn

he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""He et al., arXiv:1502.01852, section 2.2, with the variance 2 / (outputs of the kernel)."""
