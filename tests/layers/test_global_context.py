import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_flax.errors import UserError
from se_flax.layers.global_context import GlobalContext


def random_block(**fields):
    """A block with random parameters, an input, and the term t of each image by the equations."""
    x = jax.random.normal(jax.random.key(0), (2, 3, 5, 16))
    block = GlobalContext(reduction=4, **fields)
    params = block.init(jax.random.key(1), x)["params"]
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    leaves = [jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    params = jax.tree.unflatten(structure, leaves)
    terms = []
    for image in np.asarray(x, np.float64):
        positions = image.reshape(-1, 16)
        scores = positions @ np.asarray(params["attend"]["kernel"])[:, 0]
        weights = np.exp(scores) / np.exp(scores).sum()
        hidden = weights @ positions @ params["reduce"]["kernel"] + params["reduce"]["bias"]
        normed = (hidden - hidden.mean()) / np.sqrt(hidden.var() + block.layer_norm_epsilon)
        hidden = normed * params["reduce_norm"]["scale"] + params["reduce_norm"]["bias"]
        terms.append(np.maximum(hidden, 0) @ params["expand"]["kernel"] + params["expand"]["bias"])
    return block, params, x, np.stack(terms)[:, None, None]


def test_a_term_from_a_weighted_mean_is_added_to_all_positions():
    block, params, x, terms = random_block()
    np.testing.assert_allclose(block.apply({"params": params}, x), x + terms, rtol=1e-4, atol=1e-4)


def test_or_positions_are_rescaled_by_its_sigmoid():
    block, params, x, terms = random_block(fusion="scale")
    y, sown = block.apply({"params": params}, x, mutable="intermediates")
    gate = 1 / (1 + np.exp(-terms))
    np.testing.assert_allclose(sown["intermediates"]["excitation"][0], gate[:, 0, 0], atol=1e-4)
    np.testing.assert_allclose(y, x * gate, rtol=1e-4, atol=1e-4)


def test_at_first_it_adds_nothing():
    x = jax.random.normal(jax.random.key(0), (2, 3, 5, 16))
    y, _ = GlobalContext().init_with_output(jax.random.key(1), x)
    assert jnp.array_equal(y, x)


def test_an_unknown_fusion_is_reported():
    with pytest.raises(UserError, match='no fusion "mul"; known are add, scale'):
        GlobalContext(fusion="mul")
