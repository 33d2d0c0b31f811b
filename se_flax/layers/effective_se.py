"""The effective SE block of VoVNetV2 (CenterMask, Lee and Park, arXiv:1911.06667, section 3)."""

import flax.linen as nn
from jax.typing import DTypeLike

from se_flax.errors import check_choice
from se_flax.layers.gates import Gates, Maps, channel_means, check_map, rescaled
from se_flax.layers.squeeze_excite import ACTIVATIONS


class EffectiveSE(nn.Module):
    """SE with one dense layer, which does not reduce the channels and so loses none of them.

    For a feature map u with h x w positions and c channels:

        z_k = mean over positions of u_k
        s   = hard_sigmoid(W z + b)
        y_k = s_k * u_k

    with W of shape [c, c]. The gate s, shape [*batch, c], is sown as `excitation`.

    Cost: c^2 + c parameters and c^2 multiply-adds. It may stand after any layer that returns
    feature maps; after a batch norm, both are one pass (`se_flax.layers.batch_norm`).

    Attributes:
        gate: activation of the gate, a name in `ACTIVATIONS`. The paper's equation has the
            sigmoid; its authors' code, which VoVNetV2 is trained with, has the hard sigmoid.
        dtype: computation type of the gate and of the product; by default the input's. The
            mean is always computed in float32.

    Raises:
        UserError: if a field has an invalid value; on call, if the input is not a feature map.
    """

    gate: str = "hard_sigmoid"
    dtype: DTypeLike | None = None

    takes_means = True

    def __post_init__(self):
        check_choice("gate", self.gate, ACTIVATIONS)
        super().__post_init__()

    def __call__(self, x: Maps) -> Maps:
        """Returns x with its channels rescaled."""
        check_map(self, x)
        return rescaled(x, self.excite(channel_means(x, self.dtype)))

    @nn.compact
    def excite(self, z: Gates) -> Gates:
        """Returns the gate for the channels' means, and sows it."""
        dense = nn.Dense(z.shape[-1], dtype=self.dtype or z.dtype, name="expand")
        gate = ACTIVATIONS[self.gate](dense(z))
        self.sow("intermediates", "excitation", gate)
        return gate
