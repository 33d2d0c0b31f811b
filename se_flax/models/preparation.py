"""How images are prepared for a network."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Preparation:
    """How images are prepared for a network, and for weights of it.

    An image is resized so that its short side has size / crop_pct pixels, its centre of
    size x size pixels is cropped, and the crop, on a scale of 0 to 1, is normalised to
    (crop - mean) / std.

    Attributes:
        size: height and width of the network's input, in pixels.
        crop_pct: fraction of the resized image's short side that the crop keeps.
        interpolation: how images are resized, "bilinear" or "bicubic".
        mean, std: mean and standard deviation of red, green and blue, on a scale of 0 to 1; of
            grey levels, one value each.
    """

    size: int
    crop_pct: float
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
