import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_flax.layers.batch_norm import BatchNorm, norm_and_rescale
from se_flax.layers.squeeze_excite import SqueezeExcite
from se_flax.models.registry import create_model


class Both(nn.Module):
    """A batch norm and an SE block, together or one after the other."""

    together: bool
    train: bool = True
    block: type[nn.Module] = functools.partial(SqueezeExcite, reduction=2)
    axis_name: str | None = None
    dtype: type = jnp.float32

    @nn.compact
    def __call__(self, y):
        norm = (BatchNorm if self.together else nn.BatchNorm)(
            not self.train,
            momentum=0.9,
            epsilon=1e-3,
            axis_name=self.axis_name,
            dtype=self.dtype,
            scale_init=nn.initializers.normal(),
            bias_init=nn.initializers.normal(),
            name="bn",
        )
        return norm_and_rescale(norm, self.block(name="se"), y)


@pytest.fixture
def y():
    noise = jax.random.normal(jax.random.key(0), (4, 5, 6, 8))
    return noise * jnp.arange(1, 9) + jnp.arange(8) ** 2


@pytest.fixture
def variables(y):
    drawn = Both(together=True).init(jax.random.key(1), y)
    stats = {"mean": jnp.arange(8.0), "var": jnp.linspace(0.5, 2, 8)}
    return {"params": drawn["params"], "batch_stats": {"bn": stats}}


def results(module, variables, y):
    """Returns the output, the statistics, the gate, and the gradients of an uneven sum."""

    def weighted(params, y):
        output, updated = module.apply(
            {**variables, "params": params}, y, mutable=["batch_stats", "intermediates"]
        )
        weights = jax.random.normal(jax.random.key(2), output.shape)
        return jnp.sum(weights * output), (output, updated)

    gradients, others = jax.grad(weighted, (0, 1), has_aux=True)(variables["params"], y)
    return gradients, others


def assert_equal(ours, expected, rtol):
    assert jax.tree.structure(ours) == jax.tree.structure(expected)
    for our_leaf, leaf in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(our_leaf, leaf, rtol=0, atol=rtol * np.max(np.abs(leaf)))


def test_variables_are_those_of_a_norm_and_a_block(y):
    ours, expected = (Both(together).init(jax.random.key(1), y) for together in (True, False))
    jax.tree.map(np.testing.assert_array_equal, ours, expected)


@pytest.mark.parametrize("train", [True, False])
def test_values_statistics_gates_and_gradients_are_those_of_norm_and_block(y, variables, train):
    with jax.enable_x64(True):
        args = jax.tree.map(np.float64, (variables, y))
        ours, expected = (
            results(Both(together, train, dtype=jnp.float64), *args) for together in (True, False)
        )
    assert_equal(ours, expected, rtol=1e-6)  # the block alone averages in float32


