"""The example: data and earlier stages that let a notebook run by itself on a fresh clone.

Only the example (`data/phantom`, `reports/notebooks`) is ever made here. Anything else that is
missing is an error of whoever named it.
"""

from itertools import takewhile
from pathlib import Path

from btxrd.files import PROJECT_ROOT, project_path
from btxrd.params import RunParams
from btxrd.stages import COMPARE, EDA, PROBE, SPLITS, run_stages

__all__ = ["ensure_example"]

EXAMPLE = RunParams(experiment="example")
"""The run that notebook 03 makes with its defaults."""
EXAMPLE_IMAGES = 160


def ensure_example(notebook: str, path: str | Path) -> None:
    """Make what a notebook reads in the example study, where it is missing.

    Args:
        notebook: its name, such as `04_evaluate`; the stages before it are run with their default
            parameters, and the phantom data is drawn.
        path: the study or run that the notebook was given; outside the example nothing is done.
    """
    data, study = project_path(EXAMPLE.dataset_root), project_path(EXAMPLE.study_dir)
    if not project_path(path).is_relative_to(study):
        return
    # A batch never comes here, and these take a second to import.
    import papermill

    from btxrd.extras.phantom import make_phantom

    if not data.exists():
        print(f"drawing {EXAMPLE_IMAGES} phantom images in {EXAMPLE.dataset_root} …")
        make_phantom(data, n_images=EXAMPLE_IMAGES)
    folders = {"study": study, "run": EXAMPLE.run_dir}
    mode = "probe" if notebook == PROBE.name else "finetune"
    stages = EDA, SPLITS, *run_stages(mode), COMPARE
    for stage in takewhile(lambda stage: stage.name != notebook, stages):
        product = folders[stage.of] / stage.writes[-1]
        if not product.is_file():
            print(f"running {stage.name} with its defaults, for its {stage.writes[-1]} …")
            study.mkdir(parents=True, exist_ok=True)
            papermill.execute_notebook(
                PROJECT_ROOT / "notebooks" / f"{stage.name}.ipynb",
                study / f"{stage.name}.ipynb",
                progress_bar=False,
                cwd=PROJECT_ROOT / "notebooks",
            )
