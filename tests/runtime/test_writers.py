import json

from se_flax.runtime.writers import JsonlWriter, make_writer


def test_rows_after_the_last_checkpoint_are_written_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = JsonlWriter(path, last_step=0)
    for step in (10, 20, 30):
        writer.write_scalars(step, {"loss": step / 10})
    writer.close()
    with path.open("a") as file:
        file.write('{"step": 40, "lo')  # cut short by a kill

    writer = JsonlWriter(path, last_step=20)
    writer.write_scalars(30, {"loss": 3.0})
    writer.close()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows == [{"step": step, "loss": step / 10} for step in (10, 20, 30)]


def test_rows_that_were_damaged_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    good = b'{"step": 1, "loss": 2.5}\n'
    path.write_bytes(good + b'{"step": null}\n{"step": 2, "l\xff": 1}\n[3]\n\x00\x80\n')
    JsonlWriter(path, last_step=9).close()
    assert path.read_bytes().splitlines()[0] + b"\n" == good
    assert all(json.loads(row)["step"] <= 9 for row in path.read_text().splitlines())


def test_a_row_is_on_disk_at_once(tmp_path):
    writer = JsonlWriter(tmp_path / "metrics.jsonl", last_step=0)
    writer.write_scalars(1, {"loss": 2.5})
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "loss": 2.5}
    writer.close()


def test_tensorboard_gets_the_same_numbers(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = make_writer(tmp_path, last_step=0)
    writer.write_scalars(5, {"train/loss": 1.25, "train/top1": 30.0})
    writer.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"train/loss", "train/top1"}
    (event,) = events.Scalars("train/loss")
    assert (event.step, event.value) == (5, 1.25)
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["train/loss"] == 1.25


def test_times_are_for_tensorboard_and_the_callback_because_equal_runs_differ_in_them(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    called = []
    writer = make_writer(tmp_path, 0, callback=lambda step, values: called.append((step, values)))
    values = {"train/loss": 1.25, "time/seconds": 30.0}
    writer.write_scalars(5, values)
    writer.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 5, "train/loss": 1.25}
    assert called == [(5, values)]
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert events.Scalars("time/seconds")[0].value == 30.0


def test_tensorboard_gets_images_and_hyperparameters(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    writer = make_writer(tmp_path, 0, hyperparameters={"batch_size": 16, "milestones": [3, 4]})
    writer.write_image(7, "picture", b"PNG", 20, 10)
    writer.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    (image,) = events.Images("picture")
    assert (image.step, image.width, image.height) == (7, 20, 10)
    assert image.encoded_image_string == b"PNG"
    (content,) = events.PluginTagToContent("hparams").values()
    hparams = HParamsPluginData.FromString(content).session_start_info.hparams
    assert hparams["batch_size"].number_value == 16
    assert hparams["milestones"].string_value == "[3, 4]"
