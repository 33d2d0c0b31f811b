import jax
import jax.numpy as jnp
import numpy as np

from se_flax.detection.heads import detections_of
from se_flax.detection.proposals import Proposals, propose

propose = jax.jit(propose, static_argnames=("before", "after"))
detections_of = jax.jit(detections_of, static_argnames=("count",))


def test_proposals_are_the_best_of_each_level_after_suppression_and_clipped():
    # Two levels; the first box of the second level is equal to one of the first.
    anchors = [
        jnp.asarray([[0, 0, 10, 10], [1, 0, 11, 10], [30, 30, 60, 60]], jnp.float32),
        jnp.asarray([[0, 0, 10, 10], [70, 70, 80, 80]], jnp.float32),
    ]
    logits = [jnp.asarray([[2.0, 1.0, 0.0]]), jnp.asarray([[3.0, 9.0]])]
    codes = [jnp.zeros((1, 3, 4)), jnp.zeros((1, 2, 4))]
    found = propose(logits, codes, anchors, jnp.asarray([[50.0, 40.0]]), before=3, after=4)
    expected = [[0, 0, 10, 10], [0, 0, 10, 10], [30, 30, 40, 50]]  # the last anchor is outside
    np.testing.assert_array_equal(found.valid, [[True, True, True, False]])
    np.testing.assert_array_equal(found.boxes[0, :3], expected)
    np.testing.assert_allclose(found.scores[0, :3], jax.nn.sigmoid(jnp.asarray([3.0, 2.0, 0.0])))


def test_only_the_best_boxes_of_a_level_are_considered():
    anchors = [jnp.asarray([[0, 0, 9, 9], [20, 20, 29, 29], [40, 40, 49, 49]], jnp.float32)]
    found = propose(
        [jnp.asarray([[1.0, 3.0, 2.0]])],
        [jnp.zeros((1, 3, 4))],
        anchors,
        jnp.asarray([[64.0, 64.0]]),
        before=2,
        after=5,
    )
    np.testing.assert_array_equal(found.boxes[0], anchors[0][jnp.array([1, 2])])


def detect(probabilities, boxes, valid=None):
    boxes = jnp.asarray([boxes], jnp.float32)
    logits = jnp.log(jnp.asarray([probabilities], jnp.float32))
    valid = jnp.ones(boxes.shape[:2], bool) if valid is None else jnp.asarray([valid])
    proposals = Proposals(boxes, jnp.ones(boxes.shape[:2]), valid)
    codes = jnp.zeros((*logits.shape, 4))
    return detections_of(logits, codes, proposals, jnp.asarray([[50.0, 50.0]]), count=4)


def test_detections_are_the_likely_classes_of_regions_after_suppression_within_each_class():
    found = detect(
        [[0.1, 0.6, 0.3], [0.05, 0.9, 0.05], [0.5, 0.01, 0.49]],
        [[0, 0, 10, 10], [1, 0, 11, 10], [30, 30, 70, 70]],
    )
    # Class 1 of the first region overlaps that of the second. 0.05 does not exceed the limit.
    np.testing.assert_array_equal(found.valid, [[True, True, True, False]])
    np.testing.assert_array_equal(found.labels, [[1, 2, 2, 0]])
    np.testing.assert_allclose(found.scores, [[0.9, 0.49, 0.3, 0]], rtol=1e-5)
    np.testing.assert_allclose(
        found.boxes[0], [[1, 0, 11, 10], [30, 30, 50, 50], [0, 0, 10, 10], [0, 0, 0, 0]], atol=1e-4
    )


def test_padding_and_empty_boxes_are_not_detected():
    likely, boxes = [[0.1, 0.9], [0.1, 0.9]], [[0, 0, 10, 10], [20, 20, 20, 30]]
    assert detect(likely, boxes).valid.tolist() == [[True, False, False, False]]
    assert not detect(likely, boxes, [False, True]).valid.any()
