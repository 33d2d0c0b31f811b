"""What networks say is on photographs."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from se_flax import create_model, load_run
from se_flax import predict as module
from se_flax.analysis.photographs import Panel, draw_photographs, percent
from se_flax.errors import UserError
from se_flax.loaded import LoadedRun
from se_flax.models import Preparation
from se_flax.predict import draw, predict
from se_flax.train import train
from tests import tiny_run

CLASSES = ("n01443537", "dog", "cat", "bird", "frog", "fish")  # the first is the goldfish


@pytest.fixture(scope="module")
def loaded():
    """A network on colour images, with random weights and a large classifier."""
    model = create_model("se_resnet20_cifar", 6, stage_sizes=(1, 1), widths=(4, 8), reduction=2)
    images = jnp.zeros((1, 16, 16, 3))
    variables = jax.jit(lambda: model.init(jax.random.key(0), images, train=False))()
    kernel = variables["params"]["classifier"]["kernel"]
    variables["params"]["classifier"]["kernel"] = jax.random.normal(jax.random.key(1), kernel.shape)
    preparation = Preparation(16, 0.8, "bilinear", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    return LoadedRun(model, variables, CLASSES, preparation, 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Seven pictures of several sizes, as PNG files."""
    folder = tmp_path_factory.mktemp("photographs")
    generator = np.random.default_rng(0)
    for i in range(7):
        low = generator.integers(0, 256, (4, 5, 3), np.uint8)
        Image.fromarray(low).resize((40 + 5 * i, 60 - 5 * i)).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """The workdir of a run of one epoch on the digits, which are grey and have 8 x 8 pixels."""
    config = tiny_run.get_config()
    config.num_epochs, config.schedule.milestones = 1, ()
    workdir = tmp_path_factory.mktemp("predicted") / "run"
    train(config, workdir)
    return workdir


def shares_of(predictions):
    return np.array([found.probabilities for found in predictions])


def test_the_probabilities_are_the_softmax_of_the_networks_logits(loaded, folder):
    paths = sorted(folder.iterdir())
    logits = loaded.network.apply(loaded.variables, loaded.prepare(paths), train=False)
    expected = np.asarray(jax.nn.softmax(logits))
    assert len({tuple(row.argsort()) for row in expected}) > 1
    names = np.array(["goldfish", *CLASSES[1:]])
    for batch_size in (3, 32):  # the last batch of three is not full
        predictions = list(predict(loaded, folder, top=4, batch_size=batch_size))
        assert [found.path for found in predictions] == paths
        for found, row in zip(predictions, expected, strict=True):
            best = row.argsort()[::-1][:4]
            assert found.indices == tuple(best)
            assert found.classes == tuple(names[best])
            np.testing.assert_allclose(found.probabilities, row[best], rtol=1e-4)
    everything = shares_of(predict(loaded, paths, top=100))
    assert everything.shape == (7, 6)
    np.testing.assert_allclose(everything.sum(1), 1, rtol=1e-5)


def test_a_run_on_small_grey_images_is_asked_in_their_size(workdir, folder):
    run = load_run(workdir)
    predictions = list(predict(run, folder, top=10))
    logits = run.network.apply(run.variables, run.prepare(sorted(folder.iterdir())), train=False)
    expected = np.sort(jax.nn.softmax(logits), axis=-1)[:, ::-1]
    np.testing.assert_allclose(shares_of(predictions), expected, rtol=1e-4)
    assert sorted(predictions[0].classes) == list("0123456789")


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_a_photograph_held_sideways_gives_what_it_gives_upright(loaded, folder, tmp_path, suffix):
    upright = Image.open(folder / "0.png")
    sideways, exif = upright.transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    options = {"lossless": True} if suffix == "webp" else {}
    sideways.save(tmp_path / f"a.{suffix}", exif=exif, **options)
    sideways.save(tmp_path / f"b.{suffix}", **options)
    (expected,) = predict(loaded, folder / "0.png")
    turned, as_stored = predict(loaded, tmp_path)
    assert turned.classes == expected.classes
    np.testing.assert_allclose(turned.probabilities, expected.probabilities, rtol=1e-5)
    assert not np.allclose(shares_of([as_stored]), shares_of([expected]), rtol=1e-2)


