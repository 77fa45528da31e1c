"""How methods look: the same in every figure, and no two of a figure alike."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from diamond_bench.errors import UserError
from paper_figures.columns import Column, own, variant_label
from paper_figures.methods import KNOWN
from paper_figures.parts import Inputs, StudyResults
from paper_figures.published_curves import methods_with_curves

if TYPE_CHECKING:
    from analysis.looks import Style


def looks_of(columns: Sequence[Column], inputs: Inputs) -> "dict[str, Style]":
    """The look of each of these columns, by its label in a figure. A published method that comes twice looks different the second time."""
    names: dict[str, str] = {}
    for column in columns:
        method = "" if column.method is None else column.method.name
        names[column.drawn] = method if method and method not in names.values() else column.one_line
    looks = all_looks(inputs)
    return {drawn: looks[name] for drawn, name in names.items()}


def variant_names(study: StudyResults, variants: Iterable[str]) -> dict[str, str]:
    """The names in `all_looks` of a study's variants."""
    return {variant: " ".join(variant_label(study, variant).split()) for variant in variants}


def all_looks(inputs: Inputs, more: Iterable[str] = ()) -> "dict[str, Style]":
    """The look of every method, by name: published ones by their place in KNOWN, then the user's own, then `more` names.

    Raises UserError if there are more names than looks.
    """
    from analysis.looks import styles

    try:
        return styles([*KNOWN, *methods_with_curves(), *(column.one_line for column in own(inputs)), *more])
    except ValueError as error:
        raise UserError(f"too many methods: {error}. Show fewer of your own") from None
