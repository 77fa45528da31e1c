"""Plain English: words and sentence shapes that made earlier text of this project hard to read get no new uses.

`tests/prose_known.txt` lists the uses that remain, each by the words around it, so that text may move between files. Rewrite a sentence to
get rid of its line. `python tests/test_prose.py` removes the lines that no text uses any more, and adds none.
"""

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
KNOWN = Path(__file__).with_name("prose_known.txt")
FOLDERS = ("diamond_bench", "analysis", "paper_figures", "experiments", "docs")

RULES = {
    "told": (r"\btold\b(?! apart)", "name who gives the information: given, informed, reported"),
    "beside": (r"\bbeside\b", "next to, in addition to, during or with"),
    "anew": (r"\banew\b", "again, or a verb such as rebuild, redraw or retrain"),
    "came to": (r"\b(?:[Ww]hat|all) (?:it|that|they) (?:came|comes?) to\b", "the result, the total"),
    "came of": (r"\bc[ao]mes? of (?:it|them|that)\b", "the result"),
    "speaks of": (r"\bsp(?:eaks?|oken|oke) (?:only )?of\b", "describes, refers to or covers"),
    "at hand": (r"\bat hand\b", "available"),
    "one a each": (r"\b(?:one|a) (?:row|line|column|file|folder|panel|figure|process|thread|dataset|bar) an? \w+", "one row per job"),
    "of what": (r"^Of (?!course)\w+", "begin with the thing itself: the number of ..., for each ..."),
    "semicolons": (r"[^.;$']{15,};[^.;$']{15,};", "separate sentences, or a list"),
    "judge": (r"\bjudg(?:e[sd]?|ing)\b", "score, measure, compare or evaluate"),
}
"""For each rule, the expression that finds it and what to write in its place."""
EXAMPLES = {
    "told": "The network is told the level.",
    "beside": "A file beside the plan.",
    "anew": "The job is made anew.",
    "came to": "What it came to is recorded.",
    "came of": "What came of it is shown.",
    "speaks of": "Keys that speak of a study.",
    "at hand": "No GPU was at hand.",
    "one a each": "The table has one row a number.",
    "of what": "Of each variant, the mean.",
    "semicolons": "It reads the plan; it looks at the store; it runs the jobs.",
    "judge": "What the judge measures.",
}


NAMES = re.compile(r"(?:^|_)(?:told(?!_apart)|anew|beside|besides|made|judge|judges|judged)(?=_|$)")
"""Words that no identifier holds: it would not say what the thing is."""


def prose(file: Path) -> Iterator[str]:
    """The paragraphs of prose in a file: comments and strings of Python, comments of YAML, text of Markdown without its code."""
    content = file.read_text()
    if file.suffix == ".py":
        found = python_prose(content)
    elif file.suffix == ".md":
        text = re.sub(r"^```.*?^```$|\]\([^)]*\)", " ", content, flags=re.MULTILINE | re.DOTALL)
        found = re.split(r"\n\s*\n|\n(?=[-|\d])| \| ", text)
    else:
        found = re.findall(r"(?:# |^\s*(?:question|note|title): *)(.*)", content, re.MULTILINE)
    for paragraph in found:
        yield " ".join(re.sub(r"`[^`]*`|\{[^{}]*\}", "X", paragraph).split())


def python_prose(content: str) -> Iterator[str]:
    """Comments, and strings that hold at least three words."""
    for token in tokenize.generate_tokens(io.StringIO(content).readline):
        if token.type == tokenize.COMMENT:
            yield token.string.lstrip("# ")
        elif token.type == tokenize.STRING and len(token.string.split()) > 2:
            yield from re.split(r"\n\s*\n", token.string.lstrip("rRbBfF").strip("'\""))


def identifiers(content: str) -> Iterator[str]:
    """The names in Python code that hold one of NAMES."""
    if any(word in content for word in ("told", "anew", "beside", "made", "judge")):
        for token in tokenize.generate_tokens(io.StringIO(content).readline):
            if token.type == tokenize.NAME and NAMES.search(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", token.string).lower()):
                yield token.string


def offences(paragraph: str) -> Iterator[str]:
    """Each use of a rule, by the rule's name and the words around it."""
    for rule, (expression, _) in RULES.items():
        for found in re.finditer(expression, paragraph):
            words = paragraph[max(0, found.start() - 30) : found.start() + 50]
            yield f"{rule}: {words.strip()}"


def found_offences() -> dict[str, Path]:
    """All uses in the project, each with a file that has it."""
    files = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*") if file.suffix in (".py", ".md", ".yaml")]
    return {offence: file for file in (*files, *ROOT.glob("*.md")) for text in prose(file) for offence in offences(text)}


def test_text_uses_plain_words() -> None:
    known = set(KNOWN.read_text().splitlines())
    new = {offence: file for offence, file in found_offences().items() if offence not in known}
    lines = [f"{file.relative_to(ROOT)}: {offence}\n    write: {RULES[offence.partition(':')[0]][1]}" for offence, file in new.items()]
    assert not new, "rewrite these sentences:\n" + "\n".join(lines)


def test_names_use_plain_words() -> None:
    files = [file for folder in ("diamond_bench", "analysis", "paper_figures", "tests", "docs") for file in (ROOT / folder).rglob("*.py")]
    named = {f"{file.relative_to(ROOT)}: {name}" for file in files for name in identifiers(file.read_text())}
    named |= {str(file.relative_to(ROOT)) for file in files if NAMES.search(file.stem)}
    assert not named, "rename these: a name says what the thing is, in the field's words"


def test_an_odd_name_is_found() -> None:
    code = "def told(beside: int) -> None:\n    Judge = beside_it = told_apart = 'told'  # anew\n"
    assert list(identifiers(code)) == ["told", "beside", "Judge", "beside_it"]


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_finds_its_example(rule: str, tmp_path: Path) -> None:
    for name, text in {
        "a.py": f'"""{EXAMPLES[rule]}"""',
        "a.md": f"# Title\n\n{EXAMPLES[rule]}\n",
        "a.yaml": f"# {EXAMPLES[rule]}\n",
    }.items():
        (tmp_path / name).write_text(text)
        assert [offence.partition(":")[0] for text in prose(tmp_path / name) for offence in offences(text)] == [rule]


def test_code_and_plain_text_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(
        "The key `noise_conditioning` says so. Two runs are told apart; each has an id.\n\n```text\nwhat it came to\n```\n"
    )
    assert not [offence for text in prose(tmp_path / "a.md") for offence in offences(text)]


if __name__ == "__main__":
    still = found_offences()
    KNOWN.write_text("".join(f"{line}\n" for line in KNOWN.read_text().splitlines() if line in still))
