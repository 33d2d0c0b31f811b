import jax
import jax.numpy as jnp
import numpy as np

from se_flax.detection.losses import head_losses, proposal_losses, smooth_l1


def test_smooth_l1_is_quadratic_near_0_and_linear_from_the_limit():
    found = smooth_l1(jnp.asarray([0.0, 0.05, -0.05, 1 / 9, 2.0, -2.0]))
    small = 0.5 * 9 * 0.05**2
    np.testing.assert_allclose(found, [0, small, small, 1 / 18, 2 - 1 / 18, 2 - 1 / 18], rtol=1e-6)


LABELS = jnp.asarray([[2, 0, 1, -1]])
VALID = jnp.asarray([[True, True, True, False]])
CODES = jnp.asarray([[[1.0, 0, 0, 0], [9, 9, 9, 9], [0, 2, 0, 0], [9, 9, 9, 9]]])
# Targets of what is no object may not even be finite.
TARGETS = jnp.zeros((1, 4, 4)).at[:, 1].set(jnp.nan).at[:, 3].set(jnp.inf)


def test_the_losses_of_proposals_are_means_over_the_anchors_drawn():
    logits = jnp.asarray([[0.5, -1.0, 200.0, 7.0]])
    objectness, box = proposal_losses(logits, CODES, LABELS, TARGETS, VALID)
    expected = np.log1p(np.exp(-0.5)) + np.log1p(np.exp(-1.0)) + 0
    np.testing.assert_allclose(objectness, expected / 3, rtol=1e-6)
    np.testing.assert_allclose(box, ((1 - 1 / 18) + (2 - 1 / 18)) / 3, rtol=1e-6)


def test_the_losses_of_the_head_use_the_codes_of_the_true_class():
    logits = jnp.asarray([[[0.0, 0, 0], [1, 0, 0], [0, 2, 0], [5, 5, 5]]])
    codes = jnp.full((1, 4, 3, 4), 7.0).at[0, 0, 2].set(CODES[0, 0]).at[0, 2, 1].set(CODES[0, 2])
    of_class, box = head_losses(logits, codes, LABELS, TARGETS, VALID)
    expected = np.log(3) + np.log(1 + 2 * np.exp(-1)) + np.log(1 + 2 * np.exp(-2))
    np.testing.assert_allclose(of_class, expected / 3, rtol=1e-6)
    np.testing.assert_allclose(box, ((1 - 1 / 18) + (2 - 1 / 18)) / 3, rtol=1e-6)


def test_gradients_are_finite_where_targets_are_not():
    gradient = jax.grad(
        lambda codes: proposal_losses(jnp.zeros((1, 4)), codes, LABELS, TARGETS, VALID)[1]
    )(CODES)
    expected = np.zeros((4, 4))
    expected[0, 0] = expected[2, 1] = 1 / 3
    np.testing.assert_allclose(gradient[0], expected, rtol=1e-6)


def test_without_any_boxes_the_losses_are_0():
    nothing = jnp.zeros_like(VALID)
    assert proposal_losses(jnp.ones((1, 4)), CODES, LABELS, TARGETS, nothing) == (0, 0)
