"""A user's score file is checked to the last field: what is wrong is refused with its line, what is odd is flagged."""

import io
import os
import time
from pathlib import Path

import pandas as pd
import pytest

from analysis.aggregates import point_estimates
from analysis.scores import COLUMNS, ScoreFileError, human_random, read_scores, score_matrix, with_hns

TABLE_1 = "DIAMOND paper Table 1"
HEADER = "method,game,seed,score,source\n"
GAMES = list(human_random().index)
FULL = "".join(f"Ours,{game},{seed},{100.5 + seed},here\n" for game in GAMES for seed in range(3))
GOOD = HEADER + FULL


def with_row(row: str) -> str:
    return GOOD + row + "\n"


def test_a_good_file(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text(GOOD)
    read = read_scores(tmp_path / "mine.csv")
    assert read.flags == []
    assert read.frame.equals(pd.read_csv(io.StringIO(GOOD), dtype={"seed": "Int64"}))
    assert tuple(read.frame.columns) == COLUMNS
    assert point_estimates(score_matrix(with_hns(read.frame)))["mean"] > 0


REFUSED: dict[str, tuple[str | bytes, str]] = {
    "unknown game": (with_row("Ours,Tennis,0,1,here"), r"line 80: unknown game 'Tennis': valid: Alien, "),
    "game in small letters": (with_row("Ours,breakout,9,1,here"), r"line 80: unknown game 'breakout': did you mean Breakout\?"),
    "game as an environment id": (with_row("Ours,ALE/Breakout-v5,9,1,here"), r"did you mean Breakout\?"),
    "game with no-frameskip": (with_row("Ours,PongNoFrameskip-v4,9,1,here"), r"did you mean Pong\?"),
    "game with underscores": (with_row("Ours,ms_pacman,9,1,here"), r"did you mean MsPacman\?"),
    "game with a typo": (with_row("Ours,Brakeout,9,1,here"), r"did you mean Breakout"),
    "game empty": (with_row("Ours,,9,1,here"), r"line 80: unknown game ''"),
    "text in a number": (with_row("Ours,Pong,9,high,here"), r"line 80: score 'high' is not a number"),
    "number with a unit": (with_row("Ours,Pong,9,12 points,here"), r"score '12 points' is not a number"),
    "underscore in a number": (with_row("Ours,Pong,9,1_5,here"), r"score '1_5' is not a number"),
    "digits of another script": (with_row("Ours,Pong,9,\u0661\u0662,here"), r"is not a number"),
    "hexadecimal": (with_row("Ours,Pong,9,0x10,here"), r"score '0x10' is not a number"),
    "score empty": (with_row("Ours,Pong,9,,here"), r"line 80: score is empty"),
    "NaN": (with_row("Ours,Pong,9,nan,here"), r"line 80: score 'nan' is not a finite number"),
    "NA": (with_row("Ours,Pong,9,NA,here"), r"score 'NA' is not a finite number"),
    "infinity": (with_row("Ours,Pong,9,-inf,here"), r"score '-inf' is not a finite number"),
    "overflow": (with_row("Ours,Pong,9,1e999,here"), r"score 1e999 is beyond any Atari score"),
    "absurd score": (with_row("Ours,Pong,9,12345678901,here"), r"line 80: score 12345678901 is beyond any Atari score"),
    "thousands separator, quoted": (with_row('Ours,Pong,9,"1,234.5",here'), r"score '1,234.5' has separators of thousands"),
    "thousands separator, bare": (with_row("Ours,Pong,9,1,234.5,here"), r"line 80: 6 fields, expected 5; a comma"),
    "thousands by spaces": (with_row("Ours,Pong,9,1 234,here"), r"score '1 234' has separators of thousands"),
    "decimal comma": (with_row('Ours,Pong,9,"12,5",here'), r"score '12,5' has a decimal comma"),
    "duplicate run": (with_row("Ours,Pong,1,3,here"), r"line 80: Ours, Pong, seed 1 was given on line 63 already"),
    "duplicate run, zero before": (with_row("Ours,Pong,01,3,here"), r"seed 1 was given on line 63 already"),
    "duplicate mean": (with_row("New,Pong,,3,here\nNew,Pong,,4,here"), r"line 81: New, Pong, mean was given on line 80 already"),
    "mean beside runs": (with_row("Ours,Pong,,3,here"), r"line 80: seed is empty, but other rows of Ours, Pong have one"),
    "negative seed": (with_row("Ours,Pong,-1,3,here"), r"line 80: seed '-1' is not a whole number from 0"),
    "float seed": (with_row("Ours,Pong,1.0,3,here"), r"seed '1.0' is not a whole number"),
    "text seed": (with_row("Ours,Pong,first,3,here"), r"seed 'first' is not a whole number"),
    "seed beyond any": (with_row("Ours,Pong,99999999999999999999,3,here"), r"seed 99999999999999999999 is too large"),
    "seed just too large": (with_row("Ours,Pong,2147483648,3,here"), r"seed 2147483648 is too large"),
    "method empty": (with_row(",Pong,9,3,here"), r"line 80: method is empty"),
    "method of spaces": (with_row("  ,Pong,9,3,here"), r"line 80: method is empty"),
    "source empty": (with_row("Ours,Pong,9,3,"), r"line 80: source is empty"),
    "endless name": (with_row("O" * 201 + ",Pong,9,3,here"), r"line 80: method 'OOO.*' is not a name"),
    "control character in a name": (with_row("Ou\x1b[31mrs,Pong,9,3,here"), r"is not a name"),
    "line break in a name": (with_row('"Ou\nrs",Pong,9,3,here'), r"line 81: method .* is not a name"),
    "shipped already": (with_row(f"DIAMOND,Pong,9,3,{TABLE_1}"), r"line 80: DIAMOND \(DIAMOND paper Table 1\) is shipped already"),
    "shipped but for capitals": (with_row(f"diamond,Pong,9,3,{TABLE_1}"), r"is shipped already"),
    "field too few": (with_row("Ours,Pong,9,3"), r"line 80: 4 fields, expected 5"),
    "field too many": (with_row("Ours,Pong,9,3,here,there"), r"line 80: 6 fields, expected 5"),
    "quote left open": (with_row('Ours,Pong,9,3,"here'), r"not a CSV row"),
    "text after a quote": (with_row('Ours,Pong,9,3,"he"re'), r"line 80: not a CSV row"),
    "field without end": (with_row("Ours,Pong,9,3," + "h" * 200_000), r"line 80: not a CSV row"),
    "wrong header": ("a,b,c\n" + FULL, r"line 1: 'a,b,c' is no header; expected method,game,seed,score,source"),
    "no header": (FULL, r"line 1: 'Ours,Alien,0,100.5,here' is no header"),
    "header in capitals": ("METHOD,GAME,SEED,SCORE,SOURCE\n" + FULL, r"is no header; .* small letters"),
    "column misspelt": ("method,game,seed,scores,source\n" + FULL, r"line 1: unknown column 'scores': did you mean score"),
    "column missing": ("method,game,score,source\nOurs,Pong,3,here\n", r"line 1: column 'seed' is missing"),
    "column extra": ("method,game,seed,score,source,scale\nOurs,Pong,0,3,here,paper\n", r"line 1: unknown column 'scale'"),
    "column twice": ("method,game,seed,score,source,score\nOurs,Pong,0,3,here,3\n", r"column 'score' is there 2 times"),
    "semicolons": (GOOD.replace(",", ";"), r"line 1: fields are separated by semicolons; expected commas"),
    "tabs": (GOOD.replace(",", "\t"), r"line 1: fields are separated by tabs"),
    "empty": (b"", r"mine.csv: empty; expected the header"),
    "blank": (b" \n\n", r"mine.csv: empty"),
    "header only": (HEADER, r"a header and no rows"),
    "latin-1": (with_row("M\u00e9thode,Pong,9,3,here").encode("latin-1"), r"line 80: byte 0xe9 is not UTF-8"),
    "UTF-16": (GOOD.encode("utf-16"), r"line 1: UTF-16"),
    "NUL bytes": (with_row("Ours,Po\0ng,9,3,here"), r"line 80: NUL bytes"),
    "a picture": (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", r"NUL bytes"),
    "HTML": ("<!doctype html>\n<p>Not found</p>\n", r"line 1: '<!doctype html>' is no header"),
    "JSON": ('{"method": "Ours", "game": "Pong"}\n', r"line 1: .* is no header"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_malformed_file_is_refused(case: str, tmp_path: Path) -> None:
    content, message = REFUSED[case]
    path = tmp_path / "mine.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ScoreFileError, match=message) as caught:
        read_scores(path)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)


def rows_of(games: list[str], seeds: list[int | str]) -> str:
    return HEADER + "".join(f"Ours,{game},{s},{100.5 + i},here\n" for game in games for i, s in enumerate(seeds))


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


PONG = "Ours,Pong,0,100.5,here\nOurs,Pong,1,101.5,here\nOurs,Pong,2,102.5,here\n"
FLAGGED: dict[str, tuple[str | bytes, str]] = {
    "one seed only": (rows_of(GAMES, [0]), r"Ours \(here\): one seed only: no intervals"),
    "two seeds": (rows_of(GAMES, [0, 1]), "fewer than 3 runs of a game: no intervals"),
    "means": (rows_of(GAMES, [""]), "one mean a game and no runs: no intervals"),
    "runs here, means there": (changed(PONG, "Ours,Pong,,100.5,here\n"), "runs of some games and means of others"),
    "missing games": (rows_of(["Pong"], [0, 1, 2]), r"25 of 26 games missing \(Alien, Amidar, Assault, Asterix, BankHeist, ...\)"),
    "unequal runs": (with_row("Ours,Pong,3,5,here"), "unequal numbers of runs: aggregates over games are refused"),
    "200 seeds": (rows_of(["Pong"], list(range(200))), "more than 50 runs of a game: are these episodes, not training runs"),
    "51 seeds": (rows_of(["Pong"], list(range(51))), "more than 50 runs of a game: are these episodes, not training runs"),
    "one score in all runs": (changed(PONG, "".join(f"Ours,Pong,{s},7,here\n" for s in range(3))), "it may stand in for missing runs"),
    "normalised scores": (GOOD.replace(",10", ","), "raw scores are expected, not HNS"),
    "far from any": (changed("Pong,1,101.5", "Pong,1,999999"), r"1 scores are far from any published one, first on line 63 \(999999\)"),
    "byte-order mark": (b"\xef\xbb\xbf" + GOOD.encode(), "byte-order mark"),
    "Windows line ends": (GOOD.replace("\n", "\r\n"), "CR LF"),
    "spaces around fields": (changed("Ours,Pong,1,", " Ours , Pong,1, "), "Spaces around fields were removed"),
    "blank lines": (GOOD + "\n\n", "2 blank lines were skipped"),
}


@pytest.mark.parametrize("case", FLAGGED)
def test_an_odd_file_is_read_and_flagged(case: str, tmp_path: Path) -> None:
    content, flag = FLAGGED[case]
    path = tmp_path / "mine.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    read = read_scores(path)
    assert len(pd.Series(read.flags).pipe(lambda flags: flags[flags.str.contains(flag)])) == 1, read.flags
    assert set(read.frame["method"]) == {"Ours"}
    assert set(read.frame["game"]) <= set(GAMES)


def test_flags_of_form_change_no_value(tmp_path: Path) -> None:
    plain, odd = tmp_path / "plain.csv", tmp_path / "odd.csv"
    plain.write_text(GOOD)
    odd.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", " \r\n").encode() + b"\r\n")
    assert read_scores(odd).frame.equals(read_scores(plain).frame)
    shuffled = tmp_path / "shuffled.csv"
    pd.read_csv(plain)[["score", "seed", "source", "game", "method"]].to_csv(shuffled, index=False)
    assert read_scores(shuffled).frame.equals(read_scores(plain).frame)
    quoted = tmp_path / "quoted.csv"
    quoted.write_text(GOOD.replace("Ours", '"Ours, ""really"""'))
    assert set(read_scores(quoted).frame["method"]) == {'Ours, "really"'}


def test_a_path_that_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "scores.csv").write_text(GOOD)
    with pytest.raises(ScoreFileError, match=r"score\.csv: no such file; did you mean scores\.csv\?"):
        read_scores(tmp_path / "score.csv")
    with pytest.raises(ScoreFileError, match="no such file"):
        read_scores(tmp_path / "nowhere" / "score.csv")
    with pytest.raises(ScoreFileError, match="a folder"):
        read_scores(tmp_path)
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(ScoreFileError, match="not a regular file"):
        read_scores(tmp_path / "pipe.csv")


@pytest.mark.parametrize("methods", [80, pytest.param(800, marks=pytest.mark.slow)], ids=["a hundred thousand", "a million"])
def test_many_rows(methods: int, tmp_path: Path) -> None:
    path = tmp_path / "large.csv"
    rows = (f"m{m},{game},{seed},{seed * 1.37 + m:.4f},mine\n" for m in range(methods) for game in GAMES for seed in range(50))
    path.write_text(HEADER + "".join(rows))
    start = time.process_time()
    read = read_scores(path)
    assert time.process_time() - start < methods / 80
    assert len(read.frame) == methods * 26 * 50
    assert read.flags == []


def test_too_many_methods(tmp_path: Path) -> None:
    path = tmp_path / "mixed-up.csv"
    path.write_text(HEADER + "".join(f"m{m},Boxing,0,1.0,mine\n" for m in range(10_001)))
    with pytest.raises(ScoreFileError, match="line 10002: 10001 methods and sources"):
        read_scores(path)


def test_many_odd_entries_give_few_flags(tmp_path: Path) -> None:
    path = tmp_path / "many.csv"
    path.write_text(HEADER + "".join(f"m{m},Boxing,0,1.0,mine\n" for m in range(200)))
    flags = read_scores(path).flags
    assert len(flags) == 22
    assert "And 190 more entries with the same." in flags
