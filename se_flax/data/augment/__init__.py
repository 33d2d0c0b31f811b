"""Published augmentations as pure functions, to run inside a jitted step.

All of them work under `jax.jit`; the shape of an image has to be static, and the name of a policy,
the number of operations and their magnitude have to be plain values. `mix`, `mixup` and
`cutmix` take a batch, and one key per pair of images. The others take a single image; for a batch,
use `jax.vmap` with one key per image.
"""

from se_flax.data.augment.erasing import ERASING_FORMS, cutout, random_erasing
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
    draw_rand_augment_timm,
    rand_augment,
    rand_augment_timm,
)

__all__ = [
    "ERASING_FORMS",
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
    "draw_rand_augment_timm",
    "equalize",
    "invert",
    "mix",
    "mixup",
    "posterize",
    "rand_augment",
    "rand_augment_timm",
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
