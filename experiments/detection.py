"""Faster R-CNN over trunks with SE blocks and without, on COCO: python -m experiments.detection."""

from experiments.study import Cell, Study, main_of

# Name of the cell and of the config, label, and cell without SE.
ROWS = (
    ("resnet50", "ResNet-50", None),
    ("se_resnet50", "SE-ResNet-50", "resnet50"),
    ("resnet101", "ResNet-101", None),
    ("se_resnet101", "SE-ResNet-101", "resnet101"),
)


def published(label: str) -> tuple[str, str, str]:
    """Returns the key in `published_rows` of a trunk."""
    return ("SE paper detection", "coco", label.removeprefix("SE-"))


def cells(scale: str) -> list[Cell]:
    """Returns the cells of a scale."""
    from configs import faster_rcnn_coco

    return [
        Cell(
            name,
            "COCO",
            label,
            faster_rcnn_coco.get_config(name),
            baseline,
            (published(label),),
        )
        for name, label, baseline in ROWS
    ]


STUDY = Study(
    name="detection",
    title="Detection",
    question="How much average precision do SE blocks add to a detector?",
    cells=cells,
    scales={
        "full": "the paper's training on COCO (configs/faster_rcnn_coco.py), days on eight GPUs."
    },
)

if __name__ == "__main__":
    main_of(STUDY)
