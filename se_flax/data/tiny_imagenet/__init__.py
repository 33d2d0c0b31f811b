"""Tiny ImageNet-200: the TFDS data set `tiny_imagenet`, and its preparation from the zip."""

from se_flax.data.tiny_imagenet.builder import TinyImagenet, prepare, words

__all__ = ["TinyImagenet", "prepare", "words"]
