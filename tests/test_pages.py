"""The commands on the pages of the documentation."""

import re
import shlex

import jax
import pytest

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "tpu.md").read_text()


def commands():
    """Returns the commands of se_flax and the experiments on the page, as lists of arguments."""
    blocks = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    text = "\n".join(blocks).replace("\\\n", " ")
    found = re.findall(r"python (-m (?:se_flax|experiments)\.[^\n>|&#]*)", text)
    return [shlex.split(command) for command in found]


def test_the_page_has_commands():
    assert len(commands()) == 5


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_a_command_has_options_that_exist_and_a_config_that_is_accepted(command, run_python):
    module, options = command[1], command[2:]
    if module != "se_flax.main":
        process = run_python("-m", module, *options)
        assert process.returncode == 0, process.stderr
        return
    code = (
        "import sys\n"
        "from absl import flags\n"
        "import se_flax.main as command\n"
        "from se_flax.config import check_config\n"
        "command.define_flags()\n"
        "flags.FLAGS(['main', *sys.argv[1:]])\n"
        "check_config(flags.FLAGS.config)\n"
    )
    process = run_python("-c", code, *options)
    assert process.returncode == 0, process.stderr


@pytest.mark.slow
def test_the_run_to_profile_writes_its_trace(run_python, tmp_path):
    (command,) = (each for each in commands() if "--config.profile_steps=20" in each)
    command = [each for each in command if not each.startswith("--workdir")]
    process = run_python(*command, f"--workdir={tmp_path}", "--config.num_epochs=3")
    assert process.returncode == 0, process.stderr
    (trace,) = tmp_path.glob("plugins/profile/*/*.xplane.pb")
    planes = jax.profiler.ProfileData.from_file(str(trace)).planes
    assert "/host:CPU" in [plane.name for plane in planes]
