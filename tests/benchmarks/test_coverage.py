"""How often nominal 95 % intervals hold the truth, on simulated test sets of the study's size.

Run with `pytest tests/benchmarks -o addopts= -s -k coverage`.
"""

import numpy as np
import pytest

from btxrd.evaluation import Bootstrap, bootstrap_metrics
from btxrd.evaluation.metrics import metric_table

SIZES = (282, 231, 51)
"""Class counts of the published stratified test set, fixed as the bootstrap keeps them."""

SHIFT = 1.5
VIEWS = 3
WITHIN = 0.6
"""Correlation of the noise of two views of one study."""

METRICS = ("macro_auc", "accuracy", "sensitivity/Malignant")
REPLICATES = 500


def population(rng, copies, views):
    """Draw labels, probabilities and groups; the marginal is the same for every `views`."""
    y = np.repeat([0, 1, 2], np.multiply(SIZES, copies))
    within_class = np.concatenate([np.arange(size * copies) for size in SIZES])
    groups = y * len(y) + within_class // views
    codes = np.unique(groups, return_inverse=True)[1]
    shared = rng.normal(size=(codes.max() + 1, 3))[codes]
    logits = np.sqrt(WITHIN) * shared + np.sqrt(1 - WITHIN) * rng.normal(size=(len(y), 3))
    logits[np.arange(len(y)), y] += SHIFT
    p = np.exp(logits)
    return y, p / p.sum(axis=1, keepdims=True), groups


@pytest.fixture(scope="module")
def truth():
    y, p, _ = population(np.random.default_rng(0), copies=1000, views=1)
    table = metric_table(y, p, np.ones((1, len(y))))
    return {metric: table[metric][0] for metric in METRICS}


def coverage(truth, simulations, views, grouped=True):
    """Share of simulated test sets whose interval holds the truth, for each metric."""
    rng = np.random.default_rng(2026)
    hits = np.zeros(len(METRICS))
    for simulation in range(simulations):
        y, p, groups = population(rng, copies=1, views=views)
        bootstrap = Bootstrap(REPLICATES, seed=simulation)
        table = bootstrap_metrics(y, p, groups if grouped else None, bootstrap).loc[list(METRICS)]
        true = np.array([truth[metric] for metric in METRICS])
        hits += (table["low"] <= true) & (true <= table["high"])
    return dict(zip(METRICS, hits / simulations, strict=True))


def report(title, simulations, shares):
    error = np.sqrt(0.95 * 0.05 / simulations)
    values = ", ".join(f"{metric} {share:.1%}" for metric, share in shares.items())
    print(f"\n{title}, {simulations} test sets (± {error:.1%}): {values}")


def test_coverage_of_independent_images(truth):
    shares = coverage(truth, simulations=2000, views=1)
    report("one image a study", 2000, shares)
    for metric, share in shares.items():
        assert 0.92 <= share <= 0.975, metric


def test_coverage_of_studies_of_several_views(truth):
    clustered = coverage(truth, simulations=400, views=VIEWS)
    report(f"{VIEWS} views a study, drawn by study", 400, clustered)
    ignorant = coverage(truth, simulations=400, views=VIEWS, grouped=False)
    report(f"{VIEWS} views a study, drawn by image", 400, ignorant)
    for metric in METRICS:
        assert clustered[metric] > ignorant[metric]