def test_every_lossless_format_gives_the_same_answer(loaded, folder, tmp_path):
    image = Image.open(folder / "3.png")
    for suffix in ("png", "bmp", "tif", "ppm", "jp2", "webp"):
        options = {"lossless": True} if suffix == "webp" else {}
        image.save(tmp_path / f"x.{suffix}", **options)
    predictions = list(predict(loaded, tmp_path))
    assert len(predictions) == 6
    (expected,) = predict(loaded, folder / "3.png")
    assert {found.classes for found in predictions} == {expected.classes}
    for found in predictions:
        np.testing.assert_allclose(found.probabilities, expected.probabilities, rtol=1e-5)


def test_broken_files_are_skipped_or_refused(loaded, folder, tmp_path):
    paths = sorted(folder.iterdir())
    expected = list(predict(loaded, paths))
    broken, text = tmp_path / "broken.png", tmp_path / "text.jpg"
    broken.write_bytes(paths[0].read_bytes()[:100])
    text.write_text("hello")
    (tmp_path / "empty").mkdir()
    skipped = []
    places = [text, *paths[:3], broken, tmp_path / "empty", *paths[3:]]
    found = predict(loaded, places, batch_size=2, skip=lambda *why: skipped.append(why))
    assert [each.path for each in found] == paths
    assert [path.name for path, _ in skipped] == ["empty", "text.jpg", "broken.png"]
    assert "truncated" in skipped[2][1]
    found = predict(loaded, [*paths[:2], broken], batch_size=1)
    assert [next(found).classes, next(found).classes] == [each.classes for each in expected[:2]]
    with pytest.raises(UserError, match=r"cannot read .*broken.png: .*truncated"):
        next(found)


def test_nothing_found_is_refused_before_anything_is_computed(loaded, tmp_path):
    with pytest.raises(UserError, match="there are no photographs"):
        predict(loaded, tmp_path)  # not only when the first is asked for


def test_only_a_few_batches_are_in_memory(loaded, folder, monkeypatch):
    read, count = module.read_photograph, itertools.count()

    def counted(path):
        next(count)
        return read(path)

    monkeypatch.setattr(module, "read_photograph", counted)
    found = predict(loaded, 50 * [folder / "0.png"], batch_size=3)
    next(found)
    found.close()
    assert 3 <= next(count) <= 3 + 2 * 3 + 1
    assert len(list(predict(loaded, 50 * [folder / "0.png"], batch_size=3))) == 50


def test_an_output_that_is_not_finite_is_refused(loaded, folder):
    variables = jax.tree.map(lambda x: x * jnp.nan, loaded.variables)
    broken = LoadedRun(loaded.network, variables, loaded.classes, loaded.preparation, 0)
    with pytest.raises(UserError, match=r"output for .*0.png is not finite; use another"):
        list(predict(broken, folder))


def texts_of(figure):
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def test_a_figure_has_the_photographs_their_maps_and_bars(loaded, folder):
    predictions = list(predict(loaded, folder, top=3))
    figure = draw(loaded, predictions)
    assert len(figure.axes) == 2 * 7
    wide, high = figure.get_size_inches()
    assert wide > 6 * 2.2  # six in a row, and one below
    assert 2 * 2.2 < high < 3 * 2.2 + 1
    names = [name for found in predictions for name in found.classes]
    assert texts_of(figure)[::2] == names
    bars = [patch.get_width() for patch in figure.axes[1].patches]
    np.testing.assert_allclose(bars, predictions[0].probabilities)
    with_maps = draw(loaded, predictions[:2], heatmap=True)
    titles = [axis.get_title() for axis in with_maps.axes]
    first, second = (found.classes[0] for found in predictions[:2])
    assert titles == ["0.png", first, "", "1.png", second, ""]
    (image,) = with_maps.axes[1].images
    assert image.get_array().shape == (16, 16, 3)


