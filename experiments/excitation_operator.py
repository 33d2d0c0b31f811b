"""The non-linearity of the gate: python -m experiments.excitation_operator."""

from experiments.study import Cell, Study, ablation_cells, main_of, shallow_scales

SMALL_EPOCHS = 4


def cells(scale: str) -> list[Cell]:
    """Returns the cells of a scale."""
    rows = []
    for gate, name in (("relu", "ReLU"), ("tanh", "Tanh"), ("sigmoid", "Sigmoid")):
        published = (("SE paper excitation operator", "imagenet2012", name),)
        rows.append((gate, gate, {"gate": gate}, published, None))
    return ablation_cells(scale, SMALL_EPOCHS, rows)


STUDY = Study(
    name="excitation_operator",
    title="Excitation operator",
    question="Which non-linearity should the gate have?",
    cells=cells,
    scales=shallow_scales(SMALL_EPOCHS),
)

if __name__ == "__main__":
    main_of(STUDY)
