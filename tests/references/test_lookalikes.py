"""The table of architectures with the tensors of our networks is complete and right."""

import pytest

from se_flax.pretrained.architectures import architectures, with_tensors_of

pytestmark = pytest.mark.references

# Published for Caffe, and spread as converted files with the usual tensor names.
CONVERTED = [known for known in architectures() if known.library == "Caffe"]
TABLE = {f"{known.library}:{known.name}": known for known in architectures()}
NETWORKS = sorted({known.computed_by for known in architectures()} - {""})


@pytest.mark.slow
@pytest.mark.timeout(3600)  # it builds every architecture of three libraries
def test_the_table_has_every_architecture_with_the_tensors_of_a_network_and_no_others():
    from tests.references import lookalikes

    found = list(lookalikes.pairs())
    expected = set(TABLE) - {f"Caffe:{one.name}" for one in CONVERTED}
    assert {one for _, one in found} == expected
    for name, architecture in found:
        assert TABLE[architecture] in with_tensors_of(name), (name, architecture)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_the_table_says_which_architectures_compute_the_same(name):
    from tests.references import lookalikes

    known = [one for one in with_tensors_of(name) if one not in CONVERTED]
    same = [one for one in known if one.computed_by == name]
    for reference in same[-1:]:  # none where only converted files are published
        for one in known:
            names = [f"{either.library}:{either.name}" for either in (reference, one)]
            assert lookalikes.computes_the_same(*names) == (one.computed_by == name), names
