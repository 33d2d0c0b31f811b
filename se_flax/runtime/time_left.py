"""An estimate of the time that a run has left."""

from collections.abc import Callable


class TimeLeft:
    """Estimates the seconds to the end of a run, from the speed of its training and evaluations.

    Args:
        total_steps: length of the run.
        images_per_step: how many images a step takes.
        images_per_evaluation: how many images an evaluation takes.
        evaluations_left: returns the number of evaluations after a step.
        steps_left: returns the number of steps after a step, in units of a step at that time; None
            if all steps take the same time.
    """

    def __init__(
        self,
        total_steps: int,
        images_per_step: int,
        images_per_evaluation: int = 0,
        evaluations_left: Callable[[int], int] = lambda step: 0,
        steps_left: Callable[[int], float] | None = None,
    ):
        self._steps_left = steps_left or (lambda step: total_steps - step)
        self._images_per_step = images_per_step
        # Until it is measured: an evaluation needs no gradient, a third of a step's operations.
        self._images_per_evaluation = images_per_evaluation / 3
        self._evaluations_left = evaluations_left
        self._seconds: list[float] = []

    def add_evaluation(self, seconds: float) -> None:
        """Counts an evaluation, with the checkpoint saved after it."""
        self._seconds.append(seconds)

    def __call__(self, step: int, images_per_second: float) -> float | None:
        """Returns the seconds left after a step, None if the speed is not known yet.

        Args:
            step: number of steps so far.
            images_per_second: mean speed of the training alone.
        """
        if not images_per_second:
            return None
        measured = self._seconds[1:] or self._seconds  # the first also compiles
        of_one = self._images_per_evaluation / images_per_second
        if measured:
            of_one = sum(measured) / len(measured)
        images = self._steps_left(step) * self._images_per_step
        return images / images_per_second + self._evaluations_left(step) * of_one
