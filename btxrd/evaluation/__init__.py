"""Metrics, intervals, comparisons, scores of heat maps and of shortcuts, from predictions.

Predictions are frames with the columns of `predictions.csv`, as `read_predictions` returns and
checks them: `val` and `test` are their rows of one part, `frame` of any one; `y_true` are their
labels, (n,) integers, `probabilities` (n, 3), `groups` (n,) names or numbers. Metrics are named as
in `metrics.METRIC_NAMES`. Every interval is made by a `Bootstrap` of R replicates, and has its ends
in the columns `low` and `high`, or `<name>_low` and `<name>_high` beside a column `<name>`. None
has the width 0: where nothing varies, the ends are NaN. Values are float64, NaN where undefined.
The call for all numbers of a run is `btxrd.evaluation.summary.evaluate`.

This package itself loads neither matplotlib nor torch. Methods are named by author and year:

- Adebayo et al. 2018, Sanity checks for saliency maps, NeurIPS
- Altman and Bland 1994, Predictive values, BMJ 309:102
- Brier 1950, Mon. Weather Rev. 78:1
- Chattopadhay et al. 2018, Grad-CAM++, arXiv:1710.11063
- Clopper and Pearson 1934, Fiducial limits, Biometrika 26:404
- Cohen 1968, Weighted kappa, Psychol. Bull. 70:213
- Davis and Goadrich 2006, Precision-recall and ROC curves, ICML
- DeGrave et al. 2021, AI for COVID-19 selects shortcuts, Nat. Mach. Intell. 3:610
- Draelos and Carin 2020, HiResCAM, arXiv:2011.08891
- Efron and Tibshirani 1993, An introduction to the bootstrap
- El-Yaniv and Wiener 2010, Selective classification, J. Mach. Learn. Res. 11:1605
- Fawcett 2006, An introduction to ROC analysis, Pattern Recognit. Lett. 27:861
- Field and Welsh 2007, Bootstrapping clustered data, J. R. Stat. Soc. B 69:369
- Forman and Scholz 2010, Apples-to-apples in cross-validation studies, SIGKDD Explor. 12:49
- Geifman and El-Yaniv 2017, Selective classification for deep networks, NeurIPS
- Guo et al. 2017, Calibration of modern neural networks, ICML
- Holm 1979, Scand. J. Stat. 6:65
- King and Zeng 2001, Rare events data, Polit. Anal. 9:137
- Korn and Graubard 1998, Intervals for proportions from survey data, Surv. Methodol. 24:193
- Kumar et al. 2019, Verified uncertainty calibration, NeurIPS
- Li et al. 2018, Guided attention inference network, CVPR
- Nguyen and O'Connor 2015, Posterior calibration, EMNLP
- Northcutt et al. 2021, Confident learning, J. Artif. Intell. Res. 70:1373
- Owen 2007, The pigeonhole bootstrap, Ann. Appl. Stat. 1:386
- Prechelt 1998, Early stopping, but when?
- Rao and Wu 1988, Resampling inference with complex survey data, J. Am. Stat. Assoc. 83:231
- Satterthwaite 1946, Estimates of variance components, Biometrics Bull. 2:110
- Selvaraju et al. 2017, Grad-CAM, ICCV
- Tejani et al. 2024, CLAIM 2024, Radiol. Artif. Intell. 6:e240300
- Vickers and Elkin 2006, Decision curve analysis, Med. Decis. Making 26:565
- Wang et al. 2020, Score-CAM, CVPR Workshops
- Zauner 2010, Perceptual image hash functions
- Zech et al. 2018, Confounding in radiograph models, PLoS Med. 15:e1002683
- Zhang et al. 2018, Excitation backprop, Int. J. Comput. Vis. 126:1084
- Zhou et al. 2016, Discriminative localization, CVPR
- Zou and Donner 2008, Limits about effect measures, Stat. Med. 27:1693
- Zuiderveld 1994, CLAHE, Graphics Gems IV
"""

from btxrd.evaluation.intervals import Bootstrap

__all__ = ["Bootstrap"]
