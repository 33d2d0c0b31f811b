"""The Squeeze-and-Excitation block (Hu et al., arXiv:1709.01507, section 3) and its relatives."""

import functools
from collections.abc import Callable
from fractions import Fraction

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from se_flax.errors import check_choice
from se_flax.layers.gates import check_whole

SQUEEZES = ("avg", "max", "none")

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "sigmoid": jax.nn.sigmoid,
    "hard_sigmoid": jax.nn.hard_sigmoid,
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "swish": jax.nn.swish,
}

# Widths of the dense layers before the last one, as a function of the bottleneck's width w and
# the width d at half the reduction.
VARIANTS: dict[str, Callable[[int, int], tuple[int, ...]]] = {
    "standard": lambda w, d: (w,),
    "slow_squeeze": lambda w, d: (d, w),
    "slow_excite": lambda w, d: (w, d),
    "slow_squeeze_slow_excite": lambda w, d: (d, w, d),
    "bump": lambda w, d: (w, w),
}


def round_width(width: float, divisor: int = 8) -> int:
    """Rounds to the nearest multiple of divisor, or up where that would lose more than 10%."""
    rounded = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * width else rounded + divisor


class SqueezeExcite(nn.Module):
    """Rescales each channel by a gate computed from all channels.

    For a feature map u with h x w positions and c channels, the block computes equations 2 to 4
    of the paper, with the biases that its authors' released networks have:

        z_k = mean over positions of u_k            (squeeze)
        s   = sigmoid(W2 relu(W1 z + b1) + b2)      (excitation)
        y_k = s_k * u_k                             (scale)

    with W1 of shape [c, c / reduction] and W2 of shape [c / reduction, c]. The gate s,
    shape [*batch, c], is sown into the collection `intermediates` as `excitation`.

    Attributes:
        reduction: reduction ratio r. The bottleneck's width is c / r, rounded down, but at
            least 1.
        width: the bottleneck's width; overrides `reduction`.
        squeeze: pooling, "avg" or "max". With "none" each position has its own gate, of shape
            [*batch, h, w, c], computed by 1x1 convolutions at full resolution (section 7.1 of
            the paper, NoSqueeze).
        variant: arrangement of the dense layers before the last one; `activation` follows each
            of them. "standard", or a variant from "Variations of Squeeze and Excitation
            networks" (arXiv:2304.06502, section 4): "slow_squeeze" reduces in two steps, first
            by r // 2, to a width of c / (r // 2), rounded down; "slow_excite" expands in two
            steps; "slow_squeeze_slow_excite" does both; "bump" has a second layer of the
            bottleneck's width. With `width`, the wider layer has twice that width, but at most c.
        activation: activation after those layers, a name in `ACTIVATIONS`.
        gate: activation after the last layer, a name in `ACTIVATIONS`.
        use_bias: whether the dense layers have biases. Equation 3 and the networks in the
            paper's ablations (section 6) have none.
        spatial_dims: number of position axes before the channel axis: 2 for images, 1 for
            sequences, 3 for volumes. All axes before those are batch axes.
        dtype: computation type of the dense layers and of the product; by default the
            input's. The average is always computed in float32.
        param_dtype: type of the dense layers' parameters.
        kernel_init: initialiser of the dense layers' kernels, called as
            kernel_init(key, [inputs, outputs], param_dtype); by default with variance 1 / inputs.
        expansion: channels of the input divided by the channels that `reduction` refers to. The
            bottleneck's width is c / (reduction * expansion). Networks with inverted bottlenecks
            set it (see `make_block`).
        divisor: with more than 1, the bottleneck's width is a multiple of it (`round_width`).

    Raises:
        ValueError: if a field has an invalid value; on call, if the input has fewer than
            `spatial_dims + 1` axes.
    """

    reduction: int = 16
    width: int | None = None
    squeeze: str = "avg"
    variant: str = "standard"
    activation: str = "relu"
    gate: str = "sigmoid"
    use_bias: bool = True
    spatial_dims: int = 2
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    expansion: int | Fraction = 1
    divisor: int = 1

    def __post_init__(self):
        for field, valid in (
            ("squeeze", SQUEEZES),
            ("variant", VARIANTS),
            ("activation", ACTIVATIONS),
            ("gate", ACTIVATIONS),
        ):
            check_choice(field, getattr(self, field), valid)
        check_whole(self, "reduction", "width", "expansion", "divisor")
        super().__post_init__()

    def __call__(self, x: Float[Array, "*batch c"]) -> Float[Array, "*batch c"]:
        """Returns x with its channels rescaled."""
        if x.ndim < self.spatial_dims + 1:
            raise ValueError(
                f"SqueezeExcite(spatial_dims={self.spatial_dims}) needs an input with at least "
                f"{self.spatial_dims + 1} axes, channels last, but got shape {x.shape}"
            )
        positions = tuple(range(-1 - self.spatial_dims, -1))
        if self.squeeze == "avg":
            z = jnp.mean(x, axis=positions, dtype=jnp.float32).astype(self.dtype or x.dtype)
        elif self.squeeze == "max":
            z = jnp.max(x, axis=positions)
        else:
            z = x
        gate = self.excite(z)
        if self.squeeze != "none":
            gate = jnp.expand_dims(gate, positions)
        return x.astype(gate.dtype) * gate

    @property
    def takes_means(self) -> bool:
        """Whether the block needs only the channels' means, so that batch norm can include it."""
        is_own_call = type(self).__call__ is SqueezeExcite.__call__
        return is_own_call and self.squeeze == "avg" and self.spatial_dims == 2

    @nn.compact
    def excite(self, z: Float[Array, "*batch c"]) -> Float[Array, "*batch c"]:
        """Returns the gate for squeezed values z, and sows it."""
        channels = z.shape[-1]
        dtype = self.dtype or z.dtype
        if self.width is None:
            ratio = channels / (self.reduction * self.expansion)
            width = round_width(ratio, self.divisor) if self.divisor > 1 else max(1, int(ratio))
            wider = max(width, channels // (max(1, self.reduction // 2) * self.expansion))
        else:
            width, wider = self.width, min(2 * self.width, max(self.width, channels))
        widths = VARIANTS[self.variant](width, wider)
        dense = functools.partial(
            nn.Dense,
            use_bias=self.use_bias,
            dtype=dtype,
            param_dtype=self.param_dtype,
            kernel_init=self.kernel_init,
        )
        for i, features in enumerate(widths):
            z = dense(features, name="reduce" if i == 0 else f"hidden{i + 1}")(z)
            z = ACTIVATIONS[self.activation](z)
        gate = ACTIVATIONS[self.gate](dense(channels, name="expand")(z))
        self.sow("intermediates", "excitation", gate)
        return gate


SlowSqueezeExcite = functools.partial(SqueezeExcite, variant="slow_squeeze")
SqueezeSlowExcite = functools.partial(SqueezeExcite, variant="slow_excite")
SlowSqueezeSlowExcite = functools.partial(SqueezeExcite, variant="slow_squeeze_slow_excite")
Bump = functools.partial(SqueezeExcite, variant="bump")
