"""A network with its weights as a program of StableHLO, by `jax.export`."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

PLATFORMS = ("cpu", "cuda", "tpu")


def to_stablehlo(
    network: nn.Module, variables: Mapping[str, Any], size: int, channels: int = 3
) -> bytes:
    """Returns a network's inference as a serialised program for CPUs, NVIDIA GPUs and TPUs.

        pathlib.Path("net.stablehlo").write_bytes(to_stablehlo(network, variables, 224))

        exported = jax.export.deserialize(bytearray(path.read_bytes()))
        logits = exported.call(images)  # also under jax.jit

    The reader needs JAX, and neither Flax nor se_flax. The program maps prepared images, float32
    [n, size, size, channels], of any number n to logits, float32 [n, number of classes], as
    `network.apply(variables, images, train=False)` does. The weights are constants in it.

    It has the forms of convolution and pooling that CPUs want (`se_flax.layers.cpu`) next to XLA's
    own, and each platform runs its own branch, so that on a CPU it is as fast as the network.

    JAX promises to read such programs for six months after it wrote them.

    Args:
        network: a network.
        variables: its variables.
        size: height and width of its images.
        channels: number of channels of its images.
    """
    held = {kind: variables[kind] for kind in ("params", "batch_stats") if kind in variables}
    inference = jax.jit(lambda images: network.apply(held, images, train=False))
    (n,) = jax.export.symbolic_shape("n")
    images = jax.ShapeDtypeStruct((n, size, size, channels), jnp.float32)
    return bytes(jax.export.export(inference, platforms=PLATFORMS)(images).serialize())
