"""The global context block (GCNet, Cao et al., arXiv:1904.11492, "Global Context Block")."""

from fractions import Fraction

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from se_flax.errors import UserError, check_choice
from se_flax.layers.gates import Gates, Maps, bottleneck_width, check_map, check_whole, rescaled

FUSIONS = ("add", "scale")
he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class GlobalContext(nn.Module):
    """Adds to all positions what is computed from a weighted mean over them.

    For a feature map u with h x w positions and c channels (the paper's global context block):

        a_ij = softmax over positions of (k . u_ij + b)
        z    = sum over positions of a_ij u_ij                      (context modelling)
        t    = W2 relu(layer_norm(W1 z + b1)) + b2                  (transform)
        y_ij = u_ij + t                                             (fusion)

    with k of shape [c] and W1 of shape [c, c / reduction]. With fusion "scale", the positions are
    rescaled instead, y_ij = sigmoid(t) * u_ij, as in the paper's ablations and timm's gcresnet50t;
    this gate, shape [*batch, c], is sown as `excitation`.

    W2 starts at 0, as in the authors' code, so that the block first adds nothing (or halves).

    Cost, with a bottleneck of d = c / reduction channels: 2cd + 2c + 3d + 1 parameters, and
    2cd + 2chw multiply-adds. It may stand after any layer that returns feature maps.

    Attributes:
        fusion: "add" or "scale".
        reduction: reduction ratio. The bottleneck's width is c / reduction, rounded down, but at
            least 1.
        width: the bottleneck's width; overrides `reduction`.
        layer_norm_epsilon: constant that the layer norm adds to the variance; 1e-6 in timm.
        dtype: computation type; by default the input's. The softmax and the layer norm's
            statistics are always computed in float32.
        expansion: see `se_flax.SqueezeExcite`.

    Raises:
        UserError: if a field has an invalid value; on call, if the input is not a feature map.
    """

    fusion: str = "add"
    reduction: int = 16
    width: int | None = None
    layer_norm_epsilon: float = 1e-5
    dtype: DTypeLike | None = None
    expansion: int | Fraction = 1

    def __post_init__(self):
        check_choice("fusion", self.fusion, FUSIONS)
        check_whole(self, "reduction", "width", "expansion")
        if not self.layer_norm_epsilon > 0:
            raise UserError(f"layer_norm_epsilon must be positive, not {self.layer_norm_epsilon!r}")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Maps) -> Maps:
        """Returns x with its context added, or rescaled by it."""
        check_map(self, x)
        x = x.astype(self.dtype or x.dtype)
        t = self.transform(self.context(x))
        if self.fusion == "add":
            return x + jnp.expand_dims(t, (-3, -2))
        gate = jax.nn.sigmoid(t)
        self.sow("intermediates", "excitation", gate)
        return rescaled(x, gate)

    def context(self, x: Maps) -> Gates:
        """Returns the weighted mean over positions."""
        attend = nn.Dense(1, kernel_init=he_normal, dtype=x.dtype, name="attend")
        scores = jnp.squeeze(attend(x), -1).astype(jnp.float32)
        weights = jax.nn.softmax(scores, axis=(-2, -1))
        summed = jnp.einsum(
            "...hw,...hwc->...c",
            weights.astype(x.dtype),
            x,
            preferred_element_type=jnp.float32,
        )
        return summed.astype(x.dtype)

    def transform(self, z: Gates) -> Gates:
        """Returns what is added, or made the gate, for a context."""
        channels = z.shape[-1]
        dense = nn.Dense(bottleneck_width(self, channels), dtype=z.dtype, name="reduce")
        norm = nn.LayerNorm(
            self.layer_norm_epsilon, dtype=z.dtype, use_fast_variance=False, name="reduce_norm"
        )
        zeros = nn.initializers.zeros
        expand = nn.Dense(channels, dtype=z.dtype, kernel_init=zeros, name="expand")
        return expand(jax.nn.relu(norm(dense(z))))
