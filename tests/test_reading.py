"""One loader reads all YAML: the same data as PyYAML's for what it takes, one message for everything else; and only regular files."""

import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from diamond_bench.compose import CONF, cluster_profile
from diamond_bench.errors import UserError
from diamond_bench.reading import MAX_BYTES, NotAFile, load_yaml, open_file, read_file, read_yaml
from diamond_bench.studies.agents import import_job
from diamond_bench.studies.spec import load_study, study_files

PACKAGE = Path(__file__).parents[1] / "diamond_bench"

TEXTS = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs", "Zl", "Zp"), exclude_characters="\x85"), max_size=20
)  # line breaks, which PyYAML writes wrongly
LEAVES = st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False) | TEXTS
PLAIN = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=20)


@given(PLAIN)
@settings(max_examples=60, deadline=None)
def test_plain_data_come_back_as_they_were_written(data: Any) -> None:
    assert load_yaml(yaml.safe_dump(data, allow_unicode=True), "f") == data


@pytest.mark.parametrize("file", [*study_files().values(), *sorted(CONF.rglob("*.yaml"))], ids=lambda file: file.stem)
def test_shipped_files_mean_what_pyyaml_reads(file: Path) -> None:
    found, expected = read_yaml(file), yaml.safe_load(file.read_text())
    assert found == expected
    assert repr(found) == repr(expected)  # the order of keys, and 1 is not 1.0


def test_merge_keys_are_those_of_pyyaml() -> None:
    text = "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc: {<<: [*a, *b], z: 3}\nd: {x: 0, <<: *b}\ne: {'<<': 1}\n"
    assert load_yaml(text, "f") == yaml.safe_load(text)
    assert load_yaml(text, "f")["c"] == {"x": 1, "y": 1, "z": 3}


_MARKS = r"""a: - &a\n*a <<: { } [ ] , ' " ? : > | # --- ... 1 0x 1e400 1:2 2024-02-30 = ~ !!int !!set !!python/name:os.system"""
FRAGMENTS = st.sampled_from([*(mark + " " for mark in _MARKS.split(" ")), "|\n", "\n", "  ", "\x00", "\x1b", "\ud800", "\ufeff"])


@given(st.lists(FRAGMENTS | TEXTS, max_size=25).map("".join) | st.binary(max_size=60))
@settings(max_examples=150, deadline=None)
def test_any_text_is_data_or_one_message_that_names_the_file(content: Any) -> None:
    message = "folder/f.yaml: "
    try:
        load_yaml(content, "folder/f.yaml")
    except UserError as error:
        message = str(error)
    assert message.startswith("folder/f.yaml: ")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nseeds: [0]\nseeds: [1]\n", r"line 3: the key 'seeds' is given twice"),
        ("a: 1\nb: {c: 1, c: 2}\n", r"line 2: the key 'c' is given twice"),
        ("{<<: {a: 1}, <<: {b: 1}}", r"line 1: the key << is given twice"),
        ("\na: !!int abc", r"line 2: 'abc' cannot be read as a whole number"),
        (f"a: {'1' * 5001}", r"line 1: a number of 5,001 characters"),
        (f"a: 0x{'f' * 5001}", r"line 1: a number of 5,003 characters"),
        ("a: 1.0e+400", r"line 1: 1.0e\+400 is beyond the largest number"),
        ("a: &a [1, *a]", r"line 1: \*a is part of &a"),
        ("a: *b", r"line 1: \*b: there is no &b before it"),
        ("- " * 40 + "1", r"line 1: nested more than 32 levels"),
        ("[" * 3000 + "]" * 3000, r"line 1: "),
        ("a: !!python/object/apply:os.system [ls]", r"line 1: the tag '.*' is not read"),
        ("a: 1\n--- \nb: 2", r"line 2: a second document"),
        ("[1]: 2", r"line 1: a list or a group cannot be a key"),
        ("a: [1\n", r"not valid YAML"),
        ("a: \x07", r"not valid YAML"),
        (b"a: \xff", r"not a text in UTF-8"),
        ("a: " + "x" * MAX_BYTES, r"at most 1,000,000 are read"),
    ],
    ids=lambda value: re.sub(r"\W+", "-", str(value))[:20],
)
def test_what_is_refused_is_named_with_its_line(text: Any, words: str) -> None:
    with pytest.raises(UserError, match=f"^f: {words}" if words.startswith("line") else words):
        load_yaml(text, "f")


def test_a_date_is_a_text() -> None:
    assert load_yaml("a: 2024-02-30\nb: 2024-01-01 10:00:00\n", "f") == {"a": "2024-02-30", "b": "2024-01-01 10:00:00"}


@pytest.mark.parametrize(
    "text",
    [
        "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)),
        "a0: &a0 {k: v}\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 40)),
        "a: &a {" + ",".join(f"k{i}: 1" for i in range(5000)) + "}\n" + "\n".join(f"b{i}: {{<<: *a}}" for i in range(5000)),
    ],
    ids=["nine levels of nine aliases", "aliases 40 deep", "one group merged 5,000 times"],
)
def test_aliases_are_counted_before_they_are_expanded(text: str) -> None:
    began = time.process_time()
    with pytest.raises(UserError, match="aliases"):
        load_yaml(text, "f")
    assert time.process_time() - began < 5


def test_studies_profiles_and_configs_are_read_by_it(tmp_path: Path) -> None:
    shipped = study_files()["sampling_steps"].read_text()
    study = tmp_path / "mine.yaml"
    study.write_text(f"{shipped}\nseeds: 2\n")
    with pytest.raises(UserError, match=r"mine\.yaml: line \d+: the key 'seeds' is given twice"):
        load_study(str(study), "tiny")
    profile = tmp_path / "here.yaml"
    profile.write_text("name: slurm\ncpus: 1\ncpus: 2\n")
    with pytest.raises(UserError, match=r"here\.yaml: line 3: the key 'cpus' is given twice"):
        cluster_profile(str(profile))


def test_nothing_else_in_the_package_reads_yaml() -> None:
    others = [file.name for file in PACKAGE.rglob("*.py") if re.search(r"yaml\.(\w*load|parse|compose)\w*\(", file.read_text())]
    assert others == ["reading.py"]


def test_a_fifo_is_refused_at_once_wherever_a_file_is_read(tmp_path: Path) -> None:
    for name in ("s.yaml", "c.yaml", "Breakout.pt"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match="it is a FIFO, not a regular file"):
        load_study(str(tmp_path / "s.yaml"), "tiny")
    with pytest.raises(UserError, match="it is a FIFO, not a regular file"):
        cluster_profile(str(tmp_path / "c.yaml"))
    with pytest.raises(UserError, match="it is a FIFO, not a regular file"):
        import_job(tmp_path / "Breakout.pt", None)


def test_only_regular_files_of_bounded_size_are_read(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"12345")
    assert read_file(file, 5) == b"12345"
    with pytest.raises(NotAFile, match="more than 4 bytes"):
        read_file(file, 4)
    with pytest.raises(NotAFile, match="it is a folder"):
        read_file(tmp_path, 5)
    with pytest.raises(NotAFile, match="it is a device"):
        read_file("/dev/zero", 5)
    with pytest.raises(NotAFile, match="NUL"):
        open_file("a\0b")
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "absent", 5)
