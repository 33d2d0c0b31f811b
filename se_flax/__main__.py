"""Runs a command: python -m se_flax COMMAND [OPTIONS]. Without COMMAND, it lists them."""

import importlib.util
import runpy
import sys
from typing import NoReturn

from se_flax import __version__
from se_flax.errors import nearest

# The module of each command, and what it does.
COMMANDS = {
    "train": ("se_flax.main", "Trains the network of a config, or continues its training."),
    "evaluate": ("se_flax.evaluate", "Evaluates a run's checkpoint, or published weights."),
    "predict": ("se_flax.predict", "Says what is on photographs."),
    "export": ("se_flax.export", "Writes a network to a file for other programs."),
    "publish": ("se_flax.publish", "Uploads a run's network to the Hugging Face hub."),
    "configs": ("se_flax.cli.list_configs", "Lists the configs that come with the package."),
    "pretrained": ("se_flax.pretrained", "Lists published weights that can be read."),
    "burden": ("se_flax.burden", "Counts parameters, memory and multiply-adds of networks."),
    "preview": ("se_flax.data.preview", "Draws the images that a config feeds its network."),
    "tiny_imagenet": ("se_flax.data.tiny_imagenet", "Prepares the data set Tiny ImageNet."),
    "excitations": ("se_flax.analysis.excitations", "Draws the gates of SE blocks by class."),
    "heatmaps": ("se_flax.analysis.heatmaps", "Draws which parts of an image speak for a class."),
    "confusion": ("se_flax.analysis.confusion", "Prints and draws the confusion matrix."),
}
USER_ERROR = 2  # exit status after bad input


def listing() -> str:
    """Returns a page with the commands."""
    commands = "\n".join(f"  {name:<15}{does}" for name, (_, does) in COMMANDS.items())
    return (
        f"se_flax {__version__}: Squeeze-and-Excitation networks in JAX and Flax\n\n"
        "python -m se_flax COMMAND [OPTIONS]\n\n"
        f"{commands}\n\n"
        "python -m se_flax COMMAND --help lists the options of a command.\n"
        "First run: python -m se_flax train --config=quickstart"
    )


def main() -> None:
    """Runs the command that the command line names, as `python -m MODULE` would."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("--help", "-h", "help"):
        print(listing())
        return
    if name == "--version":
        print(__version__)
        return
    if name not in COMMANDS:
        hint = nearest(name, COMMANDS) or f"; the commands are {', '.join(COMMANDS)}"
        _refuse(f'there is no command "{name}"{hint}')
    if importlib.util.find_spec("ml_collections") is None:
        _refuse('the commands need more than JAX and Flax; pip install "se_flax[train]"')
    module, _ = COMMANDS[name]
    del sys.argv[1]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def script() -> None:
    """Runs the scripts `se_flax` and `se-flax`, which find the same modules as `python -m`."""
    if not sys.flags.safe_path:
        sys.path.insert(0, "")
    main()


def _refuse(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(USER_ERROR)


if __name__ == "__main__":
    main()
