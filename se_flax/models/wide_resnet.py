"""Wide residual networks for 32x32 images (Zagoruyko & Komodakis, arXiv:1605.07146, table 1)."""

from se_flax.models.resnet import PreactBasicUnit, register_for_cifar

# WRN-16-8 has 16 layers, and 8 times the widths of a ResNet for CIFAR. It is the one in tables 4
# and 5 of the SE paper.
register_for_cifar(
    "wrn16_8_cifar",
    paper="Zagoruyko & Komodakis, Wide Residual Networks, arXiv:1605.07146, table 1",
    stage_sizes=(2, 2, 2),
    widths=(128, 256, 512),
    unit=PreactBasicUnit,
    stem_widths=(16,),
    final_norm=True,
)
