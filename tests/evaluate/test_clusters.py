"""Clusters matched to classes, against every matching there is."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genmod import evaluate
from genmod.evaluate.clusters import clustering_accuracy, matched_classes


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 40), st.integers(0, 2**31 - 1))
def test_the_matching_is_the_best_of_all(num_clusters, num_classes, num, seed):
    random = np.random.default_rng(seed)
    clusters, labels = random.integers(0, num_clusters, num), random.integers(0, num_classes, num)
    matched = matched_classes(clusters, labels)
    taken = matched[matched >= 0]
    assert len(set(taken)) == len(taken)
    found = clustering_accuracy(clusters, labels)
    most = max(num_clusters, num_classes)
    every = (np.array(order)[clusters] == labels for order in itertools.permutations(range(most)))
    assert found.value == pytest.approx(max(each.mean() for each in every))


def test_the_matching_may_be_of_other_examples():
    seen = matched_classes([0, 0, 1, 1], [1, 1, 0, 0])
    found = clustering_accuracy(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 0]), classes=seen)
    assert found.value == 0.5  # its own matching would get .75
    assert found.error == pytest.approx(evaluate.estimate(np.array([0.0, 0, 1, 1])).error)


def test_clusters_without_an_example_may_come_later():
    seen = matched_classes([0, 0, 1, 1], [1, 1, 0, 0], num=4)
    assert seen[:2].tolist() == [1, 0]
    assert len(seen) == 4
    assert clustering_accuracy([3, 0], [1, 1], classes=seen).value == 0.5
    with pytest.raises(ValueError, match="num must be above 1, the largest cluster, got 1"):
        matched_classes([0, 1], [0, 1], num=1)


def test_a_cluster_too_many_is_no_class():
    assert sorted(matched_classes([0, 1, 2], [0, 0, 1]).tolist()) == [-1, 0, 1]


@pytest.mark.parametrize(
    ("clusters", "labels", "message"),
    [
        ([0, 1], [0], "clusters and labels must be of the same examples, got 2 and 1"),
        ([0, -1], [0, 1], r"clusters must be whole numbers of at least 0, .* got int64 \[2\]"),
        ([0, 1], [0.0, 1.0], r"labels must be whole numbers of at least 0, .* got float64 \[2\]"),
        ([], [], "clusters must be whole numbers"),
    ],
)
def test_bad_input_is_refused(clusters, labels, message):
    with pytest.raises(ValueError, match=message):
        clustering_accuracy(clusters, labels)


def test_a_cluster_that_was_not_matched_is_refused():
    with pytest.raises(ValueError, match=r"clusters must be numbers below 2, .* at most 2"):
        clustering_accuracy([0, 2], [0, 1], classes=np.array([0, 1]))
