"""Faster R-CNN over trunks with SE blocks and without: python -m experiments.detection."""

from typing import NamedTuple

from configs import faster_rcnn_coco, faster_rcnn_quickstart
from experiments.study import Cell, Study, main_of


class Row(NamedTuple):
    """A detector: the name of its cell, its label, and the cell without SE blocks, if any."""

    name: str
    label: str
    baseline: str | None


ROWS = {
    "budget": (
        Row("resnet18", "small ResNet", None),
        Row("se_resnet18", "small SE-ResNet", "resnet18"),
    ),
    "full": (
        Row("resnet50", "ResNet-50", None),
        Row("se_resnet50", "SE-ResNet-50", "resnet50"),
        Row("resnet101", "ResNet-101", None),
        Row("se_resnet101", "SE-ResNet-101", "resnet101"),
    ),
}


def published(label: str) -> tuple[str, str, str]:
    """Returns the key in `published_rows` of a trunk."""
    return ("SE paper detection", "coco", label.removeprefix("SE-"))


def cells(scale: str) -> list[Cell]:
    """Returns the cells of a scale."""
    if scale == "budget":
        return [
            Cell(
                row.name,
                "shapes",
                row.label,
                faster_rcnn_quickstart.get_config(se=row.baseline is not None),
                row.baseline,
            )
            for row in ROWS[scale]
        ]
    return [
        Cell(
            row.name,
            "COCO",
            row.label,
            faster_rcnn_coco.get_config(row.name),
            row.baseline,
            (published(row.label),),
        )
        for row in ROWS[scale]
    ]


STUDY = Study(
    name="detection",
    title="Detection",
    question="How much average precision do SE blocks add to a detector?",
    cells=cells,
    scales={
        "budget": "2,000 generated images of shapes for 4 epochs, from random weights "
        "(configs/faster_rcnn_quickstart.py). They are so simple that they cannot tell what SE "
        "does on photographs.",
        "full": "the paper's training on COCO (configs/faster_rcnn_coco.py), days on eight GPUs.",
    },
)

if __name__ == "__main__":
    main_of(STUDY)
