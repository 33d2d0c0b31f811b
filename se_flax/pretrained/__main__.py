"""Lists published weights: python -m se_flax.pretrained "se_*"."""

import fnmatch
import functools

from absl import app

from se_flax.cli.command import parse_flags, run_command
from se_flax.errors import UserError
from se_flax.models import model_info
from se_flax.pretrained.catalogue import FIGURES, PublishedWeights, catalogue


def _numbers(values: tuple[float, ...], digits: int) -> str:
    return " ".join(f"{value:.{digits}f}" for value in values)


def main(argv: list[str]) -> None:
    """Prints tables of the published weights of all models that match a pattern."""
    pattern = argv[1] if len(argv) > 1 else "*"
    chosen = [weights for weights in catalogue() if fnmatch.fnmatch(weights.model, pattern)]
    if not chosen:
        raise UserError(
            f'the catalogue has no weights for a model that matches "{pattern}"; without a pattern '
            "this command lists all weights"
        )
    on_hub = [weights for weights in chosen if not weights.file]
    files = [weights for weights in chosen if weights.file]
    if on_hub:
        _print_on_hub(on_hub)
    if on_hub and files:
        print()
    if files:
        _print_files(files)


def _print_on_hub(entries: list[PublishedWeights]) -> None:
    print(
        f"{'model':<27}{'source':<41}{'input':>5}{'crop':>7} {'resized by':<11}"
        f"{'mean':<18}{'std':<18}{'top-1 err.':>10}{'top-5 err.':>11}"
    )
    for weights in entries:
        info = model_info(weights.model)
        print(
            f"{weights.model:<27}{weights.source:<41}{weights.input_size:>5}{weights.crop_pct:>7} "
            f"{weights.interpolation:<11}{_numbers(info.mean, 3):<18}{_numbers(info.std, 3):<18}"
            f"{weights.top1_error:>10}{weights.top5_error:>11}"
        )
    print(
        "\nErrors in percent, on centre crops of ImageNet's validation images; source: "
        f"{FIGURES}.\n"
        "Images are resized to a short side of input / crop and scaled to 0..1; then the mean "
        "(red, green, blue) is\nsubtracted, and the result divided by std. SE-BN-Inception was "
        "released for Caffe: pass its .caffemodel,\nfrom github.com/hujie-frank/SENet, as a "
        "file. Its errors should be 23.62 and 7.04."
    )


def _print_files(entries: list[PublishedWeights]) -> None:
    print(
        f"{'model':<24}{'data set':<14}{'mean':<22}{'std':<22}{'top-1 err.':>10}{'top-5 err.':>11}"
        "  file to download"
    )
    for weights in entries:
        info = model_info(weights.model)
        mean, std = (
            _numbers(values, 4) for values in (weights.mean or info.mean, weights.std or info.std)
        )
        top5 = "" if weights.top5_error is None else weights.top5_error
        print(
            f"{weights.model:<24}{weights.dataset:<14}{mean:<22}{std:<22}"
            f"{weights.top1_error:>10}{top5:>11}  {weights.source}"
        )
    figures = "; ".join(dict.fromkeys(weights.figures for weights in entries))
    print(
        f"\nErrors in percent, on whole test images; sources: {figures}.\n"
        "Download a file (and unzip a .zip), and pass its path. It is recognised by its name."
    )


if __name__ == "__main__":
    app.run(run_command(main), flags_parser=functools.partial(parse_flags, positional=1))
