"""Bootstrap of all metrics against a loop of scikit-learn calls, of some against that of all.

Run with `pytest tests/benchmarks/test_bench_intervals.py --override-ini addopts=`.
"""

import time

import numpy as np
import pytest
from sklearn import metrics as sk
from straightforward import best_seconds, noted

from btxrd.evaluation.intervals import Bootstrap, bootstrap_metrics
from btxrd.evaluation.subgroups import SUBGROUP_METRICS
from btxrd.predictions import labels, probabilities

SIZES = (282, 231, 51)
"""Class counts of the published stratified test set."""

REPLICATES = 2000
LOOPED = 20


def scikit_learn_metrics(y, p, weight):
    """As few calls as give the figures of one replicate."""
    predicted, w = p.argmax(axis=1), {"sample_weight": weight}
    sk.accuracy_score(y, predicted, **w)
    sk.balanced_accuracy_score(y, predicted, **w)
    sk.cohen_kappa_score(y, predicted, weights="quadratic", **w)
    sk.brier_score_loss(y, p, **w)
    sk.log_loss(y, p, **w)
    sk.multilabel_confusion_matrix(y, predicted, **w)  # specificity, npv
    sk.precision_recall_fscore_support(y, predicted, zero_division=np.nan, **w)
    for c in range(3):
        sk.roc_auc_score(y == c, p[:, c], **w)
        sk.average_precision_score(y == c, p[:, c], **w)


def test_bootstrap_is_fifty_times_a_scikit_learn_loop(benchmark, predicted):
    frame = predicted(SIZES)
    y, p, groups = labels(frame), probabilities(frame), frame["group"]
    weights = Bootstrap(LOOPED).weights(y, groups)[1:]
    start = time.perf_counter()
    for weight in weights:
        scikit_learn_metrics(y, p, weight)
    loop = (time.perf_counter() - start) / LOOPED * REPLICATES
    arguments = (y, p, groups, Bootstrap(REPLICATES))
    benchmark.pedantic(bootstrap_metrics, arguments, rounds=5, warmup_rounds=1)
    seconds = benchmark.stats.stats.median
    benchmark.extra_info |= {"scikit_learn_loop_s": loop, "ratio": loop / seconds}
    assert seconds < 2
    assert loop / seconds >= 50


@pytest.mark.benchmark(timer=time.process_time)
def test_a_subgroups_metrics_take_less_than_half_of_all(benchmark, predicted):
    """The draws are the same; the areas under other curves are left out."""
    frame = predicted(SIZES)
    arguments = (labels(frame), probabilities(frame), frame["group"], Bootstrap(REPLICATES))
    naive, expected = best_seconds(time.process_time, bootstrap_metrics, *arguments)
    some = (*arguments, SUBGROUP_METRICS)
    found = benchmark.pedantic(bootstrap_metrics, some, rounds=5, warmup_rounds=1)
    ratio = round(naive / benchmark.stats.stats.min, 1)
    noted(benchmark, ratio=ratio)
    assert found.equals(expected.loc[list(SUBGROUP_METRICS)])
    assert ratio >= 2
