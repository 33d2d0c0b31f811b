import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_flax import create_model
from se_flax.errors import UserError
from se_flax.models.vgg import adaptive_average_pool


def shapes(model, size=32):
    images = jnp.zeros((1, size, size, 3))
    return jax.eval_shape(lambda: model.init(jax.random.key(0), images))["params"]


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


# torchvision's documentation; 138 million in table 2 of arXiv:1409.1556.
@pytest.mark.parametrize(
    ("name", "parameters"), [("vgg16", 138_357_544), ("vgg16_bn", 138_365_992)]
)
def test_has_the_published_number_of_parameters(name, parameters):
    assert count(shapes(create_model(name))) == parameters


@pytest.mark.parametrize("name", ["vgg16", "vgg16_bn"])
def test_se_adds_what_the_papers_formula_says(name):
    extra = sum(
        size * (2 * width * (width // 16) + width // 16 + width)
        for size, width in zip((2, 2, 3, 3, 3), (64, 128, 256, 512, 512), strict=True)
    )
    plain, with_se = (count(shapes(create_model(n))) for n in (name, f"se_{name}"))
    assert with_se - plain == extra


def test_features_are_the_five_poolings():
    model = create_model("se_vgg16_bn", 10)
    x = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    maps, _ = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x, features=True), x
    )
    assert {name: y.shape for name, y in maps.items()} == {
        "stage1": (2, 112, 112, 64),
        "stage2": (2, 56, 56, 128),
        "stage3": (2, 28, 28, 256),
        "stage4": (2, 14, 14, 512),
        "stage5": (2, 7, 7, 512),
    }


def test_se_follows_the_relu_of_each_convolution():
    model = create_model("se_vgg16_bn", 10, stage_sizes=(2,), widths=(8,))
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))

    def apply(x):
        variables = model.init(jax.random.key(1), x, features=True)
        return model.apply(variables, x, features=True, capture_intermediates=True)

    maps, state = jax.jit(apply)(x)
    state = state["intermediates"]
    for j in (1, 2):
        gate = state[f"stage1_se{j}"]["excitation"][0][:, None, None]
        expected = gate * jax.nn.relu(state[f"stage1_bn{j}"]["__call__"][0])
        np.testing.assert_allclose(state[f"stage1_se{j}"]["__call__"][0], expected, rtol=1e-6)
    pooled = expected.reshape(2, 4, 2, 4, 2, 8).max(axis=(2, 4))
    np.testing.assert_allclose(maps["stage1"], pooled, rtol=1e-6)


def test_adaptive_average_pool_is_the_mean_of_windows_where_the_size_divides():
    x = np.random.default_rng(0).standard_normal((2, 14, 21, 3), np.float32)
    expected = x.reshape(2, 7, 2, 7, 3, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(
        adaptive_average_pool(jnp.asarray(x), 7), expected, rtol=1e-4, atol=1e-6
    )


def test_adaptive_average_pool_divides_other_sizes_evenly():
    x = np.arange(5, dtype=np.float32)[None, :, None, None]
    pooled = adaptive_average_pool(jnp.broadcast_to(x, (1, 5, 5, 1)), 3)
    np.testing.assert_allclose(pooled[0, :, 0, 0], [0.5, 2, 3.5])  # rows 0-1, 1-3 and 3-4
    repeated = adaptive_average_pool(jnp.ones((1, 1, 1, 1)), 3)
    np.testing.assert_allclose(repeated, np.ones((1, 3, 3, 1)))


@pytest.mark.parametrize("size", [32, 100, 448])
def test_images_of_any_size_give_the_same_parameters(size):
    assert shapes(create_model("vgg16", 10), size) == shapes(create_model("vgg16", 10), 224)


def test_images_too_small_for_the_poolings_are_refused():
    with pytest.raises(UserError, match="images of 32 x 31 are too small"):
        jax.eval_shape(
            lambda: create_model("vgg16").init(jax.random.key(0), jnp.zeros((1, 32, 31, 3)))
        )


@pytest.mark.parametrize("name", ["vgg16", pytest.param("vgg16_bn", marks=pytest.mark.slow)])
def test_with_all_gates_open_it_equals_the_plain_network(name):
    fields = {"stage_sizes": (2, 2), "widths": (16, 32)}
    with_se, plain = (create_model(n, 10, **fields) for n in (f"se_{name}", name))
    images = jax.random.normal(jax.random.key(0), (2, 28, 28, 3))
    variables = jax.jit(lambda: with_se.init(jax.random.key(1), images))()
    shut = jax.jit(with_se.apply)(variables, images)
    for block in [name for name in variables["params"] if "_se" in name]:
        layer = variables["params"][block]["expand"]
        layer["kernel"], layer["bias"] = 0 * layer["kernel"], 0 * layer["bias"] + 100.0
    opened = jax.jit(with_se.apply)(variables, images)
    for block in [name for name in variables["params"] if "_se" in name]:
        del variables["params"][block]
    np.testing.assert_allclose(opened, jax.jit(plain.apply)(variables, images), rtol=1e-5)
    assert not np.allclose(opened, shut, rtol=1e-2)
