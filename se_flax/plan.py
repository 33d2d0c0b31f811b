"""When a run logs, evaluates and saves."""

import dataclasses
from typing import NamedTuple


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
    """

    num_epochs: int
    steps_per_epoch: int
    steps_per_dispatch: int = 1
    log_every_steps: int = 100
    eval_every_epochs: int = 1
    checkpoint_every_minutes: float = 5.0

    @property
    def total_steps(self) -> int:
        """Length of the run, in steps."""
        return self.num_epochs * self.steps_per_epoch

    def num_steps(self, step: int) -> int:
        """Returns the length of the dispatch that starts at a step; it ends with the epoch."""
        return min(self.steps_per_dispatch, self.steps_per_epoch - step % self.steps_per_epoch)

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
