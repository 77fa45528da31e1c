"""Several studies on one command line, each with its overrides."""

from collections.abc import Sequence

_STORE = "output_dir="


def studies_named(words: Sequence[str]) -> list[list[str]]:
    """The studies of a command line, each as its name and its overrides.

    Overrides belong to the study before them. Names that follow each other directly share the overrides after them: in `a b scale=smoke`
    both have the scale, and in `a data=expert a data=random` each has its own. `output_dir=` holds for all.
    """
    found: list[list[str]] = []
    sharing: list[list[str]] = []
    was_name = False
    for word in words:
        is_name = "=" not in word
        if is_name:
            sharing = [*sharing, [word]] if was_name else [[word]]
            found.append(sharing[-1])
        elif not word.startswith(_STORE):
            for study in sharing:
                study.append(word)
        was_name = is_name
    store = [word for word in words if word.startswith(_STORE)]
    return [[*study, *store] for study in found]
