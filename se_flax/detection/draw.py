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
    scores: Float[np.ndarray, " k"] | None,
    class_names: Sequence[str],
    threshold: float = 0.5,
) -> UInt8[np.ndarray, "h w 3"]:
    """Returns an image with a frame around each detection, and its class and score in percent.

    Args:
        image: the image; it is not changed.
        boxes: left, top, right and bottom of each detection, pixels of the image.
        labels: class of each detection, from 1.
        scores: of each detection, 0 to 1; None for true boxes, which have none and are all drawn.
        class_names: of the classes from 1.
        threshold: lowest score of a detection that is drawn.
    """
    picture = Image.fromarray(np.ascontiguousarray(image))
    draw = ImageDraw.Draw(picture)
    short = min(picture.size)
    line, font = max(1, short // 200), ImageFont.load_default(max(10, short // 40))
    order = np.arange(len(boxes))
    if scores is not None:
        order = np.flatnonzero(scores >= threshold)
        order = order[np.argsort(scores[order], kind="stable")]  # the most probable on top
    for k in order:
        number = int(labels[k]) - 1
        colour = COLOURS[number % len(COLOURS)]
        left, top, right, bottom = boxes[k].tolist()
        draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=colour, width=line)
        text = class_names[number]
        if scores is not None:
            text = f"{text} {100 * scores[k]:.0f}%"
        _, _, width, height = draw.textbbox((0, 0), text, font=font)
        field_width, field_height = width + 2 * _GAP, height + 2 * _GAP
        x = max(0, min(left, picture.width - field_width))
        y = max(0, top - field_height)
        draw.rectangle((x, y, x + field_width, y + field_height), fill=colour)
        draw.text((x + _GAP, y + _GAP), text, fill="white", font=font)
    return np.asarray(picture)


def side_by_side(
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]], height: int = 320, columns: int = 3
) -> Image.Image:
    """Returns a picture of images in rows, all of one height.

    Args:
        images: at least one.
        height: of each image in the picture, pixels.
        columns: number of images in a row.
    """
    resized = []
    for image in images:
        width = max(1, round(image.shape[1] * height / image.shape[0]))
        resized.append(Image.fromarray(image).resize((width, height)))
    rows = [resized[i : i + columns] for i in range(0, len(resized), columns)]
    step = height + _GAP
    widths = [sum(image.width + _GAP for image in row) for row in rows]
    picture = Image.new("RGB", (max(widths), step * len(rows)), "white")
    for i, row in enumerate(rows):
        x = 0
        for image in row:
            picture.paste(image, (x, i * step))
            x += image.width + _GAP
    return picture
