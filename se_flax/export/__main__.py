"""Writes a network with its weights to a file for other programs.

python -m se_flax.export --workdir=runs/quickstart --format=safetensors
python -m se_flax.export --model=se_resnet50 --weights=FILE --format=safetensors --layout=timm
python -m se_flax.export --workdir=runs/quickstart --format=stablehlo

Formats: "safetensors" has the weights, in our own layout, which `load_pretrained` reads, or in that
of a PyTorch library. "stablehlo" has the whole network as a program that only JAX is needed to
call, on a CPU, an NVIDIA GPU or a TPU. "onnx" has the whole network for ONNX Runtime and others.
The whole networks take prepared images, float32 [n, height, width, channels] for any n, and return
logits. How images are prepared, and the names of the classes, are in the file's metadata (for
"stablehlo", in a .json file next to it).
"""

import json

from absl import app, flags

from se_flax.cli.command import parse_flags, run_command
from se_flax.cli.trained import check_trained_flags, define_trained_flags
from se_flax.errors import UserError
from se_flax.export import to_onnx, to_stablehlo
from se_flax.export.network import TrainedNetwork, network_of_run, network_of_weights
from se_flax.models import model_info
from se_flax.pretrained.save import LIBRARIES
from se_flax.runtime.paths import Path, is_in_bucket, to_path
from se_flax.runtime.status import busy
from se_flax.runtime.storage import is_writable, make_folder, write_bytes, write_json
from se_flax.workdir import read_config

FORMATS = ("safetensors", "stablehlo", "onnx")


def define_flags() -> None:
    """Declares the options of this command."""
    define_trained_flags()
    flags.DEFINE_enum("format", None, FORMATS, "What to write.")
    flags.DEFINE_enum(
        "layout",
        None,
        LIBRARIES,
        "With --format=safetensors: PyTorch library whose network of this architecture takes the "
        "file. By default, it is in our own layout.",
    )
    flags.DEFINE_string(
        "output",
        None,
        "File to write, with the format's name as suffix; by default NAME.FORMAT in the workdir's "
        "folder export, or, with --model, in the current folder.",
    )


def main(argv: list[str]) -> None:
    """Writes the file and prints what is in it."""
    options = flags.FLAGS
    name = _check_options()
    path = _output(name)
    with busy("loading"):
        if options.workdir:
            trained = network_of_run(options.workdir, options.step or "best", options.seed)
        else:
            trained = network_of_weights(name, options.weights)
    with busy(f"writing {path}"):
        content = _content(trained)
        make_folder(path.parent)
        write_bytes(path, content)
        if options.format == "stablehlo":
            write_json(path.with_suffix(".json"), trained.description())
    prepared = trained.preparation
    print(
        f"wrote {path} ({len(content) / 1e6:,.1f} MB): {name} for images "
        f"[n, {prepared.size}, {prepared.size}, {len(prepared.mean)}]"
    )


def _check_options() -> str:
    """Returns the network's name; raises `UserError` if options are missing or do not fit."""
    options = flags.FLAGS
    if options.format is None:
        raise UserError(f"--format is missing; give one of {', '.join(FORMATS)}")
    check_trained_flags()
    if options.layout and options.format != "safetensors":
        raise UserError(
            f"--layout is for --format=safetensors, not {options.format}; remove one of them"
        )
    if options.model:
        return model_info(options.model).name
    return read_config(to_path(options.workdir)).model.name


def _output(name: str) -> Path:
    """Returns the file to write; raises `UserError` if it cannot be."""
    options = flags.FLAGS
    if options.output is None:
        file = f"{name}_{options.layout}" if options.layout else name
        folder = to_path(options.workdir) / "export" if options.workdir else to_path(".")
        if options.workdir and not is_writable(folder.parent):
            raise UserError(
                f"{folder.parent} cannot be written to; give another place with --output=FILE"
            )
        return folder / f"{file}.{options.format}"
    path = to_path(options.output)
    if path.suffix != f".{options.format}":
        raise UserError(f"--output={path} must end in .{options.format}")
    if not is_in_bucket(path) and not path.parent.is_dir():
        raise UserError(f"there is no folder {path.parent} for {path.name}; create it first")
    return path


def _content(trained: TrainedNetwork) -> bytes:
    """Returns the content of the file."""
    options, prepared = flags.FLAGS, trained.preparation
    if options.format == "safetensors":
        return trained.to_safetensors(options.layout)
    shape = prepared.size, len(prepared.mean)
    if options.format == "stablehlo":
        return to_stablehlo(trained.network, trained.variables, *shape)
    metadata = {"se_flax": json.dumps(trained.description())}
    return to_onnx(trained.network, trained.variables, *shape, metadata=metadata)


if __name__ == "__main__":
    define_flags()
    app.run(run_command(main), flags_parser=parse_flags)
