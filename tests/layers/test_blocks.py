import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from se_flax import create_model
from se_flax.config import build_model, check_config, default_config
from se_flax.errors import UserError
from se_flax.layers.blocks import BLOCKS


@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_keeps_the_shape_of_a_map(name):
    x = jnp.ones((2, 5, 4, 32))
    block = BLOCKS[name]()
    y = block.apply(block.init(jax.random.key(0), x), x)
    assert (y.shape, y.dtype) == (x.shape, x.dtype)


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
