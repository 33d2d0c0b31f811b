import pytest

from se_flax.plan import Plan
from se_flax.runtime.time_left import TimeLeft

PLAN = Plan(num_epochs=5, steps_per_epoch=10, eval_every_epochs=2)  # evaluates at 20, 40 and 50


def of_plan():
    return TimeLeft(50, images_per_step=8, images_per_evaluation=24,
                    evaluations_left=PLAN.evaluations_left)  # fmt: skip


def test_nothing_is_estimated_before_the_speed_is_known():
    assert of_plan()(1, 0.0) is None


def test_evaluations_to_come_count_as_a_third_of_their_images_until_one_is_measured():
    # 40 steps of 8 images, and 3 evaluations of 24 without gradients, at 4 images/s.
    assert of_plan()(10, 4.0) == pytest.approx((40 * 8 + 3 * 24 / 3) / 4)


def test_evaluations_to_come_take_as_long_as_those_before_leaving_out_the_first_if_possible():
    left = of_plan()
    left.add_evaluation(60.0)  # compiles
    assert left(20, 4.0) == pytest.approx(30 * 8 / 4 + 2 * 60)
    left.add_evaluation(10.0)
    assert left(40, 4.0) == pytest.approx(10 * 8 / 4 + 1 * 10)
    left.add_evaluation(14.0)
    assert left(45, 4.0) == pytest.approx(5 * 8 / 4 + 1 * 12)


def test_the_estimate_falls_by_the_time_that_passes_evaluations_included():
    seconds_per_step, seconds_per_evaluation = 2.0, 10.0
    left = of_plan()
    left.add_evaluation(seconds_per_evaluation)
    ends, now = set(), 0.0
    for step in range(1, 51):
        now += seconds_per_step
        if step in (20, 40, 50):
            now += seconds_per_evaluation
            left.add_evaluation(seconds_per_evaluation)
        ends.add(round(now + left(step, 8 / seconds_per_step), 6))
    assert ends == {50 * seconds_per_step + 3 * seconds_per_evaluation}
