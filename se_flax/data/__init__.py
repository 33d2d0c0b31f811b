"""Where images come from and how they reach a device."""

from se_flax.data.memory import Dataset, Split
from se_flax.data.sources import known_datasets, load_dataset

__all__ = ["Dataset", "Split", "known_datasets", "load_dataset"]
