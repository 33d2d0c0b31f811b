import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from se_flax import create_model

IMAGES = jnp.zeros((2, 32, 32, 3))


def shapes(name, **overrides):
    model = create_model(name, 10, **overrides)
    return jax.eval_shape(lambda: model.init(jax.random.key(0), IMAGES))["params"]


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def se_parameters(channels, reduction=16):
    reduced = channels // reduction
    return 2 * channels * reduced + reduced + channels


def test_small_cnn_has_as_many_parameters_as_keras_example():
    assert count(shapes("small_cnn")) == 1_250_858
    extra = count(shapes("se_small_cnn")) - 1_250_858
    assert extra == se_parameters(32) + se_parameters(64)


def test_in_cnn3_the_block_replaces_the_second_convolution():
    plain, with_se = shapes("cnn3"), shapes("se_cnn3")
    assert plain.keys() == {"conv1", "conv2", "conv3", "classifier"}
    assert with_se.keys() == {"conv1", "se", "conv3", "classifier"}
    assert count(plain) - count(with_se) == (9 * 32 * 32 + 32) - se_parameters(32)
    for layer in ("conv1", "conv3", "classifier"):
        assert plain[layer] == with_se[layer]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("se_small_cnn", [(15, 32), (6, 64)]),
        ("cnn3", [(16, 32), (8, 32), (4, 64)]),
        ("se_cnn3", [(16, 32), (8, 32), (4, 64)]),
    ],
)
def test_features_are_the_outputs_of_the_poolings(name, expected):
    model = create_model(name, 10)
    maps, _ = jax.eval_shape(
        lambda: model.init_with_output(jax.random.key(0), IMAGES, features=True)
    )
    assert [y.shape for y in maps.values()] == [(2, s, s, channels) for s, channels in expected]
    assert list(maps) == [f"stage{i}" for i in range(1, len(expected) + 1)]


@pytest.mark.parametrize("variant", ["slow_squeeze", "slow_excite", "bump"])
def test_any_variant_works_in_cnn3(variant):
    assert len(shapes("se_cnn3", variant=variant, reduction=4)["se"]) == 3


@pytest.mark.parametrize("name", ["small_cnn", "se_small_cnn", "cnn3", "se_cnn3"])
def test_learns_to_tell_two_images_apart(name):
    model = create_model(name, 2)
    x = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    params = jax.jit(model.init)(jax.random.key(1), x)["params"]

    def loss(params, key):
        logits = model.apply({"params": params}, x, train=True, rngs={"dropout": key})
        return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(logits)))

    optimizer = optax.adam(1e-3)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, key):
        updates, state = optimizer.update(jax.grad(loss)(params, key), state)
        return optax.apply_updates(params, updates), state

    for seed in range(20):
        params, state = step(params, state, jax.random.key(seed))
    logits = model.apply({"params": params}, x)
    np.testing.assert_array_equal(jnp.argmax(logits, axis=-1), [0, 1])


def test_bfloat16_keeps_float32_parameters_and_logits():
    for name in ("se_small_cnn", "se_cnn3"):
        model = create_model(name, 10, dtype=jnp.bfloat16)
        logits, variables = jax.eval_shape(
            lambda model=model: model.init_with_output(jax.random.key(0), IMAGES)
        )
        assert {leaf.dtype for leaf in jax.tree.leaves(variables["params"])} == {jnp.dtype("f4")}
        assert logits.dtype == jnp.float32
