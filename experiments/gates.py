"""Looks at the gates of trained networks: python -m experiments.gates --runs=DIR.

For networks of the scale `budget` with SE blocks, it measures the gates on the test images, by
class and by block, and how many images the network classifies correctly after the gates of a stage
have been replaced by their means over the images. It needs the checkpoints of the studies, writes
`gates.json` to the folder of results, and trains nothing.
"""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from jaxtyping import Array, Bool, Float, Int

from experiments import backbones, placement, ratio, stage
from experiments.study import Cell, Study
from se_flax import SqueezeExcite
from se_flax.analysis.excitations import Excitations, excitations_by_class
from se_flax.analysis.subject import normalized, subject_of_run
from se_flax.cli.command import parse_flags, run_command
from se_flax.data.from_config import dataset_of
from se_flax.errors import UserError
from se_flax.pretrained.words import classes_of
from se_flax.runtime.paths import Path, to_path
from se_flax.runtime.storage import make_folder, write_text

SCALE = "budget"
STUDIES = (backbones.STUDY, ratio.STUDY, stage.STUDY, placement.STUDY)
FIGURE = ("backbones", "cifar10_resnet20_se")  # the network whose gates are kept by channel
FILE = "gates.json"
ALL_STAGES = "all stages"

Means = dict[str, Float[np.ndarray, " c"]]
Batches = Iterable[tuple[Float[Array, "_ h w c"], Int[np.ndarray, " _"]]]


def replaced_gates(model: nn.Module, variables: dict[str, Any], images: Any, means: Means) -> Any:
    """Returns the logits of a network some of whose SE blocks have constant gates.

    Args:
        model, variables: the network.
        images: its input, normalised images [n, h, w, 3].
        means: the constant gates [c], by name of the block. The other blocks are unchanged.

    Returns:
        Logits [n, number of classes].
    """

    def replace(excite, args, kwargs, context):
        gate = excite(*args, **kwargs)
        name = "/".join(context.module.path)
        is_gate = isinstance(context.module, SqueezeExcite) and context.method_name == "excite"
        return jnp.broadcast_to(means[name], gate.shape) if is_gate and name in means else gate

    with nn.intercept_methods(replace):
        return model.apply(variables, images, train=False)


def stage_of(block: str) -> str:
    """Returns the stage of a block, such as "stage 2" of "stage2_unit1/se"."""
    found = re.match(r"stage(\d+)", block)
    if found is None:
        raise UserError(f"the name of the block {block} does not say in which stage it is")
    return f"stage {found[1]}"


def correct_after_replacement(
    model: nn.Module,
    variables: dict[str, Any],
    batches: Batches,
    means: Means,
) -> dict[str, Bool[np.ndarray, " n"]]:
    """Returns whether each image is classified correctly, by the stage whose gates are replaced.

    Args:
        model, variables: the network.
        batches: batches of normalised images [b, h, w, 3] and labels [b].
        means: mean gate of each block [c].

    Returns:
        An entry per stage with SE blocks, for `ALL_STAGES` if there are several, and "" for the
        unchanged network.
    """
    stages = list(dict.fromkeys(map(stage_of, means)))
    of_stage = {
        place: {name: mean for name, mean in means.items() if stage_of(name) == place}
        for place in stages
    }
    if len(stages) > 1:
        of_stage[ALL_STAGES] = means
    of_stage = {"": {}, **of_stage}

    # One program for all, so that what they have in common is computed once.
    @jax.jit
    def predictions(variables, images, of_stage):
        logits = [replaced_gates(model, variables, images, each) for each in of_stage]
        return [jnp.argmax(each, axis=-1) for each in logits]

    hits = []
    for images, labels in batches:
        predicted = predictions(variables, images, list(of_stage.values()))
        hits.append([np.asarray(each) == labels for each in predicted])
    return {
        place: np.concatenate(each)
        for place, each in zip(of_stage, zip(*hits, strict=True), strict=True)
    }


def change(changed: Bool[np.ndarray, " n"], unchanged: Bool[np.ndarray, " n"]) -> dict[str, float]:
    """Returns the change of top-1 in points, with its 95% interval over the test images.

    The images are the sample: each contributes -1, 0 or 1, and the interval is that of the mean.
    """
    differences = 100.0 * (changed.astype(int) - unchanged.astype(int))
    half = 1.96 * differences.std(ddof=1) / np.sqrt(len(differences))
    mean = differences.mean()
    values = {"top1": 100 * changed.mean(), "mean": mean, "low": mean - half, "high": mean + half}
    return {name: round(float(value), 3) for name, value in values.items()}


