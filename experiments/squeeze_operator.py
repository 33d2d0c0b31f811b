"""Average or maximum as the squeeze: python -m experiments.squeeze_operator."""

from experiments.study import Cell, Study, ablation_cells, main_of, shallow_scales

SMALL_EPOCHS = 5
LABELS = {"avg": "average", "max": "maximum"}


def cells(scale: str) -> list[Cell]:
    """Returns the cells of a scale."""
    rows = []
    for squeeze in LABELS:
        published = (("SE paper squeeze operator", "imagenet2012", squeeze),)
        rows.append((LABELS[squeeze], LABELS[squeeze], {"squeeze": squeeze}, published, None))
    return ablation_cells(scale, SMALL_EPOCHS, rows)


STUDY = Study(
    name="squeeze_operator",
    title="Squeeze operator",
    question="Does the mean or the maximum describe a channel better?",
    cells=cells,
    scales=shallow_scales(SMALL_EPOCHS),
)

if __name__ == "__main__":
    main_of(STUDY)
