"""Variants of the SE block: python -m experiments.variants."""

from configs import se_variants_cnn3, se_variants_resnet18
from experiments import budget
from experiments.study import SMOKE, Cell, Study, main_of, shortened

SMALL_EPOCHS = 8
PLAIN = "default"  # the paper's word for the network without a block
# Our names, and the names in arXiv:2304.06502.
VARIANTS = {
    PLAIN: "Default",
    "standard": "SE module",
    "slow_squeeze": "Slow squeeze and excite",
    "slow_excite": "Squeeze and slow excite",
    "slow_squeeze_slow_excite": "Slow squeeze and slow excite",
    "bump": "Bump module",
}


def _on_resnet20() -> list[Cell]:
    """Returns the cells of the budget scale; nothing has been published on this network."""
    result = []
    for variant, label in VARIANTS.items():
        if variant == PLAIN:
            config, baseline = budget.resnet20_config(se=False), None
        else:
            config = budget.resnet20_config(se=True, variant=variant)
            baseline = f"resnet20_cifar10_{PLAIN}"
        name = f"resnet20_cifar10_{variant}"
        result.append(Cell(name, "ResNet-20, CIFAR-10", label, config, baseline))
    return result


def cells(scale: str) -> list[Cell]:
    """Returns the cells of a scale."""
    if scale == "budget":
        return _on_resnet20()
    result = []
    runs = [("cnn3", "3-layer CNN", "cifar10", "CIFAR-10")]
    if scale == "full":
        runs += [
            ("resnet18", "ResNet-18", dataset, title)
            for dataset, title in (
                ("cifar10", "CIFAR-10"),
                ("cifar100", "CIFAR-100"),
                ("svhn", "SVHN"),
            )
        ]
    for network, title, dataset, dataset_title in runs:
        prefix = f"{network}_{dataset if scale != 'smoke' else 'digits'}"
        for variant, label in VARIANTS.items():
            if network == "cnn3":
                config = se_variants_cnn3.get_config(variant)
            else:
                config = se_variants_resnet18.get_config(f"{variant},{dataset}")
            # In the paper's table, each row has the network without a block next to a variant.
            model = "SE module" if variant == PLAIN else label
            result.append(
                Cell(
                    f"{prefix}_{variant}",
                    f"{title}, {dataset_title if scale != 'smoke' else 'digits'}",
                    label,
                    shortened(config, scale, SMALL_EPOCHS),
                    None if variant == PLAIN else f"{prefix}_{PLAIN}",
                    ((f"SE variations {title}", dataset, model),),
                )
            )
    return result


STUDY = Study(
    name="variants",
    title="Variants of the SE block",
    question="Do slower squeezes and excitations help, or one more layer between them (Bump)? In "
    "the 3-layer CNN the block replaces the second convolution (arXiv:2304.06502).",
    cells=cells,
    scales={
        "full": "with the paper's recipe, 50 epochs (configs/se_variants_cnn3.py and "
        "configs/se_variants_resnet18.py). Our ResNet-18 has a stem for 32x32 pixels, and the "
        "paper's probably the stem for ImageNet, so compare only what SE changes.",
        "small": f"the 3-layer CNN on CIFAR-10 for {SMALL_EPOCHS} epochs instead of 50. By their "
        f"end the learning rate has fallen to {0.7**SMALL_EPOCHS:.1%} of its initial value.",
        "budget": budget.DESCRIPTION,
        "smoke": f"the 3-layer CNN on {SMOKE}",
    },
)

if __name__ == "__main__":
    main_of(STUDY)
