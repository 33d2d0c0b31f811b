"""The place of the SE block in a residual unit: python -m experiments.placement."""

from experiments.study import Cell, Study, ablation_cells, main_of, shallow_scales

SMALL_EPOCHS = 3
PLACEMENTS = {
    "standard": "before the sum (standard)",
    "pre": "before the convolutions (SE-PRE)",
    "post": "after the sum (SE-POST)",
    "identity": "on the shortcut (SE-Identity)",
}


def cells(scale: str) -> list[Cell]:
    """Returns the cells of a scale."""
    rows = []
    for placement, label in PLACEMENTS.items():
        model = {"pre": "SE-PRE", "post": "SE-POST", "identity": "SE-Identity"}.get(placement)
        published = []
        if model:
            published = [
                ("Course placement study", "cifar10", model),
                ("SE paper placement", "imagenet2012", model),
            ]
        overrides = {"se_placement": placement}
        rows.append((placement, label, overrides, tuple(published), None))
    return ablation_cells(scale, SMALL_EPOCHS, rows)


STUDY = Study(
    name="placement",
    title="Placement",
    question="Which place in a residual unit is best for the SE block (SE paper, figure 5)?",
    cells=cells,
    scales=shallow_scales(SMALL_EPOCHS),
)

if __name__ == "__main__":
    main_of(STUDY)
