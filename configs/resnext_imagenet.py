"""ResNeXt (32x4d) on ImageNet; the argument is the depth: configs/resnext_imagenet.py:101.

This is se_resnext_imagenet.py without SE blocks.
"""

from ml_collections import ConfigDict

from configs import se_resnext_imagenet


def get_config(depth: str = "50") -> ConfigDict:
    return se_resnext_imagenet.get_config(depth, se=False)
