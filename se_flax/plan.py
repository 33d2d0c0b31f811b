"""When a run logs, evaluates and saves."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from se_flax.data.stages import first_step, stage_at


class Actions(NamedTuple):
    """What to do after a dispatch.

    Attributes:
        log: write a row of training metrics.
        evaluate: evaluate on the split that chooses the best checkpoint.
        save: save a checkpoint.
    """

    log: bool
    evaluate: bool
    save: bool


@dataclasses.dataclass(frozen=True)
class Plan:
    """The steps of a run, and what to do after each.

    Attributes:
        num_epochs: length of the run, in epochs.
        steps_per_epoch: length of an epoch, in steps.
        steps_per_dispatch: how many steps the devices are given at once, within an epoch.
        log_every_steps: steps between log rows; there is also one at the end of each epoch.
        eval_every_epochs: epochs between evaluations; there is also one at the end of the run.
        checkpoint_every_minutes: minutes after which the next log row saves a checkpoint; each
            evaluation also saves one.
        num_stages: equal parts of the run, each with its own training step; see `se_flax.stages`.
    """

    num_epochs: int
    steps_per_epoch: int
    steps_per_dispatch: int = 1
    log_every_steps: int = 100
    eval_every_epochs: int = 1
    checkpoint_every_minutes: float = 5.0
    num_stages: int = 1

    @property
    def total_steps(self) -> int:
        """Length of the run, in steps."""
        return self.num_epochs * self.steps_per_epoch

    def stage(self, step: int) -> int:
        """Returns the stage of the step that starts at `step`; the first is 0."""
        return stage_at(step, self.total_steps, self.num_stages)

    def num_steps(self, step: int) -> int:
        """Returns the length of the dispatch that starts at a step.

        It ends at the latest with the epoch, and with the stage.
        """
        of_epoch = self.steps_per_epoch - step % self.steps_per_epoch
        of_stage = first_step(self.stage(step) + 1, self.total_steps, self.num_stages) - step
        return min(self.steps_per_dispatch, of_epoch, of_stage)

    def steps_left(self, step: int, costs: Sequence[float]) -> float:
        """Returns the work left after a step, as a number of steps of the current stage.

        Args:
            step: number of steps so far.
            costs: what a step of each stage costs, in any unit.
        """
        if step == self.total_steps:
            return 0.0
        ends = [
            first_step(i + 1, self.total_steps, self.num_stages) for i in range(self.num_stages)
        ]
        starts = [step, *ends[:-1]]
        work = sum(
            cost * max(0, end - max(start, step))
            for cost, start, end in zip(costs, starts, ends, strict=True)
        )
        return work / costs[self.stage(step)]

    def evaluations_left(self, step: int) -> int:
        """Returns the number of evaluations after a step."""
        period = self.eval_every_epochs * self.steps_per_epoch
        last = -(-self.total_steps // period)  # the end of the run counts as one, too
        return last - step // period if step < self.total_steps else 0

    def actions(
        self, before: int, step: int, minutes_since_save: float, stopping: bool = False
    ) -> Actions:
        """Returns what to do after a dispatch.

        Args:
            before, step: the steps at which the dispatch started and ended.
            minutes_since_save: minutes since the last checkpoint.
            stopping: whether the run has been asked to stop.
        """
        epoch, into_epoch = divmod(step, self.steps_per_epoch)
        finished = step == self.total_steps
        passes_row = step // self.log_every_steps > before // self.log_every_steps
        log = passes_row or not into_epoch
        evaluate = finished or (not into_epoch and epoch % self.eval_every_epochs == 0)
        save = evaluate or stopping or (log and minutes_since_save >= self.checkpoint_every_minutes)
        return Actions(log, evaluate, save)
