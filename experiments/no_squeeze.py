"""SE blocks without the squeeze: python -m experiments.no_squeeze."""

from experiments.study import Cell, Study, ablation_cells, main_of, shallow_scales

SMALL_EPOCHS = 5


def cells(scale: str) -> list[Cell]:
    """Returns the cells of a scale."""
    published = (("SE paper no squeeze", "imagenet2012", "NoSqueeze"),)
    rows = [
        ("se", "SE", {}, (), None),
        ("no_squeeze", "NoSqueeze", {"squeeze": "none"}, published, None),
    ]
    return ablation_cells(scale, SMALL_EPOCHS, rows)


STUDY = Study(
    name="no_squeeze",
    title="Without squeeze",
    question="Does the block need the mean of the whole map, or is a gate for each position enough "
    "(SE paper, section 7.1)?",
    cells=cells,
    scales=shallow_scales(SMALL_EPOCHS),
)

if __name__ == "__main__":
    main_of(STUDY)
