"""Published scores reproduce the published aggregates, and what cannot be computed is refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.aggregates import ScoreError, point_estimates
from analysis.score_curves import published_curves
from analysis.scores import (
    COLUMNS,
    Entry,
    between_footnotes,
    entries,
    footnotes,
    general_footnotes,
    human_random,
    kind_of,
    protocol,
    published,
    runs_by_game,
    score_matrix,
    select,
    with_hns,
)

TABLE_1, TABLE_6, TABLE_7 = (f"DIAMOND paper Table {n}" for n in (1, 6, 7))
IRIS_REPO, DIAMOND_REPO, STORM_REPO = "IRIS repo results/data", "DIAMOND repo results/data", "STORM repo results"
SIMULUS_REPO, REM_REPO, TWM_REPO = "Simulus repo results/data/atari", "REM repo results/data", "TWM repo results"
HARMONY_REPO = "HarmonyDream repo dreamerv3-jax/scores"
LAST, WINDOW, LATER = (
    f"DreamerV3 repo scores {rule}" for rule in ("2023-05 (last point)", "2023-05 (380k-390k mean)", "2024-04 (390k-400k mean)")
)

# "Computed and published aggregates" of the reference: runs (0: one mean a game), superhuman, mean, median, IQM
AGGREGATES = [
    ("DIAMOND", DIAMOND_REPO, 5, 11, 1.459, 0.373, 0.641),
    ("DIAMOND", TABLE_1, 0, 11, 1.459, 0.373, 0.757),
    ("IRIS", IRIS_REPO, 5, 10, 1.046, 0.289, 0.501),
    ("IRIS", TABLE_1, 0, 10, 1.046, 0.289, 0.543),
    ("SimPLe", IRIS_REPO, 5, 1, 0.332, 0.134, 0.130),
    ("SimPLe", TABLE_1, 0, 1, 0.332, 0.134, 0.209),
    ("STORM", STORM_REPO, 5, 9, 1.222, 0.425, 0.561),
    ("STORM", TABLE_1, 0, 10, 1.266, 0.580, 0.679),
    ("DreamerV3", LAST, 5, 9, 1.097, 0.466, 0.497),
    ("DreamerV3", WINDOW, 5, 9, 1.125, 0.485, 0.487),
    ("DreamerV3", LATER, 5, 7, 1.245, 0.480, 0.523),
    ("DreamerV3", TABLE_1, 0, 9, 1.130, 0.560, 0.599),
    ("TWM", TABLE_1, 0, 8, 0.956, 0.505, 0.530),
    ("MuZero", TABLE_6, 0, 5, 0.562, 0.227, 0.288),
    ("MuZero", IRIS_REPO, 0, 5, 0.562, 0.227, 0.288),
    ("EfficientZero", TABLE_6, 0, 14, 1.943, 1.090, 1.047),
    ("EfficientZero", IRIS_REPO, 0, 14, 1.943, 1.090, 1.047),
    ("SR-SPR", TABLE_6, 0, 9, 1.271, 0.684, 0.700),
    ("BBF", TABLE_6, 0, 12, 2.247, 0.917, 1.139),
    ("CURL", IRIS_REPO, 100, 2, 0.261, 0.092, 0.113),
    ("CURL", TABLE_6, 0, 2, 0.261, 0.092, 0.132),
    ("SPR", IRIS_REPO, 100, 6, 0.616, 0.396, 0.337),
    ("SPR", TABLE_6, 0, 6, 0.616, 0.396, 0.415),
    ("DrQ(eps)", IRIS_REPO, 100, 3, 0.465, 0.313, 0.280),
    ("Delta-IRIS", "Delta-IRIS repo results", 5, 12, 1.383, 0.594, 0.682),
    # "extra_scores.csv, extra_curves.csv" of the reference
    ("Simulus", SIMULUS_REPO, 5, 13, 1.645, 0.982, 0.990),
    ("REM", REM_REPO, 5, 12, 1.222, 0.280, 0.673),
    ("TWM", TWM_REPO, 5, 8, 0.956, 0.505, 0.459),
    ("HarmonyDream (DreamerV3)", HARMONY_REPO, 5, 11, 1.364, 0.671, 0.607),
    ("DreamerV3 (HarmonyDream reproduction)", HARMONY_REPO, 5, 9, 1.074, 0.416, 0.472),
]


@pytest.fixture(scope="module")
def scores() -> pd.DataFrame:
    return with_hns(published())


@pytest.mark.parametrize(("method", "source", "runs", "superhuman", "mean", "median", "iqm"), AGGREGATES)
def test_published_aggregates(
    scores: pd.DataFrame, method: str, source: str, runs: int, superhuman: int, mean: float, median: float, iqm: float
) -> None:
    frame = select(scores, method, source)
    assert kind_of(frame) == ("runs" if runs else "means")
    matrix = score_matrix(frame)
    assert matrix.shape == (runs or 1, 26)
    estimates = point_estimates(matrix)
    assert estimates["superhuman"] == superhuman
    assert [round(estimates[name], 3) for name in ("mean", "median", "iqm")] == [mean, median, iqm]


@pytest.mark.parametrize(
    ("method", "source", "mean", "median", "iqm", "gap"),
    [  # protocols.md of the reference
        ("DIAMOND", DIAMOND_REPO, 1.4590, 0.3734, 0.6408, 0.4802),
        ("STORM", STORM_REPO, 1.2221, 0.4246, 0.5611, 0.4717),
        ("IRIS", IRIS_REPO, 1.0459, 0.2888, 0.5012, 0.5117),
        # scores2/extra_scores.md of the reference
        ("Simulus", SIMULUS_REPO, 1.6453, 0.9819, 0.9904, 0.4118),
        ("REM", REM_REPO, 1.2220, 0.2804, 0.6732, 0.4823),
        ("TWM", TWM_REPO, 0.9562, 0.5054, 0.4592, 0.5126),
        ("HarmonyDream (DreamerV3)", HARMONY_REPO, 1.3640, 0.6705, 0.6068, 0.4624),
        ("DreamerV3 (HarmonyDream reproduction)", HARMONY_REPO, 1.0736, 0.4158, 0.4720, 0.5080),
    ],
)
def test_aggregates_to_four_decimals(
    scores: pd.DataFrame, method: str, source: str, mean: float, median: float, iqm: float, gap: float
) -> None:
    estimates = point_estimates(score_matrix(select(scores, method, source)))
    found = [round(estimates[name], 4) for name in ("mean", "median", "iqm", "optimality_gap")]
    assert found == [mean, median, iqm, gap]


def test_storm_with_the_papers_freeway() -> None:
    frame = select(published(), "STORM", STORM_REPO)
    assert (frame.loc[frame["game"] == "Freeway", "score"] == 0.0).all()
    changed = frame.assign(score=frame["score"].mask(frame["game"] == "Freeway", 33.5))
    estimates = point_estimates(score_matrix(with_hns(changed)))
    assert estimates["superhuman"] == 10
    assert [round(estimates[name], 3) for name in ("mean", "median", "iqm")] == [1.266, 0.580, 0.636]


def test_ten_games_of_one_denoising_step(scores: pd.DataFrame) -> None:
    one_step = select(scores, "DIAMOND (n=1)", TABLE_7)
    games = sorted(one_step["game"])
    assert len(games) == 10
    estimates = point_estimates(score_matrix(one_step, games=games))
    assert [round(estimates[name], 3) for name in ("mean", "median", "iqm", "superhuman")] == [1.962, 1.128, 1.407, 6.0]
    for source in (TABLE_1, DIAMOND_REPO):
        assert round(point_estimates(score_matrix(select(scores, "DIAMOND", source), games=games))["mean"], 3) == 3.052


def test_what_is_shipped() -> None:
    frame, norm = published(), human_random()
    assert tuple(frame.columns) == COLUMNS
    assert len(frame) == 9864
    assert str(frame["seed"].dtype) == "Int64"
    assert not frame.duplicated(["method", "source", "game", "seed"]).any()
    assert list(norm.index) == sorted(norm.index)
    assert norm.shape == (26, 2)
    assert set(frame["game"]) == set(norm.index)
    assert norm.loc["Pong"].to_dict() == {"random": -20.7, "human": 14.6}
    assert len(entries(frame)) == 31


def test_hns_by_hand() -> None:
    frame = pd.DataFrame({"game": ["Breakout", "Pong"], "score": [1.7 + 28.8 * 2, -20.7]})
    assert with_hns(frame)["hns"].tolist() == pytest.approx([2.0, 0.0])
    with pytest.raises(ScoreError, match=r"'breakout': did you mean Breakout\?"):
        with_hns(frame.assign(game="breakout"))


def test_selection_is_of_method_and_source(scores: pd.DataFrame) -> None:
    with pytest.raises(ScoreError, match="did you mean DIAMOND"):
        select(scores, "DIAMONDS", TABLE_1)
    with pytest.raises(ScoreError, match="from source 'Table 1'"):
        select(scores, "DIAMOND", "Table 1")
    with pytest.raises(ScoreError, match="2 entries"):
        score_matrix(scores[scores["method"] == "DIAMOND"])
    assert select(scores, "DIAMOND", TABLE_1)["source"].unique().tolist() == [TABLE_1]


def own(**columns: object) -> pd.DataFrame:
    """A method of ours: 3 runs of each game, raw score 10 x seed."""
    rows = [("Ours", game, seed, 10.0 * seed, "here") for game in human_random().index for seed in range(3)]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"seed": "Int64"}).assign(**columns)  # type: ignore[arg-type]


def test_matrix_puts_each_run_in_its_place() -> None:
    frame = own()
    frame["score"] += 100.0 * frame.groupby("game").ngroup()
    matrix = score_matrix(frame.sample(frac=1.0, random_state=0), "score")
    assert matrix.tolist() == [[100.0 * game + 10.0 * seed for game in range(26)] for seed in range(3)]
    assert score_matrix(frame, "score", games=["Pong", "Alien"]).tolist() == [[0.0, 2000.0], [10.0, 2010.0], [20.0, 2020.0]]


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("scale", ["smoke", "paper"]),
        ("protocol", ["agent", "world_model"]),
        ("revision", [1, 2]),
        ("protocol_record", ["sticky 0", None]),
    ],
)
def test_one_aggregate_mixes_no_conditions(column: str, values: list[object]) -> None:
    mixed = [values[row % 2] for row in range(78)]
    with pytest.raises(ScoreError, match=f"mixes 2 values of {column}"):
        score_matrix(own(**{column: mixed}), "score")
    assert score_matrix(own(**{column: values[0]}), "score").shape == (3, 26)


def test_refused_inputs_of_aggregates() -> None:
    frame = own()
    with pytest.raises(ScoreError, match="lacks 1 of 26 games \\(Boxing\\)"):
        score_matrix(frame[frame["game"] != "Boxing"], "score")
    with pytest.raises(ScoreError, match="unequal numbers of runs \\(2 of Alien, 3 of Amidar\\)"):
        score_matrix(frame[1:], "score")
    with pytest.raises(ScoreError, match=r"mixes runs .* and means"):
        score_matrix(
            own(seed=pd.array([None if game == "Pong" else seed for game, seed in zip(frame["game"], frame["seed"], strict=True)]))
        )
    with pytest.raises(ScoreError, match="Alien, seed 0, more than once"):
        runs_by_game(pd.concat([frame, frame[:1]]), "score")
    with pytest.raises(ScoreError, match="not finite"):
        runs_by_game(frame.assign(score=np.nan), "score")
    with pytest.raises(ScoreError, match="no scores"):
        score_matrix(frame[:0], "score")


# Traps of the reference, each visible where its entry stands: (method, source, words of the footnote)
TRAPS = [
    *[(method, TABLE_1, "not the IQM over runs") for method in ("DIAMOND", "IRIS", "SimPLe", "STORM", "DreamerV3", "TWM")],
    *[(method, TABLE_6, "not the IQM over runs") for method in ("CURL", "SPR")],
    *[(method, TABLE_6, "do not rank") for method in ("MuZero", "EfficientZero", "SR-SPR", "BBF", "CURL", "SPR")],
    ("DIAMOND", DIAMOND_REPO, "do not rank"),
    *[(method, IRIS_REPO, "do not rank") for method in ("MuZero", "EfficientZero", "CURL", "SPR")],
    ("STORM", STORM_REPO, "33.5"),
    ("STORM", TABLE_1, "0.0 in all five runs"),
    ("IRIS", IRIS_REPO, "exactly the human one"),
    ("IRIS", TABLE_1, "exactly the human one"),
    ("IRIS", IRIS_REPO, "says 3"),
    ("SimPLe", IRIS_REPO, "stand-ins"),
    ("SR-SPR", TABLE_6, "112450.3"),
    *[("DreamerV3", source, "so a rule picks") for source in (LAST, WINDOW, LATER, TABLE_1)],
    *[("DreamerV3", source, "training episodes") for source in (LAST, WINDOW, LATER, TABLE_1)],
    ("DreamerV3", TABLE_1, "1.130 where 1.097 is printed"),
    ("DreamerV3", TABLE_1, "9234"),
    ("DreamerV3", LAST, "8 of the 130"),
    ("DreamerV3", WINDOW, "6 of the 130"),
    ("DreamerV3", LATER, "no episode ended"),
    ("DreamerV3", LATER, "Freeway"),
    ("Delta-IRIS", "Delta-IRIS repo results", "sorted"),
    ("Delta-IRIS", "Delta-IRIS repo results", "does not say which"),
    ("DIAMOND (n=1)", TABLE_7, "single run"),
    ("DIAMOND (n=1)", TABLE_7, "10 games"),
    *[(method, source, "only one mean") for method, source in (("TWM", TABLE_1), ("SR-SPR", TABLE_6), ("BBF", TABLE_6))],
    *[(method, IRIS_REPO, "100 runs") for method in ("CURL", "SPR", "DrQ(eps)")],
    ("CURL", IRIS_REPO, "converted"),
    ("MuZero", IRIS_REPO, "only one figure a game"),
    ("TWM", TABLE_1, "source TWM repo results"),
    ("Simulus", SIMULUS_REPO, "could not be checked"),
    ("REM", REM_REPO, "173.125"),
    ("TWM", TWM_REPO, "cannot reproduce"),
    ("TWM", TWM_REPO, "FIRE"),
    *[(method, HARMONY_REPO, "cut at 5,400 frames") for method in ("HarmonyDream (DreamerV3)", "DreamerV3 (HarmonyDream reproduction)")],
    ("HarmonyDream (DreamerV3)", HARMONY_REPO, "136.5%"),
]


@pytest.mark.parametrize(("method", "source", "words"), TRAPS)
def test_every_trap_is_a_footnote(method: str, source: str, words: str) -> None:
    assert [note for note in footnotes(method, source) if words in note and method in note]


def test_footnotes_belong_to_shipped_entries_and_to_no_other() -> None:
    table = pd.read_csv(Path(__file__).parents[1] / "analysis" / "published" / "footnotes.csv")
    shipped = {*entries(published()), *entries(published_curves())}
    assert {Entry(*row) for row in table[["method", "source"]].itertuples(index=False)} <= shipped
    assert footnotes("Ours", "here") == []
    assert len(general_footnotes()) == 2


def test_the_figures_in_footnotes_are_those_of_the_data(scores: pd.DataFrame) -> None:
    for method, source, _, _, _, _, iqm in AGGREGATES:
        if source in (TABLE_1, TABLE_6):
            for note in [note for note in footnotes(method, source) if "IQM of these means" in note]:
                assert f"({iqm:.3f})" in note
    battle = select(scores, "SimPLe", IRIS_REPO).query("game == 'BattleZone'")["score"]
    assert (battle.round(1) == 4031.2).sum() == 2
    sorted_runs = select(scores, "Delta-IRIS", "Delta-IRIS repo results").groupby("game")["score"]
    assert all(runs.is_monotonic_decreasing for _, runs in sorted_runs)


def test_footnotes_between_methods(scores: pd.DataFrame) -> None:
    frames = {
        "DIAMOND": select(scores, "DIAMOND", DIAMOND_REPO),
        "STORM": select(scores, "STORM", STORM_REPO),
        "TWM": select(scores, "TWM", TABLE_1),
        "one step": select(scores, "DIAMOND (n=1)", TABLE_7),
    }
    text = "\n".join(between_footnotes(frames))
    assert "IQM of game means (TWM, one step) and IQM of runs (DIAMOND, STORM)" in text
    assert "No interval for TWM, one step" in text
    assert "one step 10" in text
    assert "sticky actions: 0 (DIAMOND, TWM); 0.25 (STORM)" in text
    assert "The protocol of one step is not recorded" in text
    assert "Not recorded here: real steps of TWM." in text
    assert between_footnotes({"DIAMOND": frames["DIAMOND"]}) == []


def test_protocols() -> None:
    sources = {"DIAMOND": DIAMOND_REPO, "IRIS": IRIS_REPO, "DreamerV3": TABLE_1, "STORM": STORM_REPO}
    records = {method: protocol(method, source) for method, source in sources.items()}
    assert all(record is not None and len(record) == 16 and all(record.values()) for record in records.values())
    storm, iris = records["STORM"], records["IRIS"]
    assert storm is not None
    assert iris is not None
    assert storm["sticky actions"] == "0.25"
    assert "temperature 0.5" in iris["test policy"]
    assert protocol("SimPLe", TABLE_1) is None
    assert protocol("DIAMOND", "mine") is None
    assert protocol("DIAMOND", STORM_REPO) is None


def test_scores_of_a_user_s_have_no_shipped_protocol_whatever_their_name(scores: pd.DataFrame) -> None:
    shipped = select(scores, "DIAMOND", DIAMOND_REPO)
    text = "\n".join(between_footnotes({"DIAMOND (mine)": shipped.assign(source="mine"), "STORM": select(scores, "STORM", STORM_REPO)}))
    assert "The protocol of DIAMOND (mine) is not recorded here." in text
    assert "Protocols differ" not in text


def test_footnotes_are_of_what_is_shown(scores: pd.DataFrame) -> None:
    assert {note for note in footnotes("DIAMOND", TABLE_1) if "IQM" in note}
    left = [*footnotes("DIAMOND", TABLE_1, iqm=False), *footnotes("CURL", IRIS_REPO, iqm=False)]
    assert not [note for note in left if "IQM" in note]
    assert footnotes("CURL", IRIS_REPO, iqm=False)
    frames = {"DIAMOND": select(scores, "DIAMOND", DIAMOND_REPO), "TWM": select(scores, "TWM", TABLE_1)}
    assert "do not rank" in " ".join(between_footnotes(frames, iqm=["DIAMOND", "TWM"]))
    assert "do not rank" not in " ".join(between_footnotes(frames, iqm=["DIAMOND"]))
    assert "No interval" not in " ".join(between_footnotes(frames, intervals=False))
