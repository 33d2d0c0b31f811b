import numpy as np
from PIL import ImageColor

from se_flax.analysis.figures import COLOURS
from se_flax.detection.draw import draw_detections

IMAGE = np.full((200, 300, 3), 90, np.uint8)
BLUE, RED = (np.array(ImageColor.getrgb(colour)) for colour in COLOURS[:2])


def drawn(*boxes, labels=(1, 2), scores=(0.9, 0.6), **options):
    boxes = np.array(boxes, np.float32)
    count = len(boxes)
    labels, scores = np.array(labels[:count]), np.array(scores[:count], np.float32)
    return draw_detections(IMAGE, boxes, labels, scores, ("cat", "dog"), **options)


def where(image, colour):
    """Returns the rows and columns of a colour's pixels."""
    return np.nonzero((image == colour).all(axis=-1))


def test_a_frame_is_drawn_around_each_detection_in_the_colour_of_its_class():
    found = drawn([50, 60, 100, 120], [150, 80, 260, 180])
    assert (IMAGE == 90).all()
    for (left, top, right, bottom), colour in (
        ((50, 60, 100, 120), BLUE),
        ((150, 80, 260, 180), RED),
    ):
        for row, column in ((bottom, left), (bottom, right), (top + 9, right), (top + 9, left)):
            assert (found[row, column] == colour).all()
        assert (found[top + 9 : bottom, left + 9 : right - 9] == 90).all()
        rows, columns = where(found, colour)
        assert rows.max() == bottom
        assert columns.min() == left
        assert rows.min() < top  # the name is above the frame
        assert (found[rows.min() : top, left:right].min(axis=-1) > 200).any()


def test_improbable_detections_are_not_drawn():
    found = drawn([50, 60, 100, 120], [150, 80, 260, 180], threshold=0.7)
    assert len(where(found, BLUE)[0])
    assert not len(where(found, RED)[0])
    assert (drawn([50, 60, 100, 120], scores=(0.2,)) == IMAGE).all()


def test_a_name_stays_inside_of_the_image():
    top_right = drawn([290, 0, 300, 20])
    rows, columns = where(top_right, BLUE)
    assert columns.min() < 270
    assert rows.min() == 0


def test_the_most_probable_detection_is_on_top():
    found = drawn([50, 60, 100, 120], [50, 60, 100, 120])
    assert (found[120, 60] == BLUE).all()
