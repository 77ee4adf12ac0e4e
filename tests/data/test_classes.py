"""Folds of labelled examples: balanced, disjoint, and decided by the key alone."""

import jax
import numpy as np
import pytest

from genmod import data, rng


def test_folds_are_disjoint_and_balanced_and_the_key_alone_decides():
    labels = np.asarray(jax.random.randint(rng.root(0), (500,), 0, 3))
    folds = [data.fold(rng.root(1), labels, 20, index) for index in range(5)]
    assert len(np.unique(np.concatenate(folds))) == 5 * 60
    for places in folds:
        assert places.dtype == np.int32
        assert (np.bincount(labels[places]) == 20).all()
        assert (np.diff(places) > 0).all()
    assert (data.fold(rng.root(1), labels, 20, 3) == folds[3]).all()
    assert (data.fold(rng.root(2), labels, 20, 3) != folds[3]).any()


@pytest.mark.parametrize(
    ("num", "index", "message"),
    [
        (0, 0, "num must be a positive whole number, got 0"),
        (2, -1, "index must be a whole number of at least 0, got -1"),
        (20, 3, r"fold 3 of 20 examples a class needs 80 of class 0, which has 60"),
    ],
)
def test_a_fold_that_cannot_be_is_refused(num, index, message):
    with pytest.raises(ValueError, match=message):
        data.fold(rng.root(0), np.repeat(np.arange(4), 60), num, index)


def test_labels_may_have_gaps():
    labels = np.array([0, 5, 5, 0, 5])
    found = data.fold(rng.root(0), labels, 2, 0)
    assert sorted(labels[found]) == [0, 0, 5, 5]
