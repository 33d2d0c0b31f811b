"""Progressive learning: images that grow during a run, and are augmented more and more strongly.

Tan and Le, EfficientNetV2, arXiv:2104.00298, section 4 and algorithm 1. The run is divided into
`config.progressive.stages` equal parts. In each of them, the size of the training images, the
magnitude of RandAugment, alpha of mixup and the dropout rate have their own values, which grow
linearly: the first ones are in `config.progressive`, the last ones are the usual fields.
"""

from ml_collections import ConfigDict

from se_flax.config import build_model
from se_flax.data.dataset import RunDataset
from se_flax.data.stages import first_step, growing, last_values
from se_flax.errors import UserError


def configs_of_stages(config: ConfigDict) -> tuple[ConfigDict, ...]:
    """Returns for each stage of a run a config with the augmentation and dropout of that stage."""
    count = config.progressive.stages
    if count == 1:
        return (config,)
    last = last_values(config, build_model(config, num_classes=2).dropout)
    configs = []
    for i in range(count):
        magnitude, mixup, dropout = (
            growing(config.progressive[name], last[name][1], count)[i]
            for name in ("magnitude", "mixup", "dropout")
        )
        stage = config.copy_and_resolve_references()
        stage.augment.magnitude, stage.augment.mixup = float(magnitude), float(mixup)
        stage.model.overrides.dropout = float(dropout)
        configs.append(stage)
    return tuple(configs)


def train_sizes(dataset: RunDataset) -> tuple[int, ...]:
    """Returns height and width of the training images in each stage; () if they are not known."""
    return tuple(getattr(dataset, "train_sizes", ()))


def check_stages_of(dataset: RunDataset, num_stages: int) -> None:
    """Raises `UserError` if the training images of a data set do not grow as the config says.

    Args:
        dataset: of the run.
        num_stages: `config.progressive.stages`.
    """
    sizes = train_sizes(dataset)
    if max(1, len(sizes)) != num_stages:
        raise UserError(
            f"config.progressive.stages={num_stages}, but the training images of {dataset.name} "
            f"have {max(1, len(sizes))} stage(s); give the data set a crop for each stage, or "
            "change stages"
        )
    if sizes and max(sizes) > sizes[-1]:
        raise UserError(
            f"the training images of {dataset.name} have {max(sizes)} pixels in an early stage and "
            f"{sizes[-1]} in the last; make config.progressive.train_size smaller, or "
            "config.dataset.train_size larger"
        )


def describe_stages(config: ConfigDict, dataset: RunDataset, total_steps: int) -> list[str]:
    """Returns lines on the sizes and stages of training images, for a run's introduction."""
    configs, sizes = configs_of_stages(config), train_sizes(dataset)
    if len(configs) == 1:
        height = dataset.image_shape[0]
        return [f"training images of {size}x{size}" for size in sizes if size != height]
    lines = [f"{len(configs)} stages of training:"]
    for i, (stage, size) in enumerate(zip(configs, sizes, strict=True)):
        values = [f"images of {size}x{size}"]
        if stage.augment.policy.startswith("randaugment"):
            values.append(f"magnitude {stage.augment.magnitude:.3g}")
        values.append(f"mixup {stage.augment.mixup:.3g}")
        values.append(f"dropout {stage.model.overrides.dropout:.3g}")
        lines.append(f"  from step {first_step(i, total_steps, len(configs))}: {', '.join(values)}")
    return lines
