"""How often nominal 95 % intervals hold the truth, on simulated test sets of the study's sizes.

Run with `pytest tests/benchmarks -o addopts= -s -k coverage`.
"""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy.special import logit, softmax
from scipy.stats import norm

from btxrd.evaluation.calibration import (
    TOP_LABEL,
    calibration_outcomes,
    calibration_summary,
    squared_calibration_error,
)
from btxrd.evaluation.differences import seed_summary
from btxrd.evaluation.intervals import Bootstrap, Sample, bootstrap_metrics
from btxrd.evaluation.metrics import metric_table
from btxrd.evaluation.operating_points import operating_points
from btxrd.predictions import predictions_frame

SIZES = (282, 231, 51)
"""Class counts of the published stratified test set, fixed as the bootstrap keeps them."""

SHIFT = 1.5
VIEWS = 3
WITHIN = 0.6
"""Correlation of the noise of two views of one study."""

METRICS = ("macro_auc", "accuracy", "sensitivity/Malignant")
REPLICATES = 500

LEAST = 0.93
"""Coverage that every cell of a table must have."""

STUDIES = ((1, 0.0), (3, 0.0), (3, 0.5), (3, 1.0))
"""Views of a study, and how far they agree: intraclass correlation. One view agrees with itself."""


def population(rng, copies, views):
    """Draw labels, probabilities and groups; the marginal is the same for every `views`."""
    y = np.repeat([0, 1, 2], np.multiply(SIZES, copies))
    within_class = np.concatenate([np.arange(size * copies) for size in SIZES])
    groups = y * len(y) + within_class // views
    codes = np.unique(groups, return_inverse=True)[1]
    shared = rng.normal(size=(codes.max() + 1, 3))[codes]
    logits = np.sqrt(WITHIN) * shared + np.sqrt(1 - WITHIN) * rng.normal(size=(len(y), 3))
    logits[np.arange(len(y)), y] += SHIFT
    return y, softmax(logits, axis=1), groups


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
        assert LEAST <= share <= 0.985, metric


def test_coverage_of_studies_of_several_views(truth):
    clustered = coverage(truth, simulations=400, views=VIEWS)
    report(f"{VIEWS} views a study, drawn by study", 400, clustered)
    ignorant = coverage(truth, simulations=400, views=VIEWS, grouped=False)
    report(f"{VIEWS} views a study, drawn by image", 400, ignorant)
    for metric in METRICS:
        assert clustered[metric] > ignorant[metric]


def draw_hits(rng, share, groups, agreement, simulations):
    """Draw which images are called right, beta-binomial by study: (simulations, n)."""
    shape = (simulations, groups.max() + 1)
    if agreement in (0, 1) or share in (0, 1):
        of_group = np.full(shape, share)
        if agreement == 1:
            of_group = (rng.random(shape) < share).astype(float)
    else:
        known = (1 - agreement) / agreement
        of_group = rng.beta(share * known, (1 - share) * known, shape)
    return rng.random((simulations, len(groups))) < of_group[:, groups]


def proportions(hits, groups, y=None, replicates=1000):
    """Values for each draw, all simulations at once, (1 + R, simulations); and their sample."""
    y = np.full(len(groups), 2) if y is None else y
    weights = Bootstrap(replicates).weights(y, groups)
    values = weights @ hits.T / weights.sum(axis=1, keepdims=True)
    return values, Sample(len(groups), len(np.unique(groups)))


def held(low, high, true):
    return np.mean((low <= true + 1e-12) & (true - 1e-12 <= high))


def table_of(rows, title):
    """Print coverage, and the percentile interval's beside it, by what the cells are."""
    table = pd.DataFrame(rows, columns=["", "of", "now", "before"])
    cells = table["now"].map("{:.3f}".format) + " / " + table["before"].map("{:.3f}".format)
    wide = table.assign(cell=cells).pivot_table("cell", "", "of", aggfunc="first", sort=False)
    print(f"\n{title}\n{wide.to_string()}")
    return table["now"]


