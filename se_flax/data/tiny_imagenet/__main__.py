"""Prepares Tiny ImageNet: python -m se_flax.data.tiny_imagenet --zip=tiny-imagenet-200.zip."""

from absl import app, flags

from se_flax.cli.command import parse_flags, run_command
from se_flax.data.tiny_imagenet import prepare


def define_flags() -> None:
    """Declares the options of this command."""
    flags.DEFINE_string(
        "zip",
        None,
        "The official tiny-imagenet-200.zip; by default the file in DATA_DIR/downloads/manual. "
        "If there is none, it is downloaded.",
    )
    flags.DEFINE_string(
        "data_dir",
        None,
        "Folder to write to; by default $TFDS_DATA_DIR or ~/tensorflow_datasets.",
    )


def main(argv: list[str]) -> None:
    """Prepares the data set and prints its location and size."""
    builder = prepare(flags.FLAGS.zip, flags.FLAGS.data_dir)
    counts = ", ".join(
        f"{split.num_examples} {name} images" for name, split in builder.info.splits.items()
    )
    classes = builder.info.features["label"].num_classes
    print(f"{builder.name}: {counts} of {classes} classes, in {builder.data_path}")


if __name__ == "__main__":
    define_flags()
    app.run(run_command(main), flags_parser=parse_flags)
