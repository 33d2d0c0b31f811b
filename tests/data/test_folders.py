import pytest

from se_flax.data.folders import ImageFolder
from se_flax.errors import UserError


@pytest.fixture
def folder(tmp_path):
    for name in ("dog/b.JPEG", "dog/a.jpg", "cat/c.png", "cat/more/d.jpg", "cat/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def test_images_are_labelled_by_their_folder(folder):
    source = ImageFolder(folder)
    assert source.class_names == ("cat", "dog")
    assert [source[i] for i in range(len(source))] == [
        {"image": b"cat/c.png", "label": 0},
        {"image": b"cat/more/d.jpg", "label": 0},
        {"image": b"dog/a.jpg", "label": 1},
        {"image": b"dog/b.JPEG", "label": 1},
    ]


def test_classes_can_be_given_in_another_order(folder):
    source = ImageFolder(folder, ("dog", "bird", "cat"))
    assert [source[i]["label"] for i in range(len(source))] == [2, 2, 0, 0]
    with pytest.raises(UserError, match=r"/dog is not the folder of a known class"):
        ImageFolder(folder, ("cat",))


def test_folders_without_images_are_refused(folder, tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        ImageFolder(tmp_path / "nowhere")
    with pytest.raises(UserError, match="has no images; they are looked for in"):
        ImageFolder(folder / "cat" / "more")
