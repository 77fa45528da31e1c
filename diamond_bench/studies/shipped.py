"""The files of the shipped studies. Imports next to nothing, because completion in a shell waits for it."""

import importlib.resources
from pathlib import Path


def studies_folder() -> Path:
    """Where the shipped studies lie: inside an installed wheel, or next to the package in a checkout."""
    shipped = Path(str(importlib.resources.files("diamond_bench"))) / "experiments"
    return shipped if shipped.is_dir() else Path(__file__).parents[2] / "experiments"


def study_files() -> dict[str, Path]:
    """Names and files of the shipped studies."""
    return {file.stem: file for file in sorted(studies_folder().glob("*.yaml"))}
