import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_flax.data.preprocessing import Batch
from se_flax.label_metrics import LabelMetrics, Scored, average_precisions
from se_flax.metrics import Meter, total
from se_flax.parallel import AXIS, pmap_eval
from se_flax.runtime.progress import format_results
from se_flax.step import make_eval_step
from tests.test_step import LinearModel


def by_definition(scores, labels):
    """The area under precision and recall at every threshold, one class at a time."""
    result = 0.0
    recall_before = 0.0
    for threshold in sorted(set(scores), reverse=True):
        chosen = scores >= threshold
        hits = np.sum(labels[chosen])
        recall, precision = hits / np.sum(labels), hits / np.sum(chosen)
        result += (recall - recall_before) * precision
        recall_before = recall
    return result


@pytest.mark.parametrize("ties", [False, True])
def test_average_precision_is_that_of_scikit_learn_and_of_its_definition(ties):
    from sklearn.metrics import average_precision_score

    generator = np.random.default_rng(0)
    scores = generator.normal(size=(200, 6))
    scores = np.round(scores) if ties else scores
    labels = generator.random((200, 6)) < [0.02, 0.1, 0.3, 0.5, 0.9, 1.0]
    found = average_precisions(scores, labels.astype(np.uint8))
    expected = [average_precision_score(labels[:, k], scores[:, k]) for k in range(6)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(
        found, [by_definition(scores[:, k], labels[:, k]) for k in range(6)], rtol=1e-12
    )


def test_known_rankings_have_known_precisions():
    scores = np.array([[4.0], [3.0], [2.0], [1.0]])
    for labels, expected in (
        ([1, 1, 0, 0], 1.0),
        ([0, 0, 1, 1], (1 / 3 + 2 / 4) / 2),
        ([1, 0, 1, 0], (1 + 2 / 3) / 2),
        ([1, 1, 1, 1], 1.0),
    ):
        assert average_precisions(scores, np.uint8(labels)[:, None]) == pytest.approx([expected])
    assert average_precisions(np.zeros((4, 1)), np.uint8([[1], [0], [0], [0]])) == [0.25]
    assert np.isnan(average_precisions(scores, np.zeros((4, 1), np.uint8)))


LOGITS = np.random.default_rng(1).normal(0, 2, (37, 4)).astype(np.float32)
LABELS = (np.random.default_rng(2).random((37, 4)) < 0.3).astype(np.uint8)
LABELS[:, 3] = 0  # a class without images, which does not count


@pytest.mark.parametrize("batch_size", [10, 37])
def test_an_evaluation_is_over_all_images_whatever_the_batches(batch_size):
    count = -(-37 // batch_size) * batch_size
    images = np.concatenate([LOGITS, np.full((count - 37, 4), 9)]).reshape(-1, 2, 2, 1)
    labels = np.concatenate([LABELS, np.ones((count - 37, 4), np.uint8)])
    step = make_eval_step(LinearModel(), "bce")
    evaluate = pmap_eval(lambda nothing, _, batch: step({}, batch))
    devices = jax.device_count()
    results = []
    for start in range(0, count, batch_size):
        chosen = slice(start, start + batch_size)
        batch = Batch(images[chosen], labels[chosen], np.arange(count)[chosen] < 37)
        batch = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)
        results.append(evaluate(jnp.zeros(()), None, batch))
    means = total(results).means()
    precisions = [by_definition(LOGITS[:, k], LABELS[:, k]) for k in range(3)]
    assert means["mAP"] == pytest.approx(100 * np.mean(precisions), rel=1e-5)
    assert means["label_accuracy"] == pytest.approx(100 * np.mean((LOGITS > 0) == LABELS), rel=1e-5)
    logs = np.log1p(np.exp(-np.where(LABELS, LOGITS, -LOGITS)))
    assert means["loss"] == pytest.approx(np.mean(logs), rel=1e-5)
    assert list(means) == ["loss", "mAP", "label_accuracy"]


def test_shares_of_devices_are_put_together_in_order():
    def share(logits, labels, mask):
        return Scored.of(logits, labels, jnp.ones(2), mask, AXIS)

    arrays = LOGITS[:6], LABELS[:6], np.array([1, 1, 1, 1, 1, 0], bool)
    shares = [jnp.asarray(x).reshape(3, 2, *x.shape[1:]) for x in arrays]
    scored = jax.tree.map(lambda x: x[0], jax.jit(jax.vmap(share, axis_name=AXIS))(*shares))
    np.testing.assert_array_equal(scored.logits[0], LOGITS[:6])
    np.testing.assert_array_equal(scored.mask[0], arrays[2])
    assert float(scored.sums.count) == 5


def test_a_row_of_the_training_log_has_the_accuracy_of_the_labels():
    def metrics(right):
        return LabelMetrics(*(np.float32(x) for x in (8.0, right, 4, 0)), np.zeros(3))

    meter = Meter(kind=LabelMetrics)
    assert set(meter.means()) == {"loss", "label_accuracy"}
    meter.add(metrics(2.0))
    again = Meter(meter.state(), LabelMetrics)
    again.add(metrics(4.0))
    assert again.finish_row() == {"loss": 2.0, "label_accuracy": 75.0}


def test_results_are_shown_without_top_5():
    results = {"loss": 0.5, "mAP": 40.0, "label_accuracy": 90.0}
    line = format_results("test", [results], 20)
    assert line == "test: mAP 40.00%, accuracy of labels 90.00%, loss 0.5000"
    line = format_results("test", [results, {**results, "mAP": 50.0}], 20)
    assert line.endswith("mean of 2 seeds with mAP 40.00 to 50.00%")
