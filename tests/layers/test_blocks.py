import functools
import re

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_flax import add_se, create_model
from se_flax.burden import burden
from se_flax.config import build_model, check_config, default_config
from se_flax.errors import UserError
from se_flax.layers.batch_norm import BatchNorm, norm_and_rescale
from se_flax.layers.blocks import BLOCKS
from tests.models.test_base import FAMILIES

# Every block in every form.
FORMS = [
    *((name, {}) for name in BLOCKS),
    *(
        ("gather_excite", {"form": form, "extent": extent})
        for form, extent in [("theta-", 2), ("theta", 0), ("theta", 4), ("theta+", 0)]
    ),
    ("global_context", {"fusion": "scale"}),
]
IDS = ["-".join(map(str, [name, *fields.values()])) for name, fields in FORMS]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("name", "fields"), FORMS, ids=IDS)
def test_every_block_keeps_the_shape_and_type_of_a_map(name, fields, dtype):
    block, x = BLOCKS[name](**fields), jax.ShapeDtypeStruct((2, 3, 5, 4, 32), dtype)
    y, variables = jax.eval_shape(lambda x: block.init_with_output(jax.random.key(0), x), x)
    assert (y.shape, y.dtype) == (x.shape, x.dtype)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} <= {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_after_something_that_is_no_map_is_refused(name, wrong_types):
    with pytest.raises(ValueError, match=r"at least 3 axes|must stand after.*not.*\[4, 16\]"):
        BLOCKS[name]().init(jax.random.key(0), jnp.ones((4, 16)))


class OneConv(nn.Module):
    """A network to add a block to."""

    @nn.compact
    def __call__(self, x, train=False):
        return nn.Conv(32, (1, 1), name="conv")(x)


C, H, D = 32, 6, 2  # channels, height and width, width of the bottleneck


# Parameters and multiply-adds, from the docstrings' formulas.
@pytest.mark.parametrize(
    ("name", "fields", "parameters", "multiply_adds"),
    [
        ("se", {}, 2 * C * D + C + D, 2 * C * D),
        ("ese", {}, C * C + C, C * C),
        ("eca", {}, 3, 3 * C),
        ("cbam", {}, 2 * C * D + 98 + 1, 4 * C * D + 98 * H * H),
        ("gather_excite", {}, 0, 0),
        ("gather_excite", {"extent": 2}, 0, 0),
        ("gather_excite", {"form": "theta"}, (H * H + 1) * C, H * H * C),
        # From 6 x 6 positions to 3 x 3 and 2 x 2.
        ("gather_excite", {"form": "theta", "extent": 4}, 2 * 10 * C, 9 * C * (9 + 4)),
        (
            *("gather_excite", {"form": "theta+", "extent": 2}),
            *(10 * C + 2 * C * D + C + D, 9 * C * 9 + 2 * C * D * 9),
        ),
        ("global_context", {}, 2 * C * D + 2 * C + 3 * D + 1, 2 * C * D + 2 * C * H * H),
    ],
)
def test_a_block_costs_what_its_docstring_says(name, fields, parameters, multiply_adds):
    plain, with_block = (
        burden(OneConv(), H),
        burden(add_se(OneConv(), "conv", se=name, **fields), H),
    )
    assert with_block.parameters - plain.parameters == parameters
    assert with_block.multiply_adds - plain.multiply_adds == multiply_adds


# Networks, and positions in their units.
PLACES = [(network, None) for network in FAMILIES]
PLACES += [("resnet18", placement) for placement in ("pre", "post", "identity")]


# A layer of each block.
LAYERS = {
    "se": "reduce",
    "ese": "expand",
    "eca": "conv",
    "cbam": "reduce",
    "gather_excite": "gather_conv1",
    "global_context": "attend",
}


@functools.cache
def parameters_of(name, network, placement):
    """Returns the paths of the parameters of a small network with blocks."""
    fields = {"form": "theta", "extent": 2} if name == "gather_excite" else {}
    fields |= {"se_placement": placement} if placement else {}
    model = create_model(network, 10, se=name, **FAMILIES[network], **fields)
    x = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), x)
    return set(flax.traverse_util.flatten_dict(variables["params"]))


