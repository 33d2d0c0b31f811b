"""Lists published weights: python -m se_flax.pretrained "se_*".

Other weights of these networks can be read, too, from a hub id or a file. timm's hub ids state the
architecture, and weights for another network are refused. A bare file states nothing: make sure
that it is for the network that you load it into, and not for one with the same tensors that
computes differently. Where such networks are known, a note names them. Files in the list are
recognised by their names.
"""

import fnmatch
import functools

from absl import app

from se_flax.cli.command import parse_flags, run_command
from se_flax.errors import UserError
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
        prepared = weights.preparation
        mean, std = _numbers(prepared.mean, 3), _numbers(prepared.std, 3)
        print(
            f"{weights.model:<27}{weights.source:<41}{weights.input_size:>5}{weights.crop_pct:>7} "
            f"{weights.interpolation:<11}{mean:<18}{std:<18}"
            f"{weights.top1_error:>10}{weights.top5_error:>11}"
        )
    print(
        "\nErrors in percent, on centre crops of ImageNet's validation images; source: "
        f"{FIGURES}.\n"
        "Images are resized to a short side of input / crop and scaled to 0..1; then the mean "
        "(red, green, blue) is\nsubtracted, and the result divided by std. SE-BN-Inception was "
        "released for Caffe: pass its .caffemodel,\nfrom github.com/hujie-frank/SENet, as a "
        "file. Its errors should be 23.62 and 7.04.\n"
        "Other weights are prepared for as their hub repository's config.json states. A bare file "
        "does not state its\nnetwork; where another one has the same tensors, a note names it."
    )


def _print_files(entries: list[PublishedWeights]) -> None:
    print(
        f"{'model':<24}{'data set':<14}{'input':>5}{'crop':>7} {'resized by':<11}"
        f"{'mean':<22}{'std':<22}{'top-1 err.':>10}{'top-5 err.':>11}  file to download"
    )
    for weights in entries:
        prepared = weights.preparation
        mean, std = _numbers(prepared.mean, 4), _numbers(prepared.std, 4)
        top5 = "" if weights.top5_error is None else weights.top5_error
        print(
            f"{weights.model:<24}{weights.dataset:<14}"
            f"{weights.input_size:>5}{weights.crop_pct:>7} "
            f"{weights.interpolation:<11}{mean:<22}{std:<22}"
            f"{weights.top1_error:>10}{top5:>11}  {weights.source}"
        )
    figures = "; ".join(dict.fromkeys(weights.figures for weights in entries))
    print(
        "\nErrors in percent, on centre crops of ImageNet's validation images and whole test "
        f"images of the others; sources: {figures}.\n"
        "Download a file (and unzip a .zip), and pass its path. It is recognised by its name."
    )


if __name__ == "__main__":
    app.run(run_command(main), flags_parser=functools.partial(parse_flags, positional=1))
