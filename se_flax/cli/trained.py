"""The options by which commands are given a trained network: a run, or published weights."""

from collections.abc import Sequence

from absl import flags

from se_flax.errors import UserError


def define_run_flags() -> None:
    """Declares --workdir, --step and --seed."""
    flags.DEFINE_string("workdir", None, "Folder of a run.")
    flags.DEFINE_string(
        "step", None, 'Checkpoint of a run: "best" (the default), "latest" or a step.'
    )
    flags.DEFINE_integer("seed", None, "Seed, if a run has several; by default the first.", 0)


def define_trained_flags() -> None:
    """Declares --workdir, --step, --seed, --model and --weights."""
    define_run_flags()
    flags.DEFINE_string("model", None, "Instead of --workdir: network with published weights.")
    flags.DEFINE_string(
        "weights", None, "With --model: hub id or file; by default the first in the catalogue."
    )


def check_trained_flags(of_weights: Sequence[str] = ("weights",)) -> None:
    """Raises `UserError` unless either a run or published weights are given.

    Args:
        of_weights: options that only published weights have.
    """
    options = flags.FLAGS
    if bool(options.workdir) == bool(options.model):
        raise UserError(
            "give either --workdir=DIR, for example --workdir=runs/quickstart, or, for published "
            "weights, --model=NAME"
        )
    given, others = ("model", ("step", "seed")) if options.model else ("workdir", of_weights)
    for name in others:
        if options[name].value is not None:
            raise UserError(f"--{name} cannot be combined with --{given}; remove one of them")
