"""Predictions in; metrics, intervals and figures out.

Import `btxrd.report.figures` where pictures are drawn: this package itself loads neither
matplotlib nor torch.
"""

from btxrd.evaluation.intervals import bootstrap_metrics
from btxrd.evaluation.metrics import classification_metrics
from btxrd.predictions import read_predictions

__all__ = ["bootstrap_metrics", "classification_metrics", "read_predictions"]
