"""What setup.cfg cannot state: where the configs go, and a README without relative links."""

import pathlib
import re

from setuptools import find_packages, setup

readme = (pathlib.Path(__file__).parent / "README.md").read_text(encoding="utf-8")
# Outside the repository its files cannot be linked to. Figures are left out, and of links the text
# is left.
readme = re.sub(r"!\[[^\]]*\]\((?!https?://)[^)]*\)\n*", "", readme)
readme = re.sub(r"\[([^\]]+)\]\((?!https?://)[^)]*\)", r"\1", readme)

setup(
    # configs/ is installed as se_flax/configs; se_flax/cli/config_files.py finds it in both places.
    packages=[*find_packages(include=["se_flax*"]), "se_flax.configs"],
    package_dir={"se_flax.configs": "configs"},
    long_description=readme,
)
