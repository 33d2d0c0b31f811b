"""Data sets: sources of images, preprocessing, and batches for the devices."""

from se_flax.data.memory import Dataset, Split
from se_flax.data.sources import known_datasets, load_dataset

__all__ = ["Dataset", "Split", "known_datasets", "load_dataset"]
