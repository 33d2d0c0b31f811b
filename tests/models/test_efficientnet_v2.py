import jax
import jax.numpy as jnp
import pytest

from se_flax import create_model


# Exact counts in torchvision's documentation; millions in table 7 of the paper, which says 22, 54
# and 120.
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("efficientnet_v2_s", 21_458_488),
        pytest.param("efficientnet_v2_m", 54_139_356, marks=pytest.mark.slow),
        pytest.param("efficientnet_v2_l", 118_515_272, marks=pytest.mark.slow),
    ],
)
def test_has_the_published_number_of_parameters(name, count):
    model = create_model(name)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3))))
    params = params["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count
    # Fused units, which are the first stages, have no SE block.
    with_se = {unit[:6] for unit, layers in params.items() if "se" in layers}
    without = {unit[:6] for unit in params if "unit" in unit} - with_se
    assert without == {"stage1", "stage2", "stage3"}
