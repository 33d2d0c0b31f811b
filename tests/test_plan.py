import itertools

import pytest

from se_flax.plan import Plan


def run(plan, minutes=0.0, stop_at=None):
    """Returns the actions of a whole run, by the step after which they come."""
    done, step = {}, 0
    while step < plan.total_steps:
        before, step = step, step + plan.num_steps(step)
        done[step] = plan.actions(before, step, minutes, stopping=step == stop_at)
    return done


def steps(done, action):
    return [step for step, actions in done.items() if getattr(actions, action)]


@pytest.mark.parametrize("steps_per_dispatch", [1, 3, 4, 10, 64])
def test_dispatches_never_pass_the_end_of_an_epoch(steps_per_dispatch):
    plan = Plan(num_epochs=3, steps_per_epoch=10, steps_per_dispatch=steps_per_dispatch)
    done = list(run(plan))
    assert {10, 20, 30} <= set(done)
    assert all(b - a <= steps_per_dispatch for a, b in itertools.pairwise([0, *done]))


def test_rows_come_every_log_every_steps_and_at_the_end_of_each_epoch():
    plan = Plan(num_epochs=2, steps_per_epoch=10, log_every_steps=4)
    assert steps(run(plan), "log") == [4, 8, 10, 12, 16, 20]


def test_a_dispatch_that_passes_a_row_logs_at_its_end():
    plan = Plan(num_epochs=1, steps_per_epoch=10, steps_per_dispatch=3, log_every_steps=4)
    assert steps(run(plan), "log") == [6, 9, 10]


def test_evaluations_come_every_eval_every_epochs_and_at_the_end():
    plan = Plan(num_epochs=5, steps_per_epoch=2, eval_every_epochs=2)
    assert steps(run(plan), "evaluate") == [4, 8, 10]


def test_each_evaluation_saves_and_so_does_a_row_after_enough_time():
    plan = Plan(num_epochs=2, steps_per_epoch=10, log_every_steps=4, checkpoint_every_minutes=5)
    assert steps(run(plan, minutes=4.9), "save") == [10, 20]
    assert steps(run(plan, minutes=5.0), "save") == [4, 8, 10, 12, 16, 20]


def test_a_run_that_is_asked_to_stop_saves_at_once():
    done = run(Plan(num_epochs=2, steps_per_epoch=10), stop_at=7)
    assert steps(done, "save") == [7, 10, 20]
    assert not done[7].evaluate


@pytest.mark.parametrize(("num_epochs", "every"), [(1, 1), (4, 2), (5, 2), (3, 7)])
def test_the_evaluations_left_are_those_that_come(num_epochs, every):
    plan = Plan(num_epochs=num_epochs, steps_per_epoch=4, eval_every_epochs=every)
    done = run(plan)
    evaluated = steps(done, "evaluate")
    for step in done:
        assert plan.evaluations_left(step) == sum(later > step for later in evaluated)
    assert plan.evaluations_left(0) == len(evaluated)
