import jax
import jax.numpy as jnp
import pytest

from se_flax import create_model
from se_flax.models import model_info
from se_flax.models.regnet import NETWORKS, TORCHVISION


# Figures 15 and 16 of the paper: units, widths and group width.
@pytest.mark.parametrize(
    ("name", "units", "widths", "group_width"),
    [
        ("regnet_x_400mf", (1, 2, 7, 12), (32, 64, 160, 384), 16),
        ("regnet_x_1_6gf", (2, 4, 10, 2), (72, 168, 408, 912), 24),
        ("regnet_x_16gf", (2, 6, 13, 1), (256, 512, 896, 2048), 128),
        ("regnet_y_400mf", (1, 3, 6, 6), (48, 104, 208, 440), 8),
        ("regnet_y_8gf", (2, 4, 10, 1), (168, 448, 896, 2016), 56),
        ("regnet_y_16gf", (2, 4, 11, 1), (224, 448, 1232, 3024), 112),
    ],
)
def test_the_stages_are_those_of_the_paper(name, units, widths, group_width):
    stages = model_info(name).fields["stages"]
    assert tuple(stage[0] for stage in stages) == units
    assert tuple(stage[1] for stage in stages) == widths
    assert {stage[2] for stage in stages} == {group_width}


# Millions of parameters in pycls' MODEL_ZOO.md, in the order of `NETWORKS`.
MILLIONS = [5.2, 6.2, 7.3, 9.2, 15.3, 22.1, 26.2, 39.6, 46.1, 54.3]
MILLIONS += [4.3, 6.1, 6.3, 11.2, 19.4, 20.6, 30.6, 39.2, 51.8, 83.6]


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        pytest.param(name, millions, marks=[pytest.mark.slow] * (name[2:] != "400mf"))
        for name, millions in zip(NETWORKS, MILLIONS, strict=True)
    ],
)
def test_has_the_published_number_of_parameters(name, millions):
    model = create_model(f"regnet_{name}")
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3))))
    count = sum(leaf.size for leaf in jax.tree.leaves(params["params"]))
    assert round(count / 1e6, 1) == millions


def test_the_block_has_a_quarter_of_its_units_input():
    model = create_model("regnet_y_400mf")
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3))))
    first, second = (params["params"][f"stage3_unit{j}"]["se"]["reduce"]["kernel"] for j in (1, 2))
    assert first.shape == (208, 104 // 4)
    assert second.shape == (208, 208 // 4)


def test_torchvisions_widths_differ_in_three_networks():
    for name in TORCHVISION:
        own, theirs = (
            model_info(f"regnet_{name}{suffix}").fields["stages"] for suffix in ("", "_torch")
        )
        assert own != theirs
