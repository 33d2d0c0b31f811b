"""What setup.cfg cannot state: where the configs go."""

from setuptools import find_packages, setup

setup(
    # configs/ is installed as se_flax/configs; se_flax/cli/config_files.py finds it in both places.
    packages=[*find_packages(include=["se_flax*"]), "se_flax.configs"],
    package_dir={"se_flax.configs": "configs"},
)
