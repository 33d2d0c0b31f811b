"""Evaluates a run's checkpoint: python -m se_flax.evaluate --workdir=runs/quickstart."""

import json
import pathlib
from typing import Any

import jax
from absl import app, flags

from se_flax.checkpoints import Checkpoints, has_checkpoint, read_config
from se_flax.command import parse_flags, run_command
from se_flax.config import check_config
from se_flax.data import Dataset, known_datasets, load_dataset
from se_flax.errors import UserError
from se_flax.progress import format_results
from se_flax.state import abstract_replicated
from se_flax.train import build_program


def evaluate_workdir(
    workdir: str | pathlib.Path,
    step: str | int = "best",
    split: str = "test",
    dataset: Dataset | None = None,
    data_dir: str | None = None,
) -> dict[str, Any]:
    """Returns loss and top-1/3/5 of a checkpoint over exactly the images of a split.

    Args:
        workdir: the folder of a run.
        step: "best", "latest" or the step of a checkpoint.
        split: "test", "train" (not augmented) or, if the run held images out, "validation".
        dataset: what to evaluate on, instead of reading the data set of the run.
        data_dir: where TFDS keeps data, if elsewhere than in the run.

    Returns:
        `loss` in nats, `top1`, `top3` and `top5` in percent, and what they belong to: `step`,
        `model`, `dataset`, `split` and the number of `images`.

    Raises:
        UserError: if there is no such run, checkpoint or split.
    """
    workdir = pathlib.Path(workdir).expanduser()
    config = read_config(workdir)
    if dataset is None and config.dataset.name not in known_datasets():
        raise UserError(
            f'{workdir} was trained on "{config.dataset.name}", which is not read by name; call '
            "se_flax.evaluate.evaluate_workdir(workdir, dataset=...) from Python"
        )
    check_config(config, names_dataset=dataset is None)
    if not has_checkpoint(workdir):
        raise UserError(f"{workdir} has no checkpoint yet")
    if dataset is None:
        dataset = load_dataset(config.dataset.name, data_dir or config.dataset.data_dir)
    if config.validation_fraction:
        dataset = dataset.hold_out(config.validation_fraction)
    program = build_program(config, dataset)
    if split not in program.splits:
        raise UserError(f'there is no split "{split}"; known are {", ".join(program.splits)}')

    saved = Checkpoints(workdir, read_only=True)
    try:
        chosen = {"best": saved.best, "latest": saved.latest}.get(step, step)
        if not str(chosen).isdigit() or int(chosen) not in saved.steps:
            raise UserError(
                f'{workdir} has no checkpoint "{step}"; it has "latest", "best" once it was '
                f"evaluated, and the steps {', '.join(map(str, saved.steps))}"
            )
        abstract_state = abstract_replicated(jax.eval_shape(program.initial_state))
        state, _ = saved.restore(abstract_state, int(chosen))
    finally:
        saved.close()
    return {
        "model": config.model.name,
        "dataset": dataset.name,
        "split": split,
        "images": len(program.splits[split].labels),
        "step": int(chosen),
        **program.evaluate(state, split),
    }


def define_flags() -> None:
    """Declares the options of this command."""
    flags.DEFINE_string("workdir", None, "Folder of the run.")
    flags.DEFINE_string("step", "best", 'Which checkpoint: "best", "latest" or a step.')
    flags.DEFINE_string("split", "test", '"test", "train" or, if held out, "validation".')
    flags.DEFINE_string("data_dir", None, "Where TFDS keeps data, if not as in the run.")


def main(argv: list[str]) -> None:
    """Prints the results as a line and as JSON."""
    options = flags.FLAGS
    if options.workdir is None:
        raise UserError("--workdir=DIR is missing, for example --workdir=runs/quickstart")
    results = evaluate_workdir(
        options.workdir, options.step, options.split, data_dir=options.data_dir
    )
    title = f"{results['model']} (step {results['step']}) on {results['dataset']}"
    print(format_results(f"{title} {results['split']}, {results['images']:,} images", results))
    print(json.dumps(results))


if __name__ == "__main__":
    define_flags()
    app.run(run_command(main), flags_parser=parse_flags)
