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

_BLENDS = ("color", "contrast", "brightness", "sharpness")


@dataclasses.dataclass(frozen=True)
class Policy:
    """An AutoAugment policy. Each image gets one of its sub-policies, chosen at random.

    Attributes:
        sub_policies: pairs of (operation, probability, level from 0 to 10).
        argument: returns the second argument of an operation at a level.
        two_sided: whether a blend's argument is a distance from 1, which is the image itself, to
            either side with equal probability.
    """

    sub_policies: tuple[tuple[Choice, Choice], ...]
    argument: Callable[[str, float], float]
    two_sided: bool = False


def _tpu_argument(
    operation: str, level: float, translate: float = 250, half_cutout: float = 100
) -> float:
    """Returns an operation's argument at a level, as in EfficientNet's code for TPUs."""
    strength = level / 10
    match operation:
        case "shear_x" | "shear_y":
            return strength * 0.3
        case "translate_x" | "translate_y":
            return strength * translate
        case "rotate":
            return strength * 30
        case "posterize":
            # TensorFlow's shifts keep 1 bit instead of 0, and all 8 instead of more.
            return min(max(int(strength * 4), 1), 8)
        case "solarize":
            return int(strength * 256)
        case "solarize_add":
            return int(strength * 110)
        case "brightness" | "contrast" | "color" | "sharpness":
            return strength * 1.8 + 0.1
        case "cutout":
            return int(strength * half_cutout)
    return 0


def _research_argument(operation: str, level: float) -> float:
    """Returns an operation's argument at a level, as in AutoAugment's code for CIFAR."""
    match operation:
        case "posterize":
            return 4 - int(level * 4 / 10)
        case "solarize":
            return 256 - int(level * 256 / 10)
    return _tpu_argument(operation, level, translate=10)


def _torchvision_argument(operation: str, level: float) -> float:
    """Returns an operation's argument at a level from 0 to 9, as in torchvision."""
    match operation:
        case "posterize":
            return 8 - round(level * 4 / 9)
        case "solarize":
            return 255 - 255 * level / 9
        case "brightness" | "color" | "contrast" | "sharpness":
            return 0.9 * level / 9
    return _tpu_argument(operation, level * 10 / 9)


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

