import numpy as np
import pytest

from se_flax.data.label_file import LabelFile, label_path
from se_flax.errors import UserError


def written(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "labels.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_each_image_has_the_class_in_its_row(tmp_path):
    text = "file,split,class\nb.jpg,train,dog\na.tif,train, cat\nc/d.jpg,val,dog\n\n"
    file = LabelFile.read(written(tmp_path, text))
    assert (file.multi_label, file.class_names) == (False, ("cat", "dog"))
    train, val = (file.images(tmp_path, split) for split in ("train", "val"))
    assert train.paths == (tmp_path / "b.jpg", tmp_path / "a.tif")
    assert (train.labels, val.labels) == ((1, 0), (1,))
    assert val.paths == (tmp_path / "c" / "d.jpg",)
    assert not train.multi_label


@pytest.mark.parametrize(
    ("text", "separator"),
    [
        ("file,split,classes\n1.jpg,train,cat;dog\n2.jpg,train,\n3.jpg,val,dog\n", ";"),
        ("split,classes,file\ntrain,cat | dog,1.jpg\ntrain,,2.jpg\nval,dog,3.jpg\n", "|"),
        ('file,split,classes\n1.jpg,train,"cat,dog"\n2.jpg,train,\n3.jpg,val,dog\n', ","),
        ("file,split,cat,dog\n1.jpg,train,1,1\n2.jpg,train,0,0\n3.jpg,val,0,1\n", ";"),
        (
            "\ufefffile,split,cat,dog\r\n1.jpg,train,1,1\r\n2.jpg,train,0,0\r\n3.jpg,val,0,1\r\n",
            ";",
        ),
    ],
    ids=["semicolons", "bars", "quoted commas", "columns", "from a spreadsheet"],
)
def test_an_image_can_have_several_classes_or_none(tmp_path, text, separator):
    file = LabelFile.read(written(tmp_path, text), separator)
    assert (file.multi_label, file.class_names) == (True, ("cat", "dog"))
    train = file.images(tmp_path, "train")
    assert train.multi_label
    np.testing.assert_array_equal(train.labels, [[1, 1], [0, 0]])
    np.testing.assert_array_equal(file.images(tmp_path, "val").labels, [[0, 1]])
    np.testing.assert_array_equal(file.images(tmp_path).labels, [[1, 1], [0, 0], [0, 1]])


def test_without_a_column_for_it_the_folder_says_which_split_an_image_is_of(tmp_path):
    text = "file,class\ntrain/1.jpg,a\nval/1.jpg,b\n"
    file = LabelFile.read(written(tmp_path, text))
    assert file.images(tmp_path, "val").paths == (tmp_path / "val" / "1.jpg",)
    file = LabelFile.read(written(tmp_path, "file,class\ntrain/1.jpg,a\n1.jpg,b\n"))
    with pytest.raises(UserError, match=r'does not say whether "1.jpg" is for training'):
        file.images(tmp_path, "val")
    assert len(file.images(tmp_path)) == 2


def test_classes_of_columns_keep_their_order_and_known_classes_theirs(tmp_path):
    text = "file,zebra,ape\n1.jpg,1,0\n"
    assert LabelFile.read(written(tmp_path, text)).class_names == ("zebra", "ape")
    file = LabelFile.read(tmp_path / "labels.csv", class_names=("ape", "bear", "zebra"))
    assert file.class_names == ("ape", "bear", "zebra")
    np.testing.assert_array_equal(file.labels, [[0, 0, 1]])
    with pytest.raises(
        UserError, match=r'line 2: there is no class "zebra".*known classes are ape'
    ):
        LabelFile.read(tmp_path / "labels.csv", class_names=("ape",))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty; give a row of column names"),
        ("file,class\n", "is empty; give a row of column names"),
        ("name,class\n1.jpg,a\n", r'has the columns name, class; .*"file"'),
        ("file,split\n1.jpg,train\n", "has the columns file, split"),
        ("file,class,cat\n1.jpg,a,1\n", r'the column "class" and others'),
        ("file,cat,cat\n1.jpg,0,1\n", "each once"),
        ("file,class\n1.jpg,a\n2.jpg\n", "line 3 has 1 values, but there are 2 columns"),
        ("file,class\n1.jpg,a\n1.jpg,b\n", r'line 3: "1.jpg" was named before'),
        ("file,split,class\n1.jpg,train,a\n1.jpg,val,a\n", r'line 3: "1.jpg" was named before'),
        ("file,class\n,a\n", "line 2: no file is named"),
        ("file,class\n1.jpg,\n", "line 2: the name of a class is empty"),
        ("file,classes\n1.jpg,a;;b\n", "line 2: the name of a class is empty"),
        ("file,cat,dog\n1.jpg,0,yes\n", r'the class "dog" must be 0 or 1, not "yes"'),
        ("file,split,class\n1.jpg,test,a\n", r'line 2: the split must be train or val, not "test"'),
    ],
)
def test_a_row_that_cannot_be_used_is_named(tmp_path, text, words):
    with pytest.raises(UserError, match=words) as error:
        LabelFile.read(written(tmp_path, text))
    assert "labels.csv" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match=r"there is no file .*none.csv"):
        LabelFile.read(tmp_path / "none.csv")
    with pytest.raises(UserError, match=r"cannot be read: .*; give a CSV file in UTF-8"):
        LabelFile.read(written(tmp_path, "file,class\n1.jpg,\u00e9\n", "latin-1"))


def test_the_file_is_in_the_folder_of_the_images_unless_its_path_is_absolute(tmp_path):
    assert label_path(tmp_path, "labels.csv") == tmp_path / "labels.csv"
    assert label_path(tmp_path, "/elsewhere/labels.csv").as_posix() == "/elsewhere/labels.csv"


def test_files_that_are_missing_are_named_before_training(tmp_path):
    file = LabelFile.read(written(tmp_path, "file,class\n1.jpg,a\n"))
    with pytest.raises(UserError, match=r"1.jpg \(no such file\)"):
        file.images(tmp_path).checked(skip_bad=False)
