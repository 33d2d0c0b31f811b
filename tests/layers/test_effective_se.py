import jax.numpy as jnp
import numpy as np
import pytest

from se_flax.errors import UserError
from se_flax.layers.effective_se import EffectiveSE


@pytest.mark.parametrize(
    ("gate", "expected"),
    [
        ("hard_sigmoid", lambda x: np.clip(x / 6 + 0.5, 0, 1)),
        ("sigmoid", lambda x: 1 / (1 + np.exp(-x))),
    ],
)
def test_the_gate_is_one_dense_layer_of_the_means(gate, expected):
    numbers = np.random.default_rng(0)
    x = numbers.standard_normal((2, 3, 5, 4)).astype(np.float32)
    kernel, bias = 4 * numbers.standard_normal((4, 4)), numbers.standard_normal(4)
    params = {"expand": {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}}
    block = EffectiveSE(gate=gate)
    y, sown = block.apply({"params": params}, jnp.asarray(x), mutable="intermediates")
    gates = expected(x.mean((1, 2)) @ kernel + bias)
    np.testing.assert_allclose(sown["intermediates"]["excitation"][0], gates, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(y, x * gates[:, None, None], rtol=1e-4, atol=1e-5)


def test_an_unknown_gate_is_reported():
    with pytest.raises(UserError, match=r'no gate "hard_sigmod" \(did you mean "hard_sigmoid"'):
        EffectiveSE(gate="hard_sigmod")
