"""Where the study answers the items of CLAIM 2024, the checklist of radiology AI."""

import pandas as pd

__all__ = ["claim_table"]

_EDA = "[data](eda.html)"
_SPLITS = "[splits](splits.html)"
_HERE = "this page"
_RUN = "each run's pages (below)"

_ITEMS = (
    (1, "Identification as a study of AI methodology", f"{_HERE}, title"),
    (4, "Aims and objectives", f"{_HERE}, opening"),
    (5, "Prospective or retrospective", f"{_EDA}: retrospective, public archive"),
    (6, "Study goal", f"{_HERE}, opening: comparison of experiments"),
    (7, "Data sources", f"{_EDA}, and the README's citation"),
    (8, "Inclusion and exclusion", f"{_HERE}, rows set aside; {_EDA}, findings"),
    (9, "Data preprocessing", f"{_RUN}: training, `data` of `run.json`"),
    (10, "Selection of data subsets", f"{_SPLITS}"),
    (12, "How missing data were handled", f"{_EDA}, findings"),
    (14, "Reference standard", "as released with the data set; not re-read here"),
    (19, "Assignment to partitions", f"{_SPLITS}"),
    (20, "Level at which partitions are disjoint", f"{_SPLITS}, leakage; {_HERE}, leakage"),
    (22, "Description of the model", f"{_RUN}: training, model"),
    (23, "Software and packages", "`packages` of every `run.json` and of `study.json`"),
    (24, "Initialisation of the parameters", "`model` of every `run.json`"),
    (25, "Training approach", f"{_RUN}: training; `training` of `run.json`"),
    (26, "Selection of the final model", f"{_HERE}, recommendation and validation figures"),
    (27, "Ensembling", f"{_HERE}, seeds, where there are several"),
    (28, "Metrics of performance", f"{_HERE}, comparison; {_RUN}: evaluation"),
    (29, "Significance and uncertainty", f"{_HERE}, intervals and differences"),
    (30, "Robustness", f"{_HERE}, other center, leakage and shortcuts; {_RUN}: subgroups"),
    (31, "Explainability", f"{_RUN}: heat maps, measured against the lesion masks"),
    (32, "Evaluation on internal data", f"{_HERE}, comparison: stratified test set"),
    (33, "Testing on external data", f"{_HERE}, center holdout: other centers, same archive"),
    (35, "Numbers included and excluded", f"{_EDA}; {_HERE}, rows set aside"),
    (36, "Characteristics of cases in each partition", f"{_SPLITS}"),
    (37, "Performance with uncertainty", f"{_HERE}, comparison"),
    (38, "Diagnostic performance and its precision", f"{_RUN}: evaluation, operating points"),
    (39, "Failure analysis", f"{_RUN}: evaluation, worst errors; heat maps, gallery"),
    (40, "Limitations", f"{_HERE}, last section"),
    (43, "Availability of software and data", "the repository; the README's `The real data`"),
)


def claim_table() -> pd.DataFrame:
    """Map the items of CLAIM 2024 that the study can answer to the place that answers them.

    Tejani et al. 2024, "Checklist for Artificial Intelligence in Medical Imaging (CLAIM): 2024
    Update" (Radiol. Artif. Intell. 6:e240300). Items on patients, annotators, acquisition, trial
    registration, clinical role and funding are for the author of a paper to answer.

    Returns:
        One row an item: `Item` (its number), `What it asks`, `Where it is answered` (Markdown).

    >>> claim_table().loc[0, ["What it asks", "Where it is answered"]].tolist()
    ['Identification as a study of AI methodology', 'this page, title']
    """
    return pd.DataFrame(_ITEMS, columns=["Item", "What it asks", "Where it is answered"])