def test_a_frame_shows_what_the_network_sees():
    preparation = Preparation(64, 0.8, "bilinear", (0.5,), (0.2,))
    photograph = np.zeros((200, 300, 3), np.uint8)
    figure = draw_photographs([Panel("x", photograph, ["cat"], [1.0])], preparation)
    *_, frame = figure.axes[0].patches
    # The short side, 200 pixels, becomes 80, of which 64 are kept: 160 pixels.
    assert (frame.get_width(), frame.get_height()) == (160, 160)
    assert frame.get_xy() == (70 - 0.5, 20 - 0.5)
    whole = Preparation(64, 1.0, "bilinear", (0.5,), (0.2,))
    square = Panel("x", photograph[:, :200], ["cat"], [1.0])
    assert not draw_photographs([square], whole).axes[0].patches


def test_percentages_are_whole_and_never_round_to_certainty():
    expected = {0.0: "<1%", 0.004: "<1%", 0.006: "1%", 0.614: "61%", 0.996: ">99%", 1.0: "100%"}
    assert {share: percent(share) for share in expected} == expected


def test_the_command_prints_json_skips_broken_files_and_draws(
    run_python, workdir, folder, tmp_path
):
    (tmp_path / "broken.png").write_bytes(b"hello")
    run = ("-m", "se_flax.predict", str(folder / "0.png"), str(tmp_path), str(folder))
    output = tmp_path / "figure.png"
    options = (f"--workdir={workdir}", "--json", "--top=3", "--heatmap", f"--output={output}")
    process = run_python(*run, *options)
    assert process.returncode == 1
    rows = [json.loads(line) for line in process.stdout.splitlines()]
    paths = [folder / "0.png", *sorted(folder.iterdir())]
    assert [row["file"] for row in rows] == list(map(str, paths))
    for row, found in zip(rows, predict(load_run(workdir), paths, top=3), strict=True):
        assert row["classes"] == list(found.classes)
        assert row["indices"] == list(found.indices)
        np.testing.assert_allclose(row["probabilities"], found.probabilities, rtol=1e-4)
    skipped, figure, error = process.stderr.splitlines()
    assert skipped.startswith(f"skipped {tmp_path}/broken.png: it is not an image")
    assert figure == f"figure of 8 photographs: {output}"
    assert error == "error: 1 file could not be read, and 8 photographs could"
    width, height = Image.open(output).size
    assert width == round(110 * (3 * 2 * 2.32 + 0.12))  # three in a row, each with a map
    assert height > 3 * 110 * 2.2


def test_the_command_prints_a_line_per_photograph(run_python, workdir, folder, tmp_path):
    photographs = 4 * [str(folder)]
    output = tmp_path / "figure.png"
    process = run_python(
        *("-m", "se_flax", "predict", f"--workdir={workdir}", "--top=2", f"--output={output}"),
        *photographs,
    )
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    *lines, figure = process.stdout.splitlines()
    predictions = list(predict(load_run(workdir), photographs, top=2))
    assert lines == [
        f"{found.path}: "
        + ", ".join(
            f"{percent(share)} {name}"
            for share, name in zip(found.probabilities, found.classes, strict=True)
        )
        for found in predictions
    ]
    assert figure == f"figure of the first 24 of 28 photographs: {output}"


def test_bad_options_are_refused_in_one_line(run_command, workdir, folder, tmp_path):
    run = f"--workdir={workdir}"
    for options, expected in (
        ((str(folder),), "give either --workdir=DIR"),
        ((run,), "give photographs, or folders of photographs"),
        ((run, str(folder), "--weights=x.pth"), "--weights cannot be combined with --workdir"),
        ((run, str(folder), "--heatmap"), "--heatmap draws in the figure of --output"),
        ((run, str(tmp_path)), f"there are no photographs in {tmp_path}"),
        (("--model=se_resnet20_cifar", "x.png"), "there is no file or folder x.png"),
    ):
        process = run_command("se_flax.predict", *options)
        assert (process.returncode, process.stdout) == (2, "")
        (line,) = process.stderr.splitlines()
        assert line.startswith("error: ")
        assert expected in line
