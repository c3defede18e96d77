"""The classifier and its last feature map, its checkpoints, its logits and early stopping."""

from btxrd.models.checkpoints import load_checkpoint, model_from_checkpoint, save_checkpoint
from btxrd.models.classifier import BTXRDClassifier, compute_class_weights, create_model, get_device
from btxrd.models.early_stopping import EarlyStopping
from btxrd.models.features import FeatureMapError, features_and_logits
from btxrd.models.inference import predict_logits, to_input

__all__ = [
    "BTXRDClassifier",
    "EarlyStopping",
    "FeatureMapError",
    "compute_class_weights",
    "create_model",
    "features_and_logits",
    "get_device",
    "load_checkpoint",
    "model_from_checkpoint",
    "predict_logits",
    "save_checkpoint",
    "to_input",
]
