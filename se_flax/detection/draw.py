"""Detections drawn on an image."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont

from se_flax.analysis.figures import COLOURS

_GAP = 2  # pixels between a name and the border of its field


def draw_detections(
    image: UInt8[np.ndarray, "h w 3"],
    boxes: Float[np.ndarray, "k 4"],
    labels: Int[np.ndarray, " k"],
    scores: Float[np.ndarray, " k"],
    class_names: Sequence[str],
    threshold: float = 0.5,
) -> UInt8[np.ndarray, "h w 3"]:
    """Returns an image with a frame around each detection, and its class and score in percent.

    Args:
        image: the image; it is not changed.
        boxes: left, top, right and bottom of each detection, pixels of the image.
        labels: class of each detection, from 1.
        scores: of each detection, 0 to 1.
        class_names: of the classes from 1.
        threshold: lowest score of a detection that is drawn.
    """
    picture = Image.fromarray(np.ascontiguousarray(image))
    draw = ImageDraw.Draw(picture)
    short = min(picture.size)
    line, font = max(1, short // 200), ImageFont.load_default(max(10, short // 40))
    drawn = np.flatnonzero(scores >= threshold)
    for k in drawn[np.argsort(scores[drawn], kind="stable")]:  # the most probable on top
        number = int(labels[k]) - 1
        colour = COLOURS[number % len(COLOURS)]
        left, top, right, bottom = boxes[k].tolist()
        draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=colour, width=line)
        text = f"{class_names[number]} {100 * scores[k]:.0f}%"
        _, _, width, height = draw.textbbox((0, 0), text, font=font)
        field_width, field_height = width + 2 * _GAP, height + 2 * _GAP
        x = max(0, min(left, picture.width - field_width))
        y = max(0, top - field_height)
        draw.rectangle((x, y, x + field_width, y + field_height), fill=colour)
        draw.text((x + _GAP, y + _GAP), text, fill="white", font=font)
    return np.asarray(picture)