_IMAGENET_PAPER = (
    (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
    (("solarize", 0.6, 5), ("auto_contrast", 0.6, 0)),
    (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
    (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
    (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
    (("equalize", 0.4, 0), ("rotate", 0.8, 8)),
    (("solarize", 0.6, 3), ("equalize", 0.6, 0)),
    (("posterize", 0.8, 5), ("equalize", 1.0, 0)),
    (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
    (("equalize", 0.6, 0), ("posterize", 0.4, 6)),
    (("rotate", 0.8, 8), ("color", 0.4, 0)),
    (("rotate", 0.4, 9), ("equalize", 0.6, 0)),
    (("equalize", 0.0, 0), ("equalize", 0.8, 0)),
    (("invert", 0.6, 0), ("equalize", 1.0, 0)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("rotate", 0.8, 8), ("color", 1.0, 2)),
    (("color", 0.8, 8), ("solarize", 0.8, 7)),
    (("sharpness", 0.4, 7), ("invert", 0.6, 0)),
    (("shear_x", 0.6, 5), ("equalize", 1.0, 0)),
    (("color", 0.4, 0), ("equalize", 0.6, 0)),
    (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
    (("solarize", 0.6, 5), ("auto_contrast", 0.6, 0)),
    (("invert", 0.6, 0), ("equalize", 1.0, 0)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
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
    "autoaugment_imagenet_torchvision": Policy(_IMAGENET_PAPER, _torchvision_argument, True),
}
"""The published policies of AutoAugment, by name, each with the levels of its published code.

- ImageNet: policy v0 of EfficientNet's code (tensorflow/tpu, models/official/efficientnet/
  autoaugment.py), which differs from the policy in the paper's appendix. It translates by up to
  250 pixels: at level 9, an image of 224x224 leaves the frame.
- ImageNet, as in torchvision: the policy in the paper's appendix, with the levels of torchvision's
  `AutoAugment`. Colour, contrast or sharpness is weakened or strengthened, each half of the time.
- CIFAR-10 and SVHN: the 25 sub-policies in the paper's appendix, with the levels of the
  paper's code (tensorflow/models, research/autoaugment). It translates images of 32x32 by up to
  10 pixels. Higher levels posterise and solarise more; in EfficientNet's code they do so less.

Operations that take no argument have level 0 here if the source gives them no level.

Where the two implementations differ from each other or from Pillow, all policies here do the same:

- A warp leaves empty pixels grey (128), as in EfficientNet's code. In the paper's code, later
  operations see them as black, and in the final image they have the data's mean.
- Colour, contrast and shear are Pillow's. EfficientNet's code uses the number of pixels / 256 as
  the mean for contrast, truncates luma where Pillow rounds it, and shears around the centre of
  the first pixel instead of its corner.
"""

_RAND_AUGMENT = (
    *("auto_contrast", "equalize", "invert", "rotate", "posterize", "solarize", "color"),
    *("contrast", "brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y"),
    *("cutout", "solarize_add"),
)


def _steps(
    key: Key[Array, ""],
    operation: Int[Array, " n"],
    argument: Float[Array, " n"],
    two_sided: bool = False,
) -> Steps:
    """Negates the arguments of warps with probability 1/2, and adds keys; see `Policy`."""
    sign_key, cutout_key = jax.random.split(key)
    has_sign = jnp.asarray([name in WARPS for name in OPERATIONS])[operation]
    is_blend = jnp.asarray([two_sided and name in _BLENDS for name in OPERATIONS])[operation]
    negative = (has_sign | is_blend) & jax.random.bernoulli(sign_key, shape=operation.shape)
    argument = jnp.where(negative, -argument, argument)
    argument = jnp.where(is_blend, 1 + argument, argument)
    return Steps(operation, argument, jax.random.split(cutout_key, operation.shape))


def draw_auto_augment(key: Key[Array, ""], policy: str) -> Steps:
    """Draws a sub-policy and returns its two steps. A step that is not taken is the identity.

    Raises:
        UserError: if the policy is unknown.
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
    two_sided = POLICIES[policy].two_sided
    return _steps(steps_key, operation, jnp.asarray(arguments)[chosen], two_sided)


def draw_rand_augment(key: Key[Array, ""], num_ops: int, magnitude: float) -> Steps:
    """Draws `num_ops` of RandAugment's operations, all at level `magnitude`."""
    operations = np.array([OPERATIONS.index(name) for name in _RAND_AUGMENT])
    arguments = np.float32(
        [_tpu_argument(name, magnitude, translate=100, half_cutout=40) for name in _RAND_AUGMENT]
    )
    chosen_key, steps_key = jax.random.split(key)
    chosen = jax.random.randint(chosen_key, (num_ops,), 0, len(operations))
    return _steps(steps_key, jnp.asarray(operations)[chosen], jnp.asarray(arguments)[chosen])


_RAND_AUGMENT_TIMM = tuple(name for name in _RAND_AUGMENT if name != "cutout")


def _increasing_arguments(
    level: Float[Array, " n"], sign: Float[Array, " n"], shape: tuple[int, ...]
) -> Float[Array, "15 n"]:
    """Returns the argument of each of timm's operations, which grow stronger with the level."""
    share = level / 10
    blend = jnp.maximum(1 + 0.9 * sign * share, 0.1)
    arguments = {
        "rotate": 30 * sign * share,
        "posterize": 4 - jnp.floor(level * 4 / 10),
        "solarize": 256 - jnp.floor(level * 256 / 10),
        "solarize_add": jnp.floor(level * 110 / 10),
        **dict.fromkeys(_BLENDS, blend),
        **dict.fromkeys(("shear_x", "shear_y"), 0.3 * sign * share),
        "translate_x": 0.45 * shape[1] * sign * share,
        "translate_y": 0.45 * shape[0] * sign * share,
    }
    return jnp.stack([arguments.get(name, jnp.zeros_like(level)) for name in _RAND_AUGMENT_TIMM])


def draw_rand_augment_timm(
    key: Key[Array, ""],
    shape: tuple[int, ...],
    num_ops: int,
    magnitude: float,
    magnitude_std: float,
) -> Steps:
    """Draws the steps of `rand_augment_timm` for an image of a shape."""
    chosen_key, taken_key, level_key, sign_key, steps_key = jax.random.split(key, 5)
    chosen = jax.random.randint(chosen_key, (num_ops,), 0, len(_RAND_AUGMENT_TIMM))
    taken = jax.random.bernoulli(taken_key, shape=(num_ops,))
    level = magnitude + magnitude_std * jax.random.normal(level_key, (num_ops,))
    sign = jnp.where(jax.random.bernoulli(sign_key, shape=(num_ops,)), 1.0, -1.0)
    arguments = _increasing_arguments(jnp.clip(level, 0, 10), sign, shape)
    operations = jnp.array([OPERATIONS.index(name) for name in _RAND_AUGMENT_TIMM])
    return Steps(
        jnp.where(taken, operations[chosen], 0),
        arguments[chosen, jnp.arange(num_ops)],
        jax.random.split(steps_key, num_ops),
    )


def auto_augment(key: Key[Array, ""], image: Image, policy: str) -> Image:
    """Applies a random sub-policy of an AutoAugment policy.

    Cubuk et al., 2019, arXiv:1805.09501, section 3: each of the two operations is applied with its
    own probability. Warps go in either direction, with equal probability.

    Args:
        key: for all random choices.
        image: float32 [h, w, 1 or 3] of whole values from 0 to 255.
        policy: a name in `POLICIES`.

    Raises:
        UserError: if the policy is unknown.
    """
    steps = draw_auto_augment(key, policy)
    for i, choices in enumerate(zip(*POLICIES[policy].sub_policies, strict=True)):
        possible = [operation for operation, _, _ in choices]
        image = apply_step(image, jax.tree.map(lambda x, i=i: x[i], steps), possible)
    return image


def rand_augment(
    key: Key[Array, ""], image: Image, num_ops: int = 2, magnitude: float = 9
) -> Image:
    """Applies random operations, all at the same level.

    Cubuk et al., 2019, arXiv:1909.13719, section 3, with the 16 operations and the levels of
    EfficientNet's code. Warps go in either direction, with equal probability. At level 10,
    translations move by 100 pixels, and cutout extends 40 pixels to each side. Levels above 10
    are used there and are stronger still, with two exceptions: `solarize` has no effect from
    level 10 on, and `posterize` none from level 20 on.

    Args:
        key: for all random choices.
        image: float32 [h, w, 1 or 3] of whole values from 0 to 255.
        num_ops: number of operations applied, N in the paper.
        magnitude: their level, M in the paper.
    """
    steps = draw_rand_augment(key, num_ops, magnitude)
    for i in range(num_ops):
        image = apply_step(image, jax.tree.map(lambda x, i=i: x[i], steps), _RAND_AUGMENT)
    return image


def rand_augment_timm(
    key: Key[Array, ""],
    image: Image,
    num_ops: int = 2,
    magnitude: float = 9,
    magnitude_std: float = 0.5,
) -> Image:
    """Applies random operations as timm does for "rand-m9-mstd0.5-inc1".

    timm (github.com/huggingface/pytorch-image-models, timm/data/auto_augment.py) differs from
    `rand_augment` in this: there are 15 operations, without cutout; each is applied with
    probability 1/2; its level is drawn from a normal distribution around the magnitude, and clipped
    to 0 to 10; every operation grows stronger with its level; and translations are a share
    of the image's size, 45% at level 10.

    Two details are those of `rand_augment`: a warp takes the nearest pixel, where timm interpolates
    (bilinearly or bicubically), and leaves empty pixels grey (128), where timm has the data's mean.

    Args:
        key: for all random choices.
        image: float32 [h, w, 1 or 3] of whole values from 0 to 255.
        num_ops: number of operations drawn.
        magnitude: the mean of their levels.
        magnitude_std: the standard deviation of their levels.
    """
    steps = draw_rand_augment_timm(key, image.shape, num_ops, magnitude, magnitude_std)
    for i in range(num_ops):
        image = apply_step(image, jax.tree.map(lambda x, i=i: x[i], steps), _RAND_AUGMENT_TIMM)
    return image
