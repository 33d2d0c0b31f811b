"""AutoAugment with its published policies, and RandAugment."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from se_flax.data.augment.erasing import Image
from se_flax.data.augment.ops import OPERATIONS, WARPS, Steps, apply_step
from se_flax.errors import check_choice

Choice = tuple[str, float, int]


@dataclasses.dataclass(frozen=True)
class Policy:
    """Sub-policies, one of which an image undergoes.

    Attributes:
        sub_policies: each two choices: operation, probability and level from 0 to 10.
        argument: what an operation takes at a level.
    """

    sub_policies: tuple[tuple[Choice, Choice], ...]
    argument: Callable[[str, float], float]


def _tpu_argument(
    operation: str, level: float, translate: float = 250, half_cutout: float = 100
) -> float:
    """Returns the argument at a level as EfficientNet's code for TPUs has it.

    Of 0 bits it keeps 1, as TensorFlow's shifts do, and of more than 8 all.
    """
    share = level / 10
    match operation:
        case "shear_x" | "shear_y":
            return share * 0.3
        case "translate_x" | "translate_y":
            return share * translate
        case "rotate":
            return share * 30
        case "posterize":
            return min(max(int(share * 4), 1), 8)
        case "solarize":
            return int(share * 256)
        case "solarize_add":
            return int(share * 110)
        case "brightness" | "contrast" | "color" | "sharpness":
            return share * 1.8 + 0.1
        case "cutout":
            return int(share * half_cutout)
    return 0


def _research_argument(operation: str, level: float) -> float:
    """Returns the argument at a level as AutoAugment's code for CIFAR has it."""
    match operation:
        case "posterize":
            return 4 - int(level * 4 / 10)
        case "solarize":
            return 256 - int(level * 256 / 10)
    return _tpu_argument(operation, level, translate=10)


_IMAGENET = (
    (("equalize", 0.8, 1), ("shear_y", 0.8, 4)),
    (("color", 0.4, 9), ("equalize", 0.6, 3)),
    (("color", 0.4, 1), ("rotate", 0.6, 8)),
    (("solarize", 0.8, 3), ("equalize", 0.4, 7)),
    (("solarize", 0.4, 2), ("solarize", 0.6, 2)),
    (("color", 0.2, 0), ("equalize", 0.8, 8)),
    (("equalize", 0.4, 8), ("solarize_add", 0.8, 3)),
    (("shear_x", 0.2, 9), ("rotate", 0.6, 8)),
    (("color", 0.6, 1), ("equalize", 1.0, 2)),
    (("invert", 0.4, 9), ("rotate", 0.6, 0)),
    (("equalize", 1.0, 9), ("shear_y", 0.6, 3)),
    (("color", 0.4, 7), ("equalize", 0.6, 0)),
    (("posterize", 0.4, 6), ("auto_contrast", 0.4, 7)),
    (("solarize", 0.6, 8), ("color", 0.6, 9)),
    (("solarize", 0.2, 4), ("rotate", 0.8, 9)),
    (("rotate", 1.0, 7), ("translate_y", 0.8, 9)),
    (("shear_x", 0.0, 0), ("solarize", 0.8, 4)),
    (("shear_y", 0.8, 0), ("color", 0.6, 4)),
    (("color", 1.0, 0), ("rotate", 0.6, 2)),
    (("equalize", 0.8, 4), ("equalize", 0.0, 8)),
    (("equalize", 1.0, 4), ("auto_contrast", 0.6, 2)),
    (("shear_y", 0.4, 7), ("solarize_add", 0.6, 7)),
    (("posterize", 0.8, 2), ("solarize", 0.6, 10)),
    (("solarize", 0.6, 8), ("equalize", 0.6, 1)),
    (("color", 0.8, 6), ("rotate", 0.4, 5)),
)

