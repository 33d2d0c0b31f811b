"""Lists the configs that come with the package: python -m se_flax configs.

Their names can be given to --config. To change more than the command line can, copy one.
"""

import ast
import textwrap

from absl import app

from se_flax.cli.command import parse_flags, run_command
from se_flax.cli.config_files import FOLDER, shipped


def main(argv: list[str]) -> None:
    """Prints the name of each config, the first line of its docstring, and their folder."""
    names = shipped()
    width = max(map(len, names)) + 2
    for name in names:
        page = ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))
        summary = (ast.get_docstring(page) or "").partition("\n\n")[0]
        lines = textwrap.wrap(" ".join(summary.split()), 100 - width)
        print(f"{name:<{width}}" + f"\n{'':<{width}}".join(lines))
    print(f"\nThey are in {FOLDER}.")


if __name__ == "__main__":
    app.run(run_command(main), flags_parser=parse_flags)
