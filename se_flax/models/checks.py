"""What every network checks of its input."""

from jaxtyping import Array, Float

from se_flax.errors import UserError


def check_images(images: Float[Array, "n h w c"]) -> None:
    """Raises `UserError` unless images are a batch, channels last."""
    if images.ndim != 4:
        raise UserError(
            "images must be of shape [n, height, width, channels], not "
            f"{list(images.shape)}; a single one is image[None]"
        )


def check_size(images: Float[Array, "n h w c"], smallest: Float[Array, "n h2 w2 c2"]) -> None:
    """Raises `UserError` if nothing is left of images in a network's smallest map."""
    if 0 in smallest.shape:
        height, width = images.shape[1:3]
        raise UserError(f"images of {height} x {width} are too small for this network")
