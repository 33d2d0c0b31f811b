"""The programs in examples/ run, and do what they say."""

import re

import jax
import numpy as np

from examples import plain_functions


def test_plain_functions_learn_to_classify(capsys):
    classifier = plain_functions.main()
    (share,) = re.findall(r"accuracy on 1000 other images: ([\d.]+)%", capsys.readouterr().out)
    assert float(share) > 90
    images, labels = plain_functions.make_images(jax.random.key(5), 8)
    assert (jax.jit(classifier.__call__)(images).argmax(-1) == labels).mean() > 0.5
    leaves = jax.tree.leaves(classifier)
    assert len(leaves) == len(jax.tree.leaves(classifier.variables))
    statistics = classifier.variables["batch_stats"]["stem_bn"]["mean"]
    assert np.abs(statistics).max() > 0.01