def test_statistics_are_averaged_over_a_mapped_axis(y, variables):
    whole = Both(together=True).apply(variables, y, mutable=["batch_stats"])
    module = Both(together=True, axis_name="devices")
    parts, updated = jax.vmap(
        lambda part: module.apply(variables, part, mutable=["batch_stats"]), axis_name="devices"
    )(y.reshape(2, 2, 5, 6, 8))
    assert_equal(parts.reshape(y.shape), whole[0], rtol=1e-5)
    for device in range(2):
        assert_equal(jax.tree.map(lambda x, d=device: x[d], updated), whole[1], rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_output_and_gate_have_the_type_of_the_norm(y, variables, dtype):
    ours, expected = (
        Both(together, dtype=dtype).apply(
            variables, y.astype(dtype), mutable=["batch_stats", "intermediates"]
        )
        for together in (True, False)
    )
    assert jax.tree.map(jnp.result_type, ours) == jax.tree.map(jnp.result_type, expected)
    np.testing.assert_allclose(ours[0], expected[0].astype(jnp.float32), rtol=0, atol=0.1)


class Halve(nn.Module):
    """A user's block."""

    @nn.compact
    def __call__(self, x):
        return x / 2


class Reversed(SqueezeExcite):
    """A user's variant of the block."""

    def __call__(self, x):
        return super().__call__(x[:, ::-1])


@pytest.mark.parametrize(
    "block",
    [
        Halve,
        functools.partial(Reversed, reduction=2),
        functools.partial(SqueezeExcite, squeeze="max"),
        functools.partial(SqueezeExcite, squeeze="none"),
        functools.partial(SqueezeExcite, spatial_dims=1),
    ],
)
def test_other_blocks_are_called_with_the_normalised_map(y, block):
    modules = [Both(together, block=block) for together in (True, False)]
    variables = modules[0].init(jax.random.key(1), y)
    ours, expected = (module.apply(variables, y, mutable=["batch_stats"]) for module in modules)
    jax.tree.map(np.testing.assert_array_equal, ours, expected)


def test_a_mean_that_is_large_compared_with_the_spread_costs_digits_only_at_first(variables):
    # In float32, the squares of 1e4 are exact to 8, and the variance is 1.
    noise = jax.random.normal(jax.random.key(3), (8, 16, 16, 8))
    y = noise + 1e4
    exact = np.var(np.asarray(y, np.float64), (0, 1, 2))

    def variance(running_mean):
        stats = {"mean": jnp.full(8, running_mean), "var": jnp.zeros(8)}
        _, updated = Both(together=True).apply(
            {"params": variables["params"], "batch_stats": {"bn": stats}},
            y,
            mutable=["batch_stats"],
        )
        return updated["batch_stats"]["bn"]["var"] / 0.1

    assert np.max(np.abs(variance(0.0) / exact - 1)) > 0.1
    # After 50 updates, the running mean is within 0.9^50 = 0.5% of the mean.
    np.testing.assert_allclose(variance(1e4 * (1 - 0.9**50)), exact, rtol=1e-3)
    np.testing.assert_allclose(variance(1e4), exact, rtol=1e-5)


def passes(function, *args):
    """Returns how many sums over a whole map the program of a function has."""
    jaxpr = jax.make_jaxpr(function)(*args)
    sums = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "reduce_sum"]
    return len([eqn for eqn in sums if eqn.invars[0].aval.ndim == 4])


@pytest.mark.parametrize(("train", "together", "apart"), [(True, 2, 3), (False, 1, 1)])
def test_the_squeeze_takes_no_pass_of_its_own(y, variables, train, together, apart):
    for module, expected in ((Both(True, train), together), (Both(False, train), apart)):
        apply = functools.partial(module.apply, mutable=["batch_stats"])
        assert passes(apply, variables, y) == expected


def test_inference_in_half_precision_is_that_of_norm_and_block(y, variables):
    ours, expected = (
        Both(together, train=False, dtype=jnp.bfloat16).apply(variables, y.astype(jnp.bfloat16))
        for together in (True, False)
    )
    np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize(
    ("name", "fields", "calls"),
    [
        ("se_resnet20_cifar", {}, 9),
        ("se_resnet20_cifar", {"se_stages": (3,)}, 3),
        ("se_resnet50", {"stage_sizes": (1, 2), "widths": (8, 16)}, 3),
        ("se_resnet50", {"stage_sizes": (1, 2), "widths": (8, 16), "se_placement": "identity"}, 2),
        ("se_resnet20_cifar", {"se_placement": "post"}, 0),
        ("se_preact_resnet110_cifar", {"stage_sizes": (1, 2), "widths": (8, 16)}, 0),
    ],
)
def test_residual_networks_join_every_block_that_follows_a_norm(monkeypatch, name, fields, calls):
    joined = []
    rescaled = BatchNorm.rescaled
    monkeypatch.setattr(
        BatchNorm, "rescaled", lambda self, *args: joined.append(self) or rescaled(self, *args)
    )
    model = create_model(name, 10, **fields)
    jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))
    assert len(joined) == calls
