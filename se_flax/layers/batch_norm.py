"""Batch norm that gives an SE block after it the channels' means, and rescales in the same pass."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from se_flax.layers.gates import TakesMeans


class BatchNorm(nn.BatchNorm):
    """Flax's batch norm for feature maps, with a method that includes the SE block after it.

    Written one after the other, batch norm reads its input y to compute statistics, the SE block
    reads the normalised map to average it, and a third pass normalises and rescales. The second
    pass is not needed. Let m[n, k] and q[n, k] be the mean and the mean square of channel k of
    image n. The statistics of the batch are means of them over the images,

        mu_k = mean over n of m[n, k]        sigma_k^2 = (mean over n of q[n, k]) - mu_k^2

    and as batch norm is an affine map of each channel, it maps the mean of a channel to the mean
    of the normalised channel, which is what the SE block's squeeze computes:

        z[n, k] = gamma_k (m[n, k] - mu_k) / sigma_k + beta_k

    With the gates s = excitation(z), normalising and rescaling are one affine map:

        s (gamma (y - mu) / sigma + beta) = a y + d,   a = s gamma / sigma,   d = s beta - a mu

    The difference of two large squares has few correct digits where the mean is large compared
    with the spread. Both means are therefore taken of y - c, with the running mean for c, which
    changes neither sigma nor the gradients.
    """

    @nn.compact
    def rescaled(self, y: Float[Array, "n h w c"], block: TakesMeans) -> Float[Array, "n h w c"]:
        """Returns block(self(y)), to rounding, for a block that `takes_means`."""
        shape, positions = y.shape[-1:], (1, 2)
        scale = self.param("scale", self.scale_init, shape, self.param_dtype)
        bias = self.param("bias", self.bias_init, shape, self.param_dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)

        centre = running_mean.value
        centred = y.astype(jnp.promote_types(y.dtype, jnp.float32)) - centre
        means = jnp.mean(centred, positions)
        if self.use_running_average:
            mean, var = jnp.zeros(shape), running_var.value
        else:
            moments = jnp.mean(means, 0), jnp.mean(jnp.square(centred), (0, *positions))
            if self.axis_name is not None and not self.is_initializing():
                moments = jax.lax.pmean(moments, self.axis_name)
            mean, mean_square = moments
            var = jnp.maximum(mean_square - jnp.square(mean), 0.0)
            if not self.is_initializing():
                running_mean.value += (1 - self.momentum) * mean
                running_var.value = self.momentum * running_var.value + (1 - self.momentum) * var

        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        squeezed = factor * (means - mean) + bias
        gate = block.excite(squeezed.astype(block.dtype or self.dtype or squeezed.dtype))
        a = gate * factor
        d = gate * bias - a * (mean + centre)
        return (y * a[:, None, None] + d[:, None, None]).astype(gate.dtype)


def norm_and_rescale(
    norm: nn.Module, block: nn.Module | None, y: Float[Array, "n h w c"]
) -> Float[Array, "n h w c"]:
    """Returns block(norm(y)), or norm(y) without a block, with as few passes as possible.

    With running statistics there is no pass to save, and with y in half precision XLA for TPUs
    would store it in float32, for the affine map. Those two are therefore not joined.
    """
    if block is None:
        return norm(y)
    can_join = isinstance(norm, BatchNorm) and getattr(block, "takes_means", False)
    if can_join and not (norm.use_running_average and y.dtype.itemsize < 4):
        return norm.rescaled(y, block)
    return block(norm(y))
