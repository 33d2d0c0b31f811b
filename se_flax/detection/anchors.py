"""Anchors: the boxes at each position of a feature map that the network starts from."""

import numpy as np

SIZES = (32, 64, 128, 256, 512)  # pixels, one for each level of the pyramid
ASPECT_RATIOS = (0.5, 1.0, 2.0)  # height / width


def anchors_at_origin(size: float, aspect_ratios: tuple[float, ...] = ASPECT_RATIOS) -> np.ndarray:
    """Returns the anchors centred at (0, 0), in whole pixels, float32 [aspect_ratios, 4].

    All have about the area size^2. Corners are rounded half to even, as torchvision does.

    Args:
        size: square root of the area, in pixels.
        aspect_ratios: height / width.
    """
    heights = np.sqrt(np.asarray(aspect_ratios, np.float32))
    widths = 1 / heights
    corners = np.stack([widths, heights], axis=1) * np.float32(size) / 2
    return np.round(np.concatenate([-corners, corners], axis=1)).astype(np.float32)


def level_anchors(
    image_size: tuple[int, int],
    map_size: tuple[int, int],
    size: float,
    aspect_ratios: tuple[float, ...] = ASPECT_RATIOS,
) -> np.ndarray:
    """Returns the anchors of one feature map, float32 [height * width * aspect_ratios, 4].

    Row by row, the anchors of a position follow each other (Ren et al., arXiv:1506.01497,
    section 3.1.1). Positions are image_size // map_size pixels apart, as in torchvision's
    `AnchorGenerator`. On the last level this can be less than its stride of 64: a map of 13 rows
    for 800 rows of pixels has them 61 pixels apart.

    Args:
        image_size: height and width of the padded images, in pixels.
        map_size: height and width of the feature map.
        size: square root of the anchors' area, in pixels.
        aspect_ratios: height / width.
    """
    ys, xs = (
        np.arange(positions, dtype=np.float32) * (pixels // positions)
        for pixels, positions in zip(image_size, map_size, strict=True)
    )
    y, x = (grid.ravel() for grid in np.meshgrid(ys, xs, indexing="ij"))
    centres = np.stack([x, y, x, y], axis=1)
    return (centres[:, None] + anchors_at_origin(size, aspect_ratios)).reshape(-1, 4)
