"""The networks that `experiments.speed` compares to, as one would write them elsewhere."""
