"""Networks with SE blocks and without: python -m experiments.backbones."""

import functools
from collections.abc import Callable

from ml_collections import ConfigDict

from configs import (
    se_inception_cifar,
    se_resnet_cifar10,
    se_resnet_cifar100,
    se_resnet_tiny_imagenet,
    se_resnext_cifar,
    se_small_cnn_cifar,
)
from experiments import budget
from experiments.study import SMOKE, Cell, Study, main_of, shortened

SMALL_EPOCHS = 5
BUDGET_EPOCHS = 25  # of the small CNN


def _resnet(depth: str, preactivation: bool = False) -> Callable[..., ConfigDict]:
    def config_of(classes: str, *, se: bool) -> ConfigDict:
        page = {"10": se_resnet_cifar10, "100": se_resnet_cifar100}[classes]
        return page.get_config(depth, se=se, preactivation=preactivation)

    return config_of


REPRODUCTION = "imgclsmob"
# Name, title, config, and (study, model) of published results on the same data sets.
ON_CIFAR = (
    (
        *("resnet20", "ResNet-20", _resnet("20")),
        (("Course reproduction", "ResNet (custom)"), (REPRODUCTION, "ResNet-20")),
    ),
    ("resnet56", "ResNet-56", _resnet("56"), ((REPRODUCTION, "ResNet-56"),)),
    ("resnet110", "ResNet-110", _resnet("110"), ((REPRODUCTION, "ResNet-110"),)),
    (
        *("preact_resnet110", "ResNet-110 with pre-activation", _resnet("110", True)),
        (("SE paper CIFAR", "ResNet-110"), (REPRODUCTION, "PreResNet-110")),
    ),
    (
        *("preact_resnet164", "ResNet-164 with pre-activation", _resnet("164", True)),
        (("SE paper CIFAR", "ResNet-164"), (REPRODUCTION, "PreResNet-164(BN)")),
    ),
    (
        *("resnext29", "ResNeXt-29", se_resnext_cifar.get_config),
        (("Course reproduction", "ResNeXt-29 8x64d"),),
    ),
    ("inception_v3", "Inception-v3", se_inception_cifar.get_config, ()),
    (
        *("small_cnn", "Small CNN", se_small_cnn_cifar.get_config),
        (("Small CNN", "Keras small CNN"),),  # on CIFAR-10
    ),
)

# Published results of networks that no cell trains.
ELSEWHERE = (
    *((REPRODUCTION, dataset, "ResNet-164(BN)") for dataset in ("cifar10", "cifar100")),
    *(
        (REPRODUCTION, "svhn", model)
        for model in (
            *("ResNet-20", "ResNet-56", "ResNet-110", "ResNet-164(BN)"),
            *("PreResNet-110", "PreResNet-164(BN)"),
        )
    ),
    ("NVIDIA", "imagenet2012", "ResNet-50"),
    ("NVIDIA", "imagenet2012", "ResNeXt-101 32x4d"),
    ("NVIDIA", "imagenet2012", "EfficientNet-B0, wider SE blocks instead of its own"),
)


def _config(scale: str, name: str, of: Callable[..., ConfigDict], classes: str, se: bool):
    """Returns the config of a network on CIFAR for a scale."""
    if scale == "budget" and name == "resnet20":
        return budget.resnet20_config(se)
    epochs = BUDGET_EPOCHS if scale == "budget" else SMALL_EPOCHS
    return shortened(of(classes, se=se), scale, epochs)


def cells(scale: str) -> list[Cell]:
    """Returns the cells of a scale."""
    result = []
    networks = {"budget": ("resnet20", "small_cnn")}.get(scale, ("small_cnn",))

    def add(name, group, title, config_of, published):
        result.append(Cell(name, group, title, config_of(se=False), None, published))
        result.append(Cell(f"{name}_se", group, f"SE-{title}", config_of(se=True), name, published))

    for classes in ("10", "100") if scale == "full" else ("10",):
        dataset = f"cifar{classes}"
        for name, title, of, like in ON_CIFAR:
            if scale == "full" or name in networks:
                group = f"CIFAR-{classes}" if scale != "smoke" else "digits"
                known = like if name != "small_cnn" or classes == "10" else ()
                published = tuple((source, dataset, model) for source, model in known)
                add(
                    f"{dataset if scale != 'smoke' else 'digits'}_{name}",
                    group,
                    title,
                    functools.partial(_config, scale, name, of, classes),
                    published,
                )
    if scale == "full":
        for depth in ("18", "34", "50"):
            for augmented in (False, True):

                def on_tiny_imagenet(se, depth=depth, augmented=augmented):
                    config = se_resnet_tiny_imagenet.get_config(depth, se=se)
                    config.augment.random_resized_crop = augmented
                    config.augment.horizontal_flip = augmented
                    return config

                model = f"ResNet-{depth}{' + augmentation' if augmented else ''}"
                add(
                    f"tiny_imagenet_resnet{depth}{'_augmented' if augmented else ''}",
                    "Tiny ImageNet",
                    f"ResNet-{depth}{', augmented' if augmented else ''}",
                    on_tiny_imagenet,
                    (("Course reproduction", "tiny_imagenet", model),),
                )
    return result


STUDY = Study(
    name="backbones",
    title="With and without SE",
    question="How much accuracy do SE blocks add to a network?",
    cells=cells,
    over_size=True,
    scales={
        "full": "every network with its own recipe (configs/).",
        "small": f"only the small CNN on CIFAR-10, for {SMALL_EPOCHS} epochs instead of 100.",
        "budget": f"{budget.DESCRIPTION} The small CNN keeps its own recipe, for {BUDGET_EPOCHS} "
        "epochs instead of 100.",
        "smoke": f"the small CNN on {SMOKE}",
    },
)

if __name__ == "__main__":
    main_of(STUDY)
