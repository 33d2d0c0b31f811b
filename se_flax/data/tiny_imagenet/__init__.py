"""Tiny ImageNet-200 as the TFDS data set `tiny_imagenet`, prepared from the official zip."""

from se_flax.data.tiny_imagenet.builder import TinyImagenet, prepare, words

__all__ = ["TinyImagenet", "prepare", "words"]
