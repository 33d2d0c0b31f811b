"""SE blocks in only one stage of a network: python -m experiments.stage."""

from experiments.study import Cell, Study, ablation_cells, main_of, shallow_scales

SMALL_EPOCHS = 3


def cells(scale: str) -> list[Cell]:
    """Returns the cells of a scale.

    The published studies count the stem as the first stage.
    """
    rows = []
    for stage in (1, 2, 3):
        published = (
            ("Course stage study", "cifar10", f"SE in stage {stage + 1}"),
            ("SE paper stage", "imagenet2012", f"SE in stage {stage + 1}"),
        )
        label = f"SE in stage {stage} of 3"
        rows.append((f"stage{stage}", label, {"se_stages": (stage,)}, published, float(stage)))
    published = (("SE paper stage", "imagenet2012", "SE in all stages"),)
    rows.append(("all", "SE in all stages", {}, published, None))
    return ablation_cells(scale, SMALL_EPOCHS, rows)


STUDY = Study(
    name="stage",
    title="Stage",
    question="In which stage of the network do SE blocks matter most?",
    cells=cells,
    scales=shallow_scales(SMALL_EPOCHS),
    x_label="stage with SE blocks",
)

if __name__ == "__main__":
    main_of(STUDY)
