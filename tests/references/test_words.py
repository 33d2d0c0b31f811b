"""The names of ImageNet's classes are those of WordNet."""

import pytest

from se_flax.pretrained.words import classes_of

pytestmark = pytest.mark.references


def test_the_names_are_the_first_words_of_wordnet_with_two_exceptions():
    import tests.references.torch_models  # noqa: F401  makes timm importable

    timm_data = pytest.importorskip("timm.data")
    wordnet = timm_data.ImageNetInfo()
    theirs = [wordnet.index_to_description(i).partition(",")[0] for i in range(1000)]
    ours = classes_of("imagenet2012")
    assert [i for i in range(1000) if theirs[i] != ours[i]] == [134, 639]