_CIFAR10 = (
    (("invert", 0.1, 0), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
    (("auto_contrast", 0.5, 0), ("equalize", 0.9, 0)),
    (("shear_y", 0.2, 7), ("posterize", 0.3, 7)),
    (("color", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalize", 0.6, 0), ("equalize", 0.5, 0)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("color", 0.7, 7), ("translate_x", 0.5, 8)),
    (("equalize", 0.3, 0), ("auto_contrast", 0.4, 0)),
    (("translate_y", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("color", 0.2, 8)),
    (("solarize", 0.5, 2), ("invert", 0.0, 0)),
    (("equalize", 0.2, 0), ("auto_contrast", 0.6, 0)),
    (("equalize", 0.2, 0), ("equalize", 0.6, 0)),
    (("color", 0.9, 9), ("equalize", 0.6, 0)),
    (("auto_contrast", 0.8, 0), ("solarize", 0.2, 8)),
    (("brightness", 0.1, 3), ("color", 0.7, 0)),
    (("solarize", 0.4, 5), ("auto_contrast", 0.9, 0)),
    (("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
    (("auto_contrast", 0.9, 0), ("solarize", 0.8, 3)),
    (("equalize", 0.8, 0), ("invert", 0.1, 0)),
    (("translate_y", 0.7, 9), ("auto_contrast", 0.9, 0)),
)

_SVHN = (
    (("shear_x", 0.9, 4), ("invert", 0.2, 0)),
    (("shear_y", 0.9, 8), ("invert", 0.7, 0)),
    (("equalize", 0.6, 0), ("solarize", 0.6, 6)),
    (("invert", 0.9, 0), ("equalize", 0.6, 0)),
    (("equalize", 0.6, 0), ("rotate", 0.9, 3)),
    (("shear_x", 0.9, 4), ("auto_contrast", 0.8, 0)),
    (("shear_y", 0.9, 8), ("invert", 0.4, 0)),
    (("shear_y", 0.9, 5), ("solarize", 0.2, 6)),
    (("invert", 0.9, 0), ("auto_contrast", 0.8, 0)),
    (("equalize", 0.6, 0), ("rotate", 0.9, 3)),
    (("shear_x", 0.9, 4), ("solarize", 0.3, 3)),
    (("shear_y", 0.8, 8), ("invert", 0.7, 0)),
    (("equalize", 0.9, 0), ("translate_y", 0.6, 6)),
    (("invert", 0.9, 0), ("equalize", 0.6, 0)),
    (("contrast", 0.3, 3), ("rotate", 0.8, 4)),
    (("invert", 0.8, 0), ("translate_y", 0.0, 2)),
    (("shear_y", 0.7, 6), ("solarize", 0.4, 8)),
    (("invert", 0.6, 0), ("rotate", 0.8, 4)),
    (("shear_y", 0.3, 7), ("translate_x", 0.9, 3)),
    (("shear_x", 0.1, 6), ("invert", 0.6, 0)),
    (("solarize", 0.7, 2), ("translate_y", 0.6, 7)),
    (("shear_y", 0.8, 4), ("invert", 0.8, 0)),
    (("shear_x", 0.7, 9), ("translate_y", 0.8, 3)),
    (("shear_y", 0.8, 5), ("auto_contrast", 0.7, 0)),
    (("shear_x", 0.7, 2), ("invert", 0.1, 0)),
)

POLICIES = {
    "autoaugment_imagenet": Policy(_IMAGENET, _tpu_argument),
    "autoaugment_cifar10": Policy(_CIFAR10, _research_argument),
    "autoaugment_svhn": Policy(_SVHN, _research_argument),
}
"""The published policies of AutoAugment, each with the levels of the code it was published with.

For ImageNet the policy v0 of EfficientNet's code (tensorflow/tpu, models/official/efficientnet/
autoaugment.py), which is not the paper's table 8. It moves images by up to 250 pixels: at level 9,
one of 224 is moved out of sight. For CIFAR and SVHN the 25 sub-policies of the paper's tables 7 and
9, with the levels of its code (tensorflow/models, research/autoaugment), which moves images of
32x32 by up to 10 pixels, and at higher levels posterises and solarises more, not less. An
operation that has no level is given 0 there.

Some things are alike for all policies where these codes differ, from each other or from Pillow.
What a warp leaves empty is grey of 128, as in EfficientNet's code; the paper's leaves it black for
operations on values that follow, and in the end the data's mean. Colour, contrast and shear are
Pillow's; EfficientNet's code takes the number of pixels / 256 for the mean that contrast needs,
truncates where Pillow rounds luma, and shears around the first pixel's centre, not its corner.
"""

_RAND_AUGMENT = (
    *("auto_contrast", "equalize", "invert", "rotate", "posterize", "solarize", "color"),
    *("contrast", "brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y"),
    *("cutout", "solarize_add"),
)


def _steps(key: Key[Array, ""], operation: Int[Array, " n"], argument: Float[Array, " n"]) -> Steps:
    """Makes the arguments of warps negative half of the time, and adds keys."""
    sign_key, cutout_key = jax.random.split(key)
    is_warp = jnp.asarray([name in WARPS for name in OPERATIONS])[operation]
    negative = is_warp & jax.random.bernoulli(sign_key, shape=operation.shape)
    argument = jnp.where(negative, -argument, argument)
    return Steps(operation, argument, jax.random.split(cutout_key, operation.shape))


def draw_auto_augment(key: Key[Array, ""], policy: str) -> Steps:
    """Draws the two steps of one sub-policy; one that is not taken is the identity.

    Raises:
        UserError: there is no such policy.
    """
    check_choice("augmentation policy", policy, POLICIES)
    sub_policies, argument_at = POLICIES[policy].sub_policies, POLICIES[policy].argument
    choices = [choice for sub_policy in sub_policies for choice in sub_policy]
    operations = np.array([OPERATIONS.index(name) for name, _, _ in choices])
    probabilities = np.float32([probability for _, probability, _ in choices])
    arguments = np.float32([argument_at(name, level) for name, _, level in choices])

    chosen_key, taken_key, steps_key = jax.random.split(key, 3)
    chosen = 2 * jax.random.randint(chosen_key, (), 0, len(sub_policies)) + jnp.arange(2)
    taken = jax.random.uniform(taken_key, (2,)) < jnp.asarray(probabilities)[chosen]
    operation = jnp.where(taken, jnp.asarray(operations)[chosen], 0)
    return _steps(steps_key, operation, jnp.asarray(arguments)[chosen])


def draw_rand_augment(key: Key[Array, ""], num_layers: int, magnitude: float) -> Steps:
    """Draws `num_layers` of RandAugment's operations, all at the level `magnitude`."""
    operations = np.array([OPERATIONS.index(name) for name in _RAND_AUGMENT])
    arguments = np.float32(
        [_tpu_argument(name, magnitude, translate=100, half_cutout=40) for name in _RAND_AUGMENT]
    )
    chosen_key, steps_key = jax.random.split(key)
    chosen = jax.random.randint(chosen_key, (num_layers,), 0, len(operations))
    return _steps(steps_key, jnp.asarray(operations)[chosen], jnp.asarray(arguments)[chosen])


def auto_augment(key: Key[Array, ""], image: Image, policy: str) -> Image:
    """Applies one sub-policy of a policy, chosen at random.

    Cubuk et al., 2019, arXiv:1805.09501, section 3: each of its two operations is applied with its
    probability, and warps go either way.

    Args:
        key: for all choices.
        image: float32 [h, w, 1 or 3] of whole values from 0 to 255.
        policy: one of `POLICIES`, which tells their levels.

    Raises:
        UserError: there is no such policy.
    """
    steps = draw_auto_augment(key, policy)
    for i, choices in enumerate(zip(*POLICIES[policy].sub_policies, strict=True)):
        possible = [operation for operation, _, _ in choices]
        image = apply_step(image, jax.tree.map(lambda x, i=i: x[i], steps), possible)
    return image


def rand_augment(
    key: Key[Array, ""], image: Image, num_layers: int = 2, magnitude: float = 9
) -> Image:
    """Applies operations chosen at random, all at one level.

    Cubuk et al., 2019, arXiv:1909.13719, section 3, with the 16 operations and the levels of
    EfficientNet's code: warps go either way, translations reach 100 pixels at level 10, and
    cutout 40 to each side. Levels beyond 10 are used there and mean more of the same; solarising
    then leaves all values as they are, and so does posterising from level 20 on.

    Args:
        key: for all choices.
        image: float32 [h, w, 1 or 3] of whole values from 0 to 255.
        num_layers: operations applied, N in the paper.
        magnitude: their level, M in the paper.
    """
    steps = draw_rand_augment(key, num_layers, magnitude)
    for i in range(num_layers):
        image = apply_step(image, jax.tree.map(lambda x, i=i: x[i], steps), _RAND_AUGMENT)
    return image
