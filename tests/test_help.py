import pytest

from se_flax.config import FIELDS

STUDIES = "backbones ratio stage placement squeeze_operator excitation_operator no_squeeze "
STUDIES += "variants attention"
OF_A_STUDY = "--scale= --seeds= --out= --runs= --cells= --note="


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("se_flax.main", "--config= --workdir= --process_id="),
        ("se_flax.evaluate", "--workdir= --model= --image_dir="),
        ("se_flax.predict", "--workdir= --model= --top=5 --json=false --output="),
        ("se_flax.publish", "--workdir= --repo= --dry_run=false --license=unknown --output="),
        ("se_flax.burden", "--input_size="),
        ("se_flax.pretrained", ""),
        ("se_flax.data.preview", "--config= --output="),
        ("se_flax.data.tiny_imagenet", "--zip="),
        ("se_flax.analysis.excitations", "--workdir= --split= --classes= --bands="),
        ("se_flax.analysis.heatmaps", "--workdir= --split= --count="),
        ("se_flax.analysis.confusion", "--workdir= --split= --pairs="),
        *((f"experiments.{study}", OF_A_STUDY) for study in STUDIES.split()),
        ("experiments.inference_time", "--scale= --seeds= --out="),
        ("experiments.report", "--out="),
        ("experiments.gates", "--runs= --out= --batch_size="),
        ("experiments.repeated", "--out= --note="),
        ("experiments.speed", "--section="),
        ("experiments.streaming_speed", "--image_dir="),
    ],
)
def test_help_lists_the_options_of_a_command_and_no_others(run_command, command, options):
    process = run_command(command, "--help", COLUMNS="80")
    assert process.returncode == 0
    assert process.stderr == ""
    lines = process.stdout.splitlines()
    listed = [line.strip() for line in lines if line.startswith("  --")]
    for option in options.split():
        assert any(line.startswith(option) for line in listed), option
    assert not any(line.startswith(("--verbosity", "--log_dir")) for line in listed)
    assert command in process.stdout or f"{command}." in process.stdout
    assert max(len(line) for line in lines if not line.startswith("  --")) < 80


def test_help_of_a_run_lists_each_field_with_default_and_meaning(run_command):
    output = run_command("se_flax.main", "--help").stdout
    text = " ".join(output.split())
    for name, field in FIELDS.items():
        assert f"--config.{name}={field.default} {field.meaning}" in text
