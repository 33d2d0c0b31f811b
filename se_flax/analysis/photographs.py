"""Draws photographs with the likeliest classes of each."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from se_flax.analysis.figures import COLOURS, pyplot
from se_flax.models import Preparation

_COLUMNS = 6  # columns of images; a photograph with a map takes two
# In inches: an image, the bar of a class, a caption, and the space between neighbours.
_SIDE, _BAR, _CAPTION, _SPACE = 2.2, 0.19, 0.25, 0.12
_LONGEST = 34  # characters of a name


@dataclasses.dataclass(frozen=True)
class Panel:
    """A photograph and what a network says of it.

    Attributes:
        name: name of the photograph.
        photograph: the photograph, in any size.
        classes, probabilities: the classes to show, the likeliest first.
        map: what to draw next to the photograph, with values from 0 to 1, or None.
    """

    name: str
    photograph: UInt8[np.ndarray, "h w 3"]
    classes: Sequence[str]
    probabilities: Sequence[float]
    map: Float[np.ndarray, "height width 3"] | None = None


def draw_photographs(panels: Sequence[Panel], preparation: Preparation) -> Any:
    """Returns a figure with the photographs in a grid, and the bars of their classes below each.

    A frame shows the part of a photograph that the network sees, unless it sees all of it.

    Args:
        panels: the photographs, at least one.
        preparation: how the network's images are prepared.
    """
    has_maps = any(panel.map is not None for panel in panels)
    across = 2 if has_maps else 1
    columns = min(len(panels), _COLUMNS // across)
    rows = math.ceil(len(panels) / columns)
    bars = max(1, *(len(panel.classes) for panel in panels))
    cell_width = across * (_SIDE + _SPACE)
    cell_height = _CAPTION + _SIDE + _BAR * bars + 2 * _SPACE
    width, height = columns * cell_width + _SPACE, rows * cell_height + 2 * _CAPTION
    figure = pyplot().figure(figsize=(width, height))

    def axis_at(left: float, top: float, wide: float, high: float) -> Any:
        place = left / width, 1 - (top + high) / height, wide / width, high / height
        return figure.add_axes(place)

    is_cropped = False
    for i, panel in enumerate(panels):
        left, top = i % columns * cell_width + _SPACE, i // columns * cell_height + _CAPTION
        is_cropped |= _draw_photograph(axis_at(left, top, _SIDE, _SIDE), panel, preparation)
        if panel.map is not None:
            axis = axis_at(left + _SIDE + _SPACE, top, _SIDE, _SIDE)
            _draw_image(axis, panel.map, panel.classes[0])
        below = top + _SIDE + _SPACE / 2
        _draw_bars(axis_at(left, below, cell_width - _SPACE, _BAR * bars), panel, bars)
    notes = ["Frames: what the network sees."] if is_cropped else []
    if has_maps:
        notes.append("Maps: evidence for the likeliest class, least in blue and most in yellow.")
    text = ("  " if columns * across > 2 else "\n").join(notes)
    figure.text(0.5, 0.02 / height, text, ha="center", va="bottom", fontsize=8)
    return figure


def _draw_photograph(axis: Any, panel: Panel, preparation: Preparation) -> bool:
    """Draws a photograph; returns whether a frame shows that the network sees only a part."""
    _draw_image(axis, panel.photograph, panel.name)
    height, width = panel.photograph.shape[:2]
    # As in `CenterCrop`.
    side = min(height, width) * preparation.size / int(preparation.size / preparation.crop_pct)
    if side > 0.99 * max(height, width):
        return False
    corner = (width - side) / 2 - 0.5, (height - side) / 2 - 0.5
    for color, thickness in (("black", 2.0), ("white", 1.0)):
        frame = pyplot().Rectangle(
            corner, side, side, fill=False, color=color, linewidth=thickness, clip_on=False
        )
        axis.add_patch(frame)
    return True


def _draw_image(axis: Any, image: np.ndarray, title: str) -> None:
    axis.imshow(image)
    axis.set_anchor("S")  # right above the bars
    axis.set_axis_off()
    axis.set_title(_shortened(title), fontsize=8, parse_math=False)


def _draw_bars(axis: Any, panel: Panel, most: int) -> None:
    """Draws a bar for each class, with its name and percentage on it."""
    places = np.arange(len(panel.classes))
    axis.barh(places, panel.probabilities, height=0.85, color=COLOURS[5], alpha=0.6)
    for place, name, share in zip(places, panel.classes, panel.probabilities, strict=True):
        style = {"va": "center", "fontsize": 7.5, "parse_math": False}
        axis.text(0.015, place, _shortened(name), **style)
        axis.text(0.985, place, percent(share), ha="right", **style)
    axis.set_xlim(0, 1)
    axis.set_ylim(most - 0.5, -0.5)
    axis.set_axis_off()


def percent(share: float) -> str:
    """Returns a probability in whole percent, such as "61%"; near the ends "<1%" or ">99%"."""
    if share < 0.005:
        return "<1%"
    return ">99%" if 0.995 <= share < 1 else f"{100 * share:.0f}%"


def _shortened(text: str) -> str:
    """Returns a text, without its middle if it is long."""
    if len(text) <= _LONGEST:
        return text
    half = (_LONGEST - 1) // 2
    return f"{text[:half]}\N{HORIZONTAL ELLIPSIS}{text[-half:]}"