@pytest.mark.parametrize(
    ("seed", "cells", "shares_of_cells"),
    [
        (13, ((5,), (20,), (51,), (342,)), ((0.02,), (0.5,), (0.9,), (0.98,), (1.0,))),
        (
            14,
            ((8, 7, 5), (12, 6, 2), (50, 40, 10)),
            ((0.9, 0.9, 0.9), (0.9, 0.6, 0.5), (1.0, 0.5, 0.0)),
        ),
    ],
    ids=["sensitivity", "accuracy"],
)
def test_coverage_of_proportions_in_every_cell(seed, cells, shares_of_cells):
    """Of few and of many images of one class, at the edge too; and of those of three classes.

    Images are drawn within classes, with one degree of freedom less than studies all the same.
    """
    rng, simulations, rows = np.random.default_rng(seed), 2000, []
    for sizes, (views, agreement), shares in product(cells, STUDIES, shares_of_cells):
        place = np.repeat(np.arange(len(sizes)), sizes)
        groups = np.concatenate([1000 * c + np.arange(n) // views for c, n in enumerate(sizes)])
        codes = np.unique(groups, return_inverse=True)[1]
        drawn = [draw_hits(rng, share, codes, agreement, simulations) for share in shares]
        values, sample = proportions(np.choose(place, drawn), groups, place + 3 - len(sizes))
        _, *now = Bootstrap().proportion(values, sample)
        before = np.quantile(values[1:], [0.025, 0.975], axis=0)
        true = np.average(shares, weights=sizes)
        named = f"{sizes} images, {views} a study, agreement {agreement:g}"
        rows.append((named, str(shares), held(*now, true), held(*before, true)))
    covered = table_of(rows, "proportions: Korn and Graubard / percentiles")
    assert (covered >= LEAST).all()


@pytest.mark.parametrize(("n", "views", "agreement"), [(51, 1, 0), (20, 3, 0.5), (342, 3, 1)])
def test_coverage_rests_on_a_variance_that_is_the_textbooks(n, views, agreement):
    """The bootstrap's, over (K - 1)/K, against the linearised one of a ratio of group totals."""
    groups = np.arange(n) // views
    hits = draw_hits(np.random.default_rng(15), 0.7, groups, agreement, 500)
    values, sample = proportions(hits, groups, replicates=4000)
    k = sample.groups
    totals, sizes = hits @ np.eye(k)[groups], np.bincount(groups)
    residuals = totals - hits.mean(axis=1, keepdims=True) * sizes
    textbook = (residuals**2).sum(axis=1) / n**2 * k / (k - 1)
    found = values[1:].var(axis=0) * k / (k - 1)
    print(
        f"\n{n} images, {views} a study: {np.mean(found) / np.mean(textbook):.3f} of the textbook's"
    )
    assert np.mean(found) == pytest.approx(np.mean(textbook), rel=0.05)


def malignant_frame(scores, groups, part="test"):
    """Predictions of malignant images, called malignant where the score is above 0; 2 others."""
    n = len(scores)
    rows = pd.DataFrame({"image_id": map(str, range(n + 2)), "label": [2] * n + [0, 1]})
    rows = rows.assign(part=part, center=1, group=[*groups, -1, -2])
    logits = np.zeros((n + 2, 3))
    logits[:n, 2], logits[n, 0], logits[n + 1, 1] = scores, 1, 1
    return predictions_frame(rows, logits)


def test_coverage_of_means_over_seeds():
    """Other images and other trainings, of which there are three."""
    rng, simulations, rows = np.random.default_rng(16), 200, []
    for (n, views), (mean, spread) in product(
        ((20, 1), (51, 1), (51, 3)), ((0.0, 0.3), (1.3, 0.3), (2.0, 0.1))
    ):
        groups = np.arange(n) // views
        true = norm.cdf(mean / np.sqrt(1 + spread**2))
        now = before = 0
        for simulation in range(simulations):
            shared = 0.8 * rng.normal(size=groups.max() + 1)[groups]
            trainings = mean + spread * rng.normal(size=3)
            scores = [shared + t + 0.6 * rng.normal(size=n) for t in trainings]
            frames = [malignant_frame(s, groups) for s in scores]
            bootstrap = Bootstrap(200, seed=simulation)
            row = seed_summary(frames, bootstrap, ["sensitivity/Malignant"]).iloc[0]
            now += held(row["low"], row["high"], true) / simulations
            weights = bootstrap.weights(frames[0]["label"], frames[0]["group"])[1:, :n]
            values = weights @ (np.transpose(scores) > 0) / weights.sum(axis=1, keepdims=True)
            drawn = (bootstrap.shares(3)[1:] * values).sum(axis=1)
            before += held(*np.quantile(drawn, [0.025, 0.975]), true) / simulations
        rows.append((f"{n} images, {views} a study", f"{true:.2f} ± {spread:g}", now, before))
    covered = table_of(rows, "mean sensitivity of 3 seeds: Korn and Graubard / percentiles")
    assert (covered >= LEAST).all()


def test_coverage_of_thresholds_that_are_drawn_anew():
    """Of sensitivity at a threshold that finds 90 % of val: this one's, and one so chosen."""
    rng, simulations, shift, rows = np.random.default_rng(17), 400, 2.0, []
    for n in (20, 51):
        cuts = np.sort(rng.normal(shift, 1, (20_000, n)), axis=1)[:, n - int(np.ceil(0.9 * n))]
        on_average = norm.sf(cuts - shift).mean()
        shares = np.zeros(3)
        for simulation in range(simulations):
            val, test = (
                malignant_frame(rng.normal(shift, 1, n), range(n), part) for part in ("val", "test")
            )
            point = operating_points(val, test, Bootstrap(200, seed=simulation), [0.9]).iloc[0]
            # The malignant logit of which the threshold is the probability, beside two of 0.
            this = norm.sf(logit(point["threshold"]) + np.log(2) - shift)
            fixed, anew = (
                point[[f"sensitivity_low{end}", f"sensitivity_high{end}"]] for end in ("", "_anew")
            )
            shares += [held(*fixed, this), held(*fixed, on_average), held(*anew, on_average)]
        rows.append((n, *(shares / simulations)))
    names = ["malignant images", "this one, fixed", "so chosen, fixed", "so chosen, anew"]
    table = pd.DataFrame(rows, columns=names).set_index(names[0])
    print(f"\nsensitivity at a threshold\n{table.round(3).to_string()}")
    assert (table[["this one, fixed", "so chosen, anew"]] >= LEAST).all(axis=None)
    assert (table["so chosen, fixed"] < table["so chosen, anew"]).all()


def sharp_frame(rng, n, factor, views=1):
    """Predictions that are calibrated at temperature `factor`."""
    logits = rng.normal(scale=2, size=(n, 3))
    y = (rng.random((n, 1)) > softmax(logits, axis=1).cumsum(axis=1)[:, :2]).sum(axis=1)
    rows = pd.DataFrame({"image_id": range(n), "label": y, "part": "test", "center": 1})
    return predictions_frame(rows.assign(group=np.arange(n) // views), logits * factor)


@pytest.mark.parametrize("factor", [1.0, 1.5, 3.0])
def test_coverage_of_calibration_errors(factor):
    """Of calibrated probabilities and of too sharp ones; beside them what keeps its bias."""
    rng, simulations, n = np.random.default_rng(18), 200, 564
    outcomes = calibration_outcomes(sharp_frame(rng, 200_000, factor))
    true = {name: np.sqrt(squared_calibration_error(*o)[0]) for name, o in outcomes.items()}
    if factor == 1:
        true = dict.fromkeys(true, 0.0)
    rows = []
    for simulation in range(simulations):
        frame = sharp_frame(rng, n, factor)
        table = calibration_summary(frame, frame, Bootstrap(200, seed=simulation))
        for name, row in table.query("when == 'before'").set_index("outcome").iterrows():
            error, low, high = row.filter(like="calibration_error")
            plain = np.sqrt(squared_calibration_error(*calibration_outcomes(frame)[name])[0])
            rows.append((name, true[name], error, plain, held(low, high, true[name])))
    names = ["outcome", "true", "estimate", "with its bias", "coverage"]
    means = pd.DataFrame(rows, columns=names).groupby("outcome", sort=False).mean()
    print(f"\ncalibration errors, temperature {factor:g}\n{means.round(3).to_string()}")
    assert list(means.index)[-1] == TOP_LABEL
    assert means["coverage"].mean() >= LEAST
    assert means["coverage"].min() >= 0.9  # of 200
    assert (means["estimate"] - means["true"] < means["with its bias"] - means["true"]).all()
