"""The reduction ratio of SE blocks: python -m experiments.ratio."""

from experiments.study import Cell, Study, ablation_cells, main_of, shallow_scales

SMALL_EPOCHS = 2
RATIOS = (1, 2, 4, 8, 16, 32)


def cells(scale: str) -> list[Cell]:
    """Returns the cells of a scale."""
    rows = []
    for ratio in RATIOS:
        published = [("Course ratio study", "cifar10", f"SE-ResNet r={ratio}")]
        if ratio > 1:
            published.append(("SE paper ratio", "imagenet2012", f"SE-ResNet-50 r={ratio}"))
        overrides = {"reduction": ratio}
        rows.append((f"ratio{ratio}", f"r = {ratio}", overrides, tuple(published), float(ratio)))
    return ablation_cells(scale, SMALL_EPOCHS, rows)


STUDY = Study(
    name="ratio",
    title="Reduction ratio",
    question="How narrow can the bottleneck of an SE block be? The first stage has 16 channels, so "
    "its bottleneck has one channel both for r = 16 and for r = 32.",
    cells=cells,
    scales=shallow_scales(SMALL_EPOCHS),
    x_label="reduction ratio r",
)

if __name__ == "__main__":
    main_of(STUDY)
