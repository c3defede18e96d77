"""Predictions in, numbers out: metrics, intervals, comparisons, heat maps' scores, shortcuts.

This package itself loads neither matplotlib nor torch.
"""

from btxrd.evaluation.intervals import Bootstrap, bootstrap_metrics
from btxrd.evaluation.metrics import classification_metrics
from btxrd.evaluation.summary import evaluate

__all__ = ["Bootstrap", "bootstrap_metrics", "classification_metrics", "evaluate"]
