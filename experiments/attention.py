"""SE and the attention blocks that came after it: python -m experiments.attention."""

from experiments.study import (
    Cell,
    Study,
    ablation_cells,
    ablation_config,
    main_of,
    shallow_scales,
)

SMALL_EPOCHS = 5
# Name, label, and fields of the network and its blocks.
BLOCKS = (
    ("ese", "effective SE", {"se": "ese"}),
    ("eca", "ECA", {"se": "eca"}),
    ("cbam", "CBAM", {"se": "cbam"}),
    ("ge_theta_minus", "Gather-Excite θ-", {"se": "gather_excite"}),
    ("ge_theta_plus", "Gather-Excite θ+", {"se": "gather_excite", "form": "theta+"}),
    ("global_context", "global context", {"se": "global_context"}),
    ("selective_kernel", "selective kernels (larger network)", {"se": "sk"}),
)


def cells(scale: str) -> list[Cell]:
    """Returns the cells of a scale, whose blocks have the ratios that `STUDY` states."""
    result = ablation_cells(scale, SMALL_EPOCHS, [("se", "SE", {}, (), None)])
    for name, label, fields in BLOCKS:
        config = ablation_config(scale, False, SMALL_EPOCHS)
        config.model.overrides.update(fields)
        result.append(Cell(name, result[0].group, label, config, "plain"))
    return result


STUDY = Study(
    name="attention",
    title="Attention blocks",
    question="Are the blocks that came after SE better than SE? Blocks with a reduction ratio use "
    "16; Gather-Excite gathers over the whole map. Selective kernels add a second 3x3 convolution "
    "to each unit, and have bottlenecks of 32 channels, the published minimum. Their network has "
    "1.6 times the parameters and 1.5 times the multiply-adds, and no plain network of that size "
    "was trained (docs/blocks.md).",
    cells=cells,
    scales=shallow_scales(SMALL_EPOCHS),
)

if __name__ == "__main__":
    main_of(STUDY)