def places_of_blocks(name, network, placement):
    kernels = {path for path in parameters_of(name, network, placement) if path[-1] == "kernel"}
    return {
        path[:-2] for path in kernels if path[-2] == LAYERS[name] and re.search(r"se\d*$", path[-3])
    }


@pytest.mark.parametrize(
    ("name", "network", "placement"),
    [
        *(("eca", *place) for place in PLACES),
        *(
            pytest.param(name, network, None, marks=pytest.mark.slow)
            for name in LAYERS
            if name not in ("se", "eca")
            for network in ("resnet50", "vgg16_bn", "efficientnet_b0", "regnet_y_400mf", "cnn3")
        ),
    ],
)
def test_every_block_can_stand_wherever_se_can(name, network, placement):
    places = places_of_blocks("se", network, placement)
    assert places
    assert places_of_blocks(name, network, placement) == places


@pytest.mark.parametrize(("network", "placement"), PLACES)
@pytest.mark.parametrize(
    ("name", "norm"), [("cbam", "spatial_bn"), ("gather_excite", "gather_bn1")]
)
def test_networks_with_batch_norm_give_it_to_their_blocks(name, norm, network, placement):
    has_norms = network not in ("small_cnn", "cnn3")
    assert any(path[-2] == norm for path in parameters_of(name, network, placement)) == has_norms


@pytest.mark.parametrize("name", ["se", "ese", "eca", "gather_excite"])
def test_blocks_that_need_only_means_are_joined_with_the_batch_norm_before_them(name):
    class Apart(nn.Module):
        @nn.compact
        def __call__(self, x, joined):
            norm = BatchNorm(use_running_average=False, name="bn")
            block = BLOCKS[name](name="block")
            return norm_and_rescale(norm, block, x) if joined else block(norm(x))

    x = 2 + jax.random.normal(jax.random.key(0), (4, 5, 3, 32))
    variables = Apart().init(jax.random.key(1), x, joined=True)
    variables["params"]["bn"] = {"scale": jnp.linspace(0.5, 2, 32), "bias": jnp.linspace(-1, 2, 32)}

    def output(x, joined):
        return Apart().apply(variables, x, joined, mutable=["batch_stats"])[0]

    def passes(joined):
        """Returns how many operations read or write something as large as the map."""
        equations = jax.make_jaxpr(functools.partial(output, joined=joined))(x).eqns
        return sum(
            "reduce" in str(e.primitive) and e.invars[0].aval.size == x.size for e in equations
        )

    np.testing.assert_allclose(output(x, True), output(x, False), rtol=1e-4, atol=1e-5)
    assert passes(joined=True) < passes(joined=False)


@pytest.mark.parametrize("network", ["se_resnet20_cifar", "resnet20_cifar"])
def test_a_config_chooses_the_block_of_a_network_by_name(network):
    config = default_config()
    config.model.name = network
    config.model.overrides.update({"se": "bump", "reduction": 8, "stage_sizes": (1,)})
    config.model.overrides.widths = (16,)
    check_config(config)
    model = build_model(config, num_classes=10)
    images = jnp.zeros((1, 32, 32, 3))
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), images))["params"]
    block = params["stage1_unit1"]["se"]
    assert block["hidden2"]["kernel"].shape == (2, 2)


def test_a_misspelt_block_is_reported_with_the_nearest_name():
    with pytest.raises(UserError, match=r'no block "bumb" \(did you mean "bump"\?\)'):
        create_model("se_resnet50", se="bumb")


def test_fields_are_those_of_the_block_that_is_chosen():
    class Scale(nn.Module):
        factor: float = 1.0

        @nn.compact
        def __call__(self, x):
            return self.factor * x

    model = create_model("se_resnet50", se=Scale, factor=2.0)
    assert model.se.keywords == {"factor": 2.0}
    with pytest.raises(UserError, match=r'no field "reduction".* of its SE blocks factor'):
        create_model("se_resnet50", se=Scale, reduction=4)
