"""A program of StableHLO computes what its network does, for any number of images."""

import jax
import numpy as np
import pytest

import se_flax
from se_flax.export import to_stablehlo
from tests.stand_ins import SMALL

# Networks with every form of convolution and pooling that CPUs want (se_flax/layers/cpu.py).
NETWORKS = (
    ("se_resnet18", {**SMALL, "stem": "imagenet", "pool_ceil": True}, 32, 3),
    ("resnet20_cifar", {"stage_sizes": (1, 1), "widths": (4, 8)}, 8, 1),
    ("se_small_cnn", {}, 32, 3),
    pytest.param(
        *("efficientnet_b0", {"width_coefficient": 0.1, "depth_coefficient": 0.1}, 32, 3),
        marks=pytest.mark.slow,
    ),
)


def network_of(name, fields, size, channels):
    """Returns a small network with random variables."""
    network = se_flax.create_model(name, 5, **fields)
    images = np.zeros((1, size, size, channels), np.float32)
    variables = jax.jit(lambda: network.init(jax.random.key(0), images))()
    generator = np.random.default_rng(0)
    return network, jax.tree.map(
        lambda x: np.float32(x * generator.uniform(0.5, 1.5, x.shape) + 0.01), variables
    )


@pytest.mark.parametrize(("name", "fields", "size", "channels"), NETWORKS)
def test_the_program_gives_the_networks_logits_for_any_number_of_images(
    name, fields, size, channels
):
    network, variables = network_of(name, fields, size, channels)
    exported = jax.export.deserialize(bytearray(to_stablehlo(network, variables, size, channels)))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    for n in (1, 3):
        generator = np.random.default_rng(n)
        images = generator.standard_normal((n, size, size, channels), np.float32)
        logits = jax.jit(exported.call)(images)
        expected = jax.jit(lambda variables, x: network.apply(variables, x))(variables, images)
        assert logits.shape == (n, 5)
        assert np.std(expected) > 1e-3
        np.testing.assert_allclose(logits, expected, atol=1e-5 * np.max(np.abs(expected)))


def test_each_platform_gets_its_own_forms():
    network, variables = network_of(*NETWORKS[0])
    exported = jax.export.deserialize(bytearray(to_stablehlo(network, variables, 32)))
    # A branch for CPUs, and one for the others; see jax.lax.platform_dependent.
    assert exported.mlir_module().count("stablehlo.case") >= 5
