import pytest

from se_flax.errors import UserError, check_choice, nearest


@pytest.mark.parametrize(
    ("name", "valid", "expected"),
    [
        ("21", ("20", "32", "110"), "20"),
        ("1", ("20", "32", "110"), "20"),
        ("200", ("20", "32", "110"), "110"),
        ("resnet2", ("resnet110", "resnet20", "vgg"), "resnet20"),
        ("bmup", ("bump", "standard"), "bump"),
    ],
)
def test_the_nearest_number_or_the_most_similar_name_is_suggested(name, valid, expected):
    assert nearest(name, valid) == f' (did you mean "{expected}"?)'


def test_nothing_is_suggested_if_nothing_is_similar():
    assert nearest("xyz", ("bump", "standard")) == ""
    with pytest.raises(UserError, match=r'^there is no block "xyz"; known are bump, standard$'):
        check_choice("block", "xyz", ("bump", "standard"))
