"""The networks that `experiments.speed` compares with, as one would write them without se_flax."""
