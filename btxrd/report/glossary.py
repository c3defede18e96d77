"""The field's words, explained to those who meet them on a page for the first time."""

__all__ = ["GLOSSARY"]

GLOSSARY = {
    "bootstrap": "The test images are drawn again and again, whole patient groups and, where there "
    "are several, seeds at a time. An interval is the range that a figure covers then, not the "
    "range that another hospital would give.",
    "calibration error": "How far a predicted probability is from the share of images that are so: "
    "of those given 70 %, about 70 % should be. 0 is perfect.",
    "center holdout": "The network learns from the images of one source and is tested on those of "
    "the others, as in a hospital that did not take part.",
    "macro AUC": "The mean over the classes of the area under the ROC curve: how often an image of "
    "the class gets a higher probability of it than an image of another class. 0.5 is chance, 1 is "
    "perfect.",
    "net benefit": "True alarms an image, less the false ones, which are weighted by how many of "
    "them one true alarm is worth at this threshold. Compare it with alarming at every image or at "
    "none.",
    "operating point": "A threshold on the probability, and what follows from it: how many are "
    "found, and how many alarms are false. Here it is chosen on validation images and applied to "
    "test images.",
    "patient group": "The images that probably show one patient: rows that follow each other with "
    "the same center, age, sex, site and diagnosis, and near-duplicates. Groups are kept in one "
    "part of a split, and drawn whole for intervals.",
    "sensitivity": "The share of the images of a class that is recognised as such; also recall.",
    "specificity": "The share of the images of the other classes that is not taken for this class.",
    "temperature": "One number, found on validation images, by which the network's outputs are "
    "divided so that its probabilities are as sure as they should be; the order of the classes "
    "stays. Above 1 the network was too sure.",
}
"""Term, as it is written within a sentence → what it means."""
