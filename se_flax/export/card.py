"""The model card of a published network: a README.md with the YAML head that the hub reads."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import yaml

from se_flax.export.network import TrainedNetwork
from se_flax.export.recipe import changed_fields
from se_flax.export.record import Record
from se_flax.models import model_info
from se_flax.overview import count_parameters
from se_flax.pretrained.save import plain_fields
from se_flax.runtime.progress import counted

# The fields of a config that are shown even if they have their default values.
_SHOWN = (
    "num_epochs",
    "batch_size",
    "optimizer.name",
    "optimizer.learning_rate",
    "optimizer.weight_decay",
    "schedule.name",
    "dtype",
)
_OF_THE_CARD = ("model.name", "model.overrides", "dataset.name", "dataset.image_dir")


def model_card(
    trained: TrainedNetwork, record: Record, repository: str, license: str, for_timm: bool
) -> str:
    """Returns the content of README.md.

    Args:
        trained: the network.
        record: of its training.
        repository: hub id, OWNER/NAME.
        license: the hub's name of the licence.
        for_timm: whether timm reads the repository.
    """
    head = yaml.safe_dump(
        _head(trained, record, repository, license, for_timm), sort_keys=False, allow_unicode=True
    )
    sections = (
        _introduction(trained, record),
        _results(trained, record),
        _use(trained, repository, for_timm),
        _training(record),
    )
    return f"---\n{head}---\n\n" + "\n".join("\n".join(section) + "\n" for section in sections)


def _head(
    trained: TrainedNetwork, record: Record, repository: str, license: str, for_timm: bool
) -> dict[str, Any]:
    """Returns the head; github.com/huggingface/hub-docs has its format, in modelcard.md."""
    title, dataset = record.dataset
    tags = ["image-classification", "se_flax", "jax", "flax"]
    if trained.name.startswith("se_"):
        tags.append("squeeze-and-excitation")
    head = {
        "license": license,
        "library_name": "timm" if for_timm else "se_flax",
        "pipeline_tag": "image-classification",
        "tags": [*tags, "timm"] if for_timm else tags,
        **({"datasets": [dataset]} if dataset else {}),
        "metrics": ["mAP" if trained.multi_label else "accuracy"],
    }
    if record.state is None:
        return head
    metrics = [
        {
            "type": "mAP" if name == "mAP" else "accuracy",
            "value": round(percent / 100, 6),
            "name": name[0].upper() + name[1:] if name != "mAP" else name,
        }
        for name, percent in _measures(trained, record).items()
    ]
    task = {"type": "image-classification", "name": "Image Classification"}
    data = {"name": title, "type": dataset or title, "split": "test"}
    result = {"task": task, "dataset": data, "metrics": metrics}
    return {**head, "model-index": [{"name": repository.partition("/")[2], "results": [result]}]}


def _measures(trained: TrainedNetwork, record: Record) -> dict[str, float]:
    """Returns results in percent by name; top-5 accuracy only of more than five classes."""
    results = record.results
    if trained.multi_label:
        return {"mAP": results["mAP"], "accuracy of the labels": results["label_accuracy"]}
    return {f"top-{k} accuracy": results[f"top{k}"] for k in (1, 5) if k < trained.num_classes}


def _introduction(trained: TrainedNetwork, record: Record) -> Iterator[str]:
    own, params = trained.preparation, trained.variables["params"]
    fields = plain_fields(trained.name, trained.overrides)
    yield f"# {trained.name} on {record.dataset[0]}"
    yield ""
    yield (
        f"The network `{trained.name}` ({model_info(trained.name).paper}), trained with se_flax, "
        f"which is written in JAX and Flax. It has {count_parameters(params):,} parameters and "
        f"distinguishes {trained.num_classes:,} classes"
        f"{', of which an image can have several' if trained.multi_label else ''}."
    )
    if fields:
        yield ""
        yield f"It differs from the network of this name in `{_code(fields)}`."
    yield ""
    yield (
        f"Images are resized to a short side of {int(own.size / own.crop_pct)} pixels "
        f"({own.interpolation}), their centre of {own.size} x {own.size} pixels is cropped, and "
        f"values from 0 to 1 are normalised with mean {list(own.mean)} and standard deviation "
        f"{list(own.std)}, for {'red, green and blue' if len(own.mean) > 1 else 'grey levels'}."
    )


def _results(trained: TrainedNetwork, record: Record) -> Iterator[str]:
    yield "## Results"
    yield ""
    if record.state is None:
        yield "The run recorded no results on test images for this checkpoint."
        return
    yield f"On the test images of {record.dataset[0]}:"
    yield ""
    yield from _table(
        ("", "one central crop"),
        [
            *((name, f"{percent:.2f}%") for name, percent in _measures(trained, record).items()),
            ("loss", f"{record.results['loss']:.4f}"),
        ],
    )
    yield ""
    if record.state == "final":
        yield "It is the network at the end of the run."
    elif record.summary["best_chosen_on"] == "test":
        yield "It is the best of the run's checkpoints on these same images."
    else:
        yield "It is the best of the run's checkpoints on images that were held out of training."
    seeds = [each["seed"] for each in record.summary["per_seed"]]
    if len(seeds) > 1:
        measure, name = ("mAP", "mAP") if trained.multi_label else ("top1", "top-1 accuracy")
        yield (
            f"The run trained {len(seeds)} networks, and this is the one with seed {record.seed}; "
            f"their mean {name} is {record.summary[record.state][measure]:.2f}%."
        )


def _use(trained: TrainedNetwork, repository: str, for_timm: bool) -> Iterator[str]:
    name = trained.name
    fields = plain_fields(name, trained.overrides)
    more = f", {_code(fields)}" if fields else ""
    yield from (
        "## Use",
        "",
        "```python",
        "from se_flax.loaded import load_weights",
        "",
        f'loaded = load_weights("{name}", "{repository}")',
        'images = loaded.prepare("photograph.jpg")',
        "logits = loaded.network.apply(loaded.variables, images, train=False)",
        *_class_of_logits(trained),
        "```",
        "",
        f'`se_flax.load_pretrained("{name}", "{repository}"{more})` returns the variables only.',
    )
    if not for_timm:
        return
    mode = "RGB" if len(trained.preparation.mean) > 1 else "L"
    yield from (
        "",
        "In timm:",
        "",
        "```python",
        "import timm",
        "from PIL import Image",
        "",
        f'model = timm.create_model("hf-hub:{repository}", pretrained=True).eval()',
        "config = timm.data.resolve_model_data_config(model)",
        "transform = timm.data.create_transform(**config, is_training=False)",
        f'logits = model(transform(Image.open("photograph.jpg").convert("{mode}"))[None])',
        "```",
    )


def _class_of_logits(trained: TrainedNetwork) -> tuple[str, ...]:
    """Returns the lines of code that print the classes of an image."""
    if trained.multi_label:
        return (
            "probabilities = loaded.probabilities(logits)[0]",
            "print([name for name, p in zip(loaded.classes, probabilities) if p > 0.5])",
        )
    return ("print(loaded.classes[logits[0].argmax()])",)


def _training(record: Record) -> Iterator[str]:
    config, summary = record.config, record.summary
    changed = {key: x for key, x in changed_fields(config).items() if key not in _OF_THE_CARD}
    usual = {name: _field(config, name) for name in _SHOWN}
    fields = {**usual, **changed, "seed": record.seed}
    fields.pop("num_seeds", None)
    folder = " --config.dataset.image_dir=DIR" if config.dataset.image_dir else ""
    yield "## Training"
    yield ""
    yield from _table(
        ("", ""),
        [
            ("data", record.dataset[0]),
            *((f"`{name}`", f"`{value}`") for name, value in fields.items()),
            *_circumstances(summary),
        ],
    )
    yield from (
        "",
        "`recipe.py` in this repository has all fields that are not se_flax's defaults"
        f"{'; `DIR` is the folder of the images' if folder else ''}:",
        "",
        "```bash",
        f"python -m se_flax.main --config=recipe.py{folder}",
        "```",
    )


def _circumstances(summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields what a summary says of the machine and the software."""
    if not summary:
        return
    yield "device", f"{summary['device_count']} x {summary['device']}"
    if summary["process_count"] > 1:
        yield "processes", str(summary["process_count"])
    yield "time", f"{summary['seconds']:,.0f} s for {counted(summary['steps'], 'step')}"
    yield "revision of se_flax", summary.get("git_revision") or "unknown"
    versions = summary["versions"].items()
    yield "versions", ", ".join(f"{name} {version}" for name, version in versions)


def _field(config: Any, name: str) -> Any:
    for key in name.split("."):
        config = config[key]
    return config


def _code(fields: Mapping[str, Any]) -> str:
    """Returns fields as arguments of a call."""
    values = {key: tuple(x) if isinstance(x, list) else x for key, x in fields.items()}
    return ", ".join(f"{key}={value!r}" for key, value in values.items())


def _table(head: tuple[str, str], rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    yield f"| {head[0]} | {head[1]} |"
    yield "|---|---|"
    for name, value in rows:
        yield f"| {name} | {value} |"
