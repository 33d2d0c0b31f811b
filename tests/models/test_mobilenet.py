import jax
import jax.numpy as jnp
import pytest

from se_flax import create_model


def parameters(name, size=64):
    """The shapes of a network's parameters, and their number."""
    model = create_model(name)
    images = jnp.zeros((1, size, size, 3))
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), images))["params"]
    return params, sum(leaf.size for leaf in jax.tree.leaves(params))


# Exact counts in torchvision's documentation, and timm's of V1; millions in table 3 of the SE paper
# (V1), table 4 of Sandler et al. (V2) and table 3 of Howard et al. 2019 (V3).
@pytest.mark.parametrize(
    ("name", "count", "millions"),
    [
        ("mobilenet_v1", 4_231_976, 4.2),
        ("mobilenet_v2", 3_504_872, 3.4),
        ("mobilenet_v3_large", 5_483_032, 5.4),
        ("mobilenet_v3_small", 2_542_856, 2.5),
    ],
)
def test_has_the_published_number_of_parameters(name, count, millions):
    assert parameters(name)[1] == count
    assert count / 1e6 == pytest.approx(millions, rel=0.04)


def test_se_mobilenet_has_the_se_papers_number_of_parameters():
    assert round(parameters("se_mobilenet_v1")[1] / 1e6, 1) == 4.7


def test_the_blocks_of_v3_have_a_quarter_of_the_expanded_channels_in_multiples_of_8():
    params, _ = parameters("mobilenet_v3_large")
    widths = {
        unit: (layers["se"]["reduce"]["kernel"].shape)
        for unit, layers in params.items()
        if "se" in layers
    }
    # Rows of table 1 with SE: the expanded channels, and a quarter of them, rounded.
    assert list(dict.fromkeys(widths.values())) == [
        (72, 24), (120, 32), (480, 120), (672, 168), (960, 240),
    ]  # fmt: skip
    assert {unit[:6] for unit in widths} == {"stage3", "stage5", "stage6"}


def test_a_block_of_v2_has_a_quarter_of_its_units_input():
    params, _ = parameters("se_mobilenet_v2")
    assert params["stage3_unit2"]["se"]["reduce"]["kernel"].shape == (6 * 32, 32 // 4)


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small"])
def test_the_last_map_has_a_32th_of_the_images_resolution(name):
    model = create_model(name)
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    maps, _ = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x, features=True), images
    )
    assert list(maps.values())[-1].shape[1:3] == (7, 7)
