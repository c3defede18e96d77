"""What a notebook needs to run by itself on a fresh clone: the example data and the stages before.

Only the example (`data/phantom`, `reports/notebooks`) is ever made here. Anything else that is
missing is an error of whoever named it.
"""

from pathlib import Path

from btxrd.files import project_path
from btxrd.phantom import make_phantom

__all__ = ["ensure_example"]

EXAMPLE_DATA = "data/phantom"
EXAMPLE_STUDY = "reports/notebooks"
EXAMPLE_IMAGES = 160

PRODUCTS = {
    "01_eda": Path("shortcuts.csv"),
    "02_splits": Path("splits/stratified.csv"),
    "03_train": Path("runs/example/stratified/seed-42/training.json"),
    "04_evaluate": Path("runs/example/stratified/seed-42/metrics.json"),
    "05_gradcam": Path("runs/example/stratified/seed-42/gradcam.csv"),
}
"""The last file that each stage writes in the example study."""


def ensure_example(notebook: str, path: str | Path) -> None:
    """Make what a notebook reads in the example study, where it is missing.

    Args:
        notebook: its name, such as `04_evaluate`; the stages before it are run with their default
            parameters, and the phantom data is drawn.
        path: the study or run that the notebook was given; outside the example nothing is done.
    """
    data, study = project_path(EXAMPLE_DATA), project_path(EXAMPLE_STUDY)
    if not project_path(path).is_relative_to(study):
        return
    if not data.exists():
        print(f"drawing {EXAMPLE_IMAGES} phantom images in {EXAMPLE_DATA} …")
        make_phantom(data, n_images=EXAMPLE_IMAGES)
    for stage, product in PRODUCTS.items():
        if stage < notebook and not (study / product).is_file():
            print(f"running {stage} with its defaults, for its {product} …")
            # A batch never comes here, and papermill takes a second to import.
            from btxrd.study.notebooks import execute_notebook

            execute_notebook(stage, study / f"{stage}.ipynb", {})
