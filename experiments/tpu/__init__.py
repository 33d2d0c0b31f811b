"""This project's programs, compiled for TPUs without a TPU: `python -m experiments.tpu`."""
