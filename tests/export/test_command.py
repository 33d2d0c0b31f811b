"""The command writes files that other programs read, and refuses what it cannot write."""

import json

import jax
import numpy as np
import pytest

import se_flax


def test_a_run_is_written_as_stablehlo_with_a_description(workdir, run_python):
    process = run_python("-m", "se_flax", "export", f"--workdir={workdir}", "--format=stablehlo")
    assert process.returncode == 0, process.stderr
    path = workdir / "export" / "se_resnet20_cifar.stablehlo"
    assert process.stdout.startswith(f"wrote {path} (")
    run = se_flax.load_run(workdir)
    images = np.random.default_rng(0).standard_normal((2, 8, 8, 1), np.float32)
    exported = jax.export.deserialize(bytearray(path.read_bytes()))
    expected = run.network.apply(run.variables, images, train=False)
    np.testing.assert_allclose(exported.call(images), expected, atol=1e-5)
    stated = json.loads(path.with_suffix(".json").read_text())
    assert stated["label_names"] == list("0123456789")
    assert stated["architecture"] == "se_resnet20_cifar"
    assert stated["model_args"] == {"stage_sizes": [1, 1], "widths": [4, 8], "reduction": 2}
    assert stated["pretrained_cfg"]["input_size"] == [1, 8, 8]
    assert stated["pretrained_cfg"]["mean"] == list(run.preparation.mean)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--workdir={run}", "--format is missing; give one of safetensors, stablehlo, onnx"),
        ("--format=onnx", "give either --workdir=DIR"),
        ("--workdir={run} --model=resnet18 --format=onnx", "give either --workdir=DIR"),
        ("--workdir={run} --weights=w.pth --format=onnx", "--weights cannot be combined with"),
        ("--model=resnet18 --step=best --format=onnx", "--step cannot be combined with --model"),
        ("--workdir={run} --format=onnx --layout=timm", "--layout is for --format=safetensors"),
        ("--workdir={run} --format=onnx --output=a.pb", "--output=a.pb must end in .onnx"),
        ("--workdir={run} --format=onnx --output={run}/no/a.onnx", "there is no folder"),
        ("--workdir={run}/no --format=onnx", "is not the workdir of a run"),
        ("--model=resnet19 --format=onnx", 'there is no model "resnet19"'),
        ("--workdir={run} --format=pickle", "pickle"),
    ],
)
def test_what_cannot_be_written_is_refused_in_one_line(workdir, run_python, options, words):
    before = sorted(workdir.rglob("*"))
    arguments = options.format(run=workdir).split()
    process = run_python("-m", "se_flax.export", *arguments)
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert sorted(workdir.rglob("*")) == before
