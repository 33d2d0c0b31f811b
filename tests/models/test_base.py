import fnmatch
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_flax import SqueezeExcite, create_model, list_models
from se_flax.errors import UserError
from se_flax.models import model_info
from se_flax.models.base import Network

# Each family's networks, and each residual unit, in a form small enough to compute with.
FAMILIES = {
    "resnet18": {"stage_sizes": (1, 2), "widths": (8, 16)},
    "resnet50": {"stage_sizes": (1, 2), "widths": (8, 16)},
    "preact_resnet110_cifar": {"stage_sizes": (1, 2), "widths": (8, 16)},
    "preact_resnet164_cifar": {"stage_sizes": (1, 2), "widths": (8, 16)},
    "vgg16_bn": {"stage_sizes": (1, 1), "widths": (8, 16)},
    "efficientnet_b0": {"width_coefficient": 0.25, "depth_coefficient": 0.3},
    "mobilenet_v1": {"stages": ((1, 16, 1), (1, 16, 2))},
    "mobilenet_v2": {"stages": ((1, 16, 1, 1), (2, 16, 2, 2))},
    "mobilenet_v3_small": {
        "stages": model_info("mobilenet_v3_small").fields["stages"][:1],
        "head": 16,
        "hidden": 8,
    },
    "efficientnet_v2_s": {"stages": ((True, 1, 8, 1, 1), (True, 1, 8, 2, 2), (False, 1, 8, 2, 2))},
    "shufflenet": {"stage_sizes": (2,), "widths": (48,)},
    "shake_shake26_2x96d_cifar": {"stage_sizes": (1, 1), "widths": (8, 16)},
    "regnet_y_400mf": {"stages": ((1, 16, 8), (1, 24, 8))},
    "resnetrs50": {"stage_sizes": (1, 2), "widths": (8, 16)},
    "bn_inception": {
        "stages": tuple(stage[:1] for stage in model_info("bn_inception").fields["stages"])
    },
    "small_cnn": {"widths": (8, 8), "hidden": 8},
    "cnn3": {"widths": (8, 8)},
}


# Of each family, the small networks are tested always.
LARGE = ("*101*", "*110*", "*152*", "*154*", "*164*", "*inception_resnet*")
LARGE += ("*efficientnet_b[2-7]", "*efficientnet_b[1-7]_*", "*efficientnet_v2_*")
LARGE += ("*mobilenet_v3_*_t*", "*regnet_x_*", "*regnet_y_[!4]*", "*regnet_y_4gf", "*resnet*[48]d")
LARGE += ("*200*", "*_b4_*")
SLOW = ("mobilenet_v1", "mobilenet_v2", "efficientnet_v2_s", "resnetrs50")
SLOW += ("shufflenet", "shake_shake26_2x96d_cifar")


def is_large(name):
    return any(fnmatch.fnmatch(name, pattern) for pattern in LARGE)


def all_networks():
    """Yields every network, but only one of each large one with SE and without."""
    names = list_models()
    for name in names:
        if not is_large(name):
            yield name
        elif not name.startswith("se_") or name.removeprefix("se_") not in names:
            yield pytest.param(name, marks=pytest.mark.slow)


class Doubled(nn.Module):
    """A user's block, with parameters and no fields that SqueezeExcite has."""

    offset: float = 0.0

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        return (2 * scale + self.offset).astype(x.dtype) * x


@pytest.mark.parametrize("name", all_networks())
def test_every_network_gives_logits_and_maps_named_by_stage(name):
    model, size = create_model(name, num_classes=7), model_info(name).input_size
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    names = []

    def logits_and_maps(images):
        logits, variables = model.init_with_output(jax.random.key(0), images, train=False)
        maps = model.apply(variables, images, features=True)
        names.extend(maps)
        return logits, list(maps.values())

    logits, maps = jax.eval_shape(logits_and_maps, images)
    assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)
    stages = [n for n in names if n != "head"]
    assert stages == [f"stage{i}" for i in range(1, len(stages) + 1)]
    assert names in (stages, [*stages, "head"])
    assert all(y.ndim == 4 and len(y) == 2 for y in maps)
    heights = [y.shape[1] for y in maps]
    assert heights == sorted(heights, reverse=True)


@pytest.mark.parametrize("name", FAMILIES)
def test_an_input_that_is_not_a_batch_of_images_is_refused(name, wrong_types):
    model = create_model(name, 10, **FAMILIES[name])
    for shape in [(32, 32, 3), (1, 1, 32, 32, 3)]:
        with pytest.raises(UserError, match=r"\[n, height, width, channels\], not.*image\[None\]"):
            jax.eval_shape(lambda s=shape: model.init(jax.random.key(0), jnp.zeros(s)))


def test_images_too_small_for_a_feature_map_are_refused():
    for name in ("vgg16", "small_cnn", "cnn3", "inception_v3"):
        with pytest.raises(UserError, match="images of 5 x 6 are too small"):
            jax.eval_shape(
                lambda n=name: create_model(n).init(jax.random.key(0), jnp.zeros((1, 5, 6, 3)))
            )


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in FAMILIES]
)
def test_a_users_block_rescales_in_every_family(name):
    x = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    doubling, leaving = (
        create_model(name, 10, se=functools.partial(Doubled, offset=offset), **FAMILIES[name])
        for offset in (0.0, -1.0)
    )
    # In cnn3 the block replaces a convolution, so there is no plain counterpart.
    plain = leaving if name == "cnn3" else create_model(name, 10, se=None, **FAMILIES[name])

    @jax.jit
    def logits(key):
        variables = doubling.init(key, x)
        return [model.apply(variables, x) for model in (doubling, leaving, plain)]

    doubled, left, without = logits(jax.random.key(1))
    np.testing.assert_allclose(left, without, rtol=1e-4, atol=1e-5)
    assert np.all(np.isfinite(doubled))
    assert not np.allclose(doubled, left, rtol=1e-3)


def test_a_network_is_its_fields_and_feature_maps():
    class Tiny(Network, kw_only=True):
        width: int = 8

        def feature_maps(self, x, train):
            conv, norm = self.make_conv(use_bias=False), self.make_norm(train)
            x = jax.nn.relu(norm(name="bn")(conv(self.width, (3, 3), name="conv")(x)))
            return {"stage1": self.rescale(x, name="se")}

    model = Tiny(num_classes=3, dropout=0.5, se=SqueezeExcite, dtype=jnp.bfloat16)
    x = jax.random.normal(jax.random.key(0), (2, 6, 6, 3))
    variables = model.init(jax.random.key(1), x)
    assert set(variables["params"]) == {"conv", "bn", "se", "classifier"}
    maps = model.apply(variables, x, features=True)
    assert (maps["stage1"].shape, maps["stage1"].dtype) == ((2, 6, 6, 8), jnp.bfloat16)
    logits = model.apply(variables, x)
    classifier = variables["params"]["classifier"]
    mean = jnp.mean(maps["stage1"].astype(jnp.float32), axis=(1, 2))
    expected = mean @ classifier["kernel"] + classifier["bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
    trained, state = model.apply(
        variables, x, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(2)}
    )
    assert trained.shape == (2, 3)
    moved = jax.tree.map(
        lambda a, b: bool(jnp.any(a != b)), variables["batch_stats"], dict(state)["batch_stats"]
    )
    assert all(jax.tree.leaves(moved))
