"""Published augmentations as pure functions of a key and an image, to run inside a jitted step.

All of it works under `jax.jit` and, with a key an image, under `jax.vmap`; only the image's shape
has to be static.
"""

from se_flax.data.augment.erasing import cutout, random_erasing
from se_flax.data.augment.mixing import cutmix, mix, mixup
from se_flax.data.augment.ops import (
    OPERATIONS,
    Steps,
    apply_step,
    auto_contrast,
    brightness,
    color,
    contrast,
    equalize,
    invert,
    posterize,
    rotate,
    sharpness,
    shear_x,
    shear_y,
    solarize,
    solarize_add,
    translate_x,
    translate_y,
)
from se_flax.data.augment.policies import (
    POLICIES,
    auto_augment,
    draw_auto_augment,
    draw_rand_augment,
    rand_augment,
)

__all__ = [
    "OPERATIONS",
    "POLICIES",
    "Steps",
    "apply_step",
    "auto_augment",
    "auto_contrast",
    "brightness",
    "color",
    "contrast",
    "cutmix",
    "cutout",
    "draw_auto_augment",
    "draw_rand_augment",
    "equalize",
    "invert",
    "mix",
    "mixup",
    "posterize",
    "rand_augment",
    "random_erasing",
    "rotate",
    "sharpness",
    "shear_x",
    "shear_y",
    "solarize",
    "solarize_add",
    "translate_x",
    "translate_y",
]