def block_row(name: str, block: Excitations) -> dict[str, Any]:
    """Returns how the gates of a block differ between channels, images and classes.

    `between_images` and `between_classes` are standard deviations over the images, and over the
    means of the classes, of each channel's gate; both are averaged over the channels.
    """
    mean, by_class = block.mean[-1], block.mean[:-1]
    numbers = {
        "mean": mean.mean(),
        "between_channels": mean.std(),
        "between_images": block.std[-1].mean(),
        "between_classes": by_class.std(axis=0).mean(),
    }
    rounded = {key: round(float(number), 4) for key, number in numbers.items()}
    return {"block": name, "stage": stage_of(name), **rounded}


def examine(
    model: nn.Module, variables: dict[str, Any], batches: Sequence[Any], num_classes: int
) -> tuple[dict[str, Any], dict[str, Excitations]]:
    """Returns what is written about a network, and the gates of its blocks by class."""
    gates = excitations_by_class(model, variables, batches, range(num_classes))
    means = {name: block.mean[-1].astype(np.float32) for name, block in gates.items()}
    correct = correct_after_replacement(model, variables, batches, means)
    unchanged = correct.pop("")
    numbers = {
        "top1": round(float(100 * unchanged.mean()), 3),
        "images": len(unchanged),
        "blocks": [block_row(name, block) for name, block in gates.items()],
        "replaced": {place: change(each, unchanged) for place, each in correct.items()},
    }
    return numbers, gates


def networks(runs: Path) -> list[tuple[Study, Cell, Path]]:
    """Returns the cells with SE blocks on CIFAR-10 whose run of seed 0 exists.

    Raises:
        UserError: if there is none.
    """
    found = []
    for study in STUDIES:
        for cell in study.cells(SCALE):
            workdir = runs / study.name / SCALE / cell.name / "0_1"
            is_resnet = cell.config.model.name == "se_resnet20_cifar"
            if is_resnet and (workdir / "config.json").exists():
                found.append((study, cell, workdir))
    if not found:
        raise UserError(
            f"{runs} has no run of the scale {SCALE} with SE blocks; give the --runs of the queue"
        )
    return found


def _by_channel(names: Sequence[str], gates: dict[str, Excitations]) -> dict[str, Any]:
    """Returns the mean gates by channel and class, and their deviation over all images."""
    return {
        "classes": [*names, "all"],
        "blocks": {
            name: {"mean": block.mean.round(3).tolist(), "std": block.std[-1].round(3).tolist()}
            for name, block in gates.items()
        },
    }


def main(argv: list[str]) -> None:
    """Examines the networks and writes the file."""
    options = flags.FLAGS
    chosen = networks(to_path(options.runs))
    path = to_path(options.out) / FILE
    make_folder(path.parent)
    dataset = dataset_of(chosen[0][1].config)
    result: dict[str, Any] = {"dataset": f"{dataset.name} test", "networks": []}
    for study, cell, workdir in chosen:
        subject = subject_of_run(workdir, "latest", dataset=dataset)
        batches = list(normalized(subject, options.batch_size))
        count = len(subject.class_names)
        numbers, gates = examine(subject.model, subject.variables, batches, count)
        about = {"study": study.name, "cell": cell.name, "label": cell.label, "step": subject.step}
        result["networks"].append({**about, **numbers})
        if (study.name, cell.name) == FIGURE:
            names = classes_of(dataset.name) or subject.class_names
            result["by_channel"] = _by_channel(names, gates)
        losses = ", ".join(f"{k} {v['mean']:+.2f}" for k, v in numbers["replaced"].items())
        print(f"{study.name}/{cell.name}: {numbers['top1']:.2f}%; {losses}", flush=True)
        write_text(path, json.dumps(result) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    flags.DEFINE_string("runs", "runs/studies", "Folder with the runs of the studies.")
    flags.DEFINE_string("out", "experiments/results", "Folder for the results.")
    flags.DEFINE_integer("batch_size", 500, "Number of images per batch.", 1)
    app.run(run_command(main), flags_parser=parse_flags)
