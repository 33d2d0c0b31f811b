import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_flax import create_model
from se_flax.errors import UserError
from se_flax.layers.eca import ECA, adaptive_kernel_size


# The sizes of timm's ECA networks; those of 4 channels or fewer would have a kernel of 1.
@pytest.mark.parametrize(
    ("channels", "size"),
    [(2, 3), (16, 3), (64, 3), (127, 3), (128, 5), (256, 5), (512, 5), (1024, 5), (2048, 7)],
)
def test_the_kernels_size_grows_with_the_logarithm_of_the_channels(channels, size):
    assert adaptive_kernel_size(channels) == size
    params = jax.eval_shape(
        lambda: ECA().init(jax.random.key(0), jnp.zeros((1, 2, 2, channels)))["params"]
    )
    assert params["conv"]["kernel"].shape == (1, size, 1, 1)


def test_the_blocks_of_resnet50_have_86_parameters():
    """The paper counts 80: 5 for each of 16 blocks, where the last three have 7 here."""
    model = create_model("resnet50", se="eca")
    x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    params = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), x)["params"]
    blocks = [unit["se"] for unit in params.values() if "se" in unit]
    assert len(blocks) == 16
    assert sum(leaf.size for leaf in jax.tree.leaves(blocks)) == 86


def test_a_gate_is_computed_from_the_means_of_neighbouring_channels():
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 6)).astype(np.float32)
    kernel = np.array([0.5, -2.0, 3.0], np.float32)
    params = {"conv": {"kernel": kernel[None, :, None, None]}}
    y, sown = ECA().apply({"params": params}, jnp.asarray(x), mutable="intermediates")
    z = np.pad(x.mean((1, 2)), ((0, 0), (1, 1)))
    gate = np.empty((2, 6))
    for k in range(6):
        gate[:, k] = 1 / (1 + np.exp(-(z[:, k : k + 3] @ kernel)))
    np.testing.assert_allclose(sown["intermediates"]["excitation"][0], gate, rtol=1e-5)
    np.testing.assert_allclose(y, x * gate[:, None, None], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kernel_size": 4}, "kernel_size must be odd.* not 4"),
        ({"kernel_size": 0}, "at least 1, not 0"),
        ({"gamma": 0.0}, "gamma must be positive"),
    ],
)
def test_impossible_kernels_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        ECA(**fields)
