import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from se_flax import SqueezeExcite
from se_flax.layers.make_block import make_block


class Plain(nn.Module):
    """A block that takes no hints."""

    width: int = 4

    def __call__(self, x):
        return x / 2


class Wide(Plain):
    """A block that takes the hint `expansion`."""

    expansion: int = 1


def test_a_factory_gets_the_hints_that_are_among_its_parameters():
    assert make_block(Wide, expansion=6) == Wide(expansion=6, name="se")
    assert make_block(functools.partial(Wide, width=8), name="gate", expansion=6) == Wide(
        width=8, expansion=6, name="gate"
    )


@pytest.mark.parametrize(
    "se",
    [
        Plain,
        functools.partial(Plain, width=4),
        lambda name: Plain(name=name),
        lambda **f: Plain(**f),
    ],
)
def test_a_factory_without_hints_gets_only_its_name(se):
    assert make_block(se, expansion=6) == Plain(name="se")


@pytest.mark.parametrize("inputs", [8, 16, 40, 50])
@pytest.mark.parametrize("reduction", [1, 3, 4, 16, 64])
def test_with_an_expansion_the_reduction_refers_to_the_width_before_it(inputs, reduction):
    block = make_block(functools.partial(SqueezeExcite, reduction=reduction), expansion=6)
    variables = jax.eval_shape(
        lambda: block.init(jax.random.key(0), jnp.zeros((1, 2, 2, 6 * inputs)))
    )
    expected = max(1, inputs // reduction)
    assert variables["params"]["reduce"]["kernel"].shape == (6 * inputs, expected)
