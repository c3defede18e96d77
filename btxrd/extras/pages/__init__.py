"""What needs a script in the page: the browser of cases, and thresholds to move."""

from pathlib import Path

TEMPLATES = Path(__file__).with_name("templates")
