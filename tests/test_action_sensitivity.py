"""The metric action_sensitivity on models whose use of actions is known. Each frame shows the action before it: one lit quarter of four."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from test_evaluation import CONFIG, SETTINGS, Predictor, data, evaluate, numbers  # noqa: F401

from diamond_bench.data.static import EpisodeSet
from diamond_bench.errors import UserError
from diamond_bench.metrics.action_sensitivity import _measure, lag_p, lag_ratios
from diamond_bench.metrics.header import ESTIMATE_LEVELS
from diamond_bench.metrics.play import Batch, WindowBatch, other_actions
from diamond_bench.report.sections import with_interval
from diamond_bench.spaces import ActionSpec
from diamond_bench.studies.plan import plan_study

SENSITIVE = replace(CONFIG, evaluation=replace(SETTINGS, metrics=("drift", "action_sensitivity"), num_one_step=0))


def quarters(actions: torch.Tensor) -> torch.Tensor:
    """Frames (n, 3, 16, 16) in [-1, 1]: the quarter of each action is 1, the others are -1."""
    lit = torch.nn.functional.one_hot(actions, 4).float() * 2 - 1
    return lit.repeat_interleave(4, dim=1)[:, None, :, None].expand(-1, 3, 16, 16)


class Quarters(Predictor):
    """Estimates the quarter of the action `late` steps before the last one. A share of the noisy frame is added."""

    def __init__(self, late: int = 0, share: float = 0.0) -> None:
        super().__init__()
        self.late, self.share = late, share

    def estimate(self, past: torch.Tensor, actions: torch.Tensor, noisy: torch.Tensor, sigma: float) -> torch.Tensor:
        return (1 - self.share) * quarters(actions[:, -1 - self.late]) + self.share * noisy


class Blind(Predictor):
    """Copies the last frame, or denoises without a look at the actions."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def estimate(self, past: torch.Tensor, actions: torch.Tensor, noisy: torch.Tensor, sigma: float) -> torch.Tensor:
        return (1 - self.share) * past[:, -1] + self.share * noisy


def play(splits: dict[str, EpisodeSet], delay: int = 1, held: float = 0.0) -> torch.Tensor:
    """Held-out play in which frame t shows the action of row t - delay. An action is repeated with probability `held`, else it is drawn
    uniformly. Returns the actions."""
    heldout, rng = splits["heldout"], np.random.default_rng(3)
    actions = rng.integers(0, 4, len(heldout.frames))
    for t in range(1, len(actions)):
        if rng.random() < held:
            actions[t] = actions[t - 1]
    taken = torch.from_numpy(actions)
    frames = ((quarters(taken.roll(delay)) + 1) / 2 * 255).to(torch.uint8).contiguous()
    splits["heldout"] = replace(heldout, actions=taken, frames=frames)
    return taken


def measured(folder: Path, world: Predictor, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    found = numbers(evaluate(folder, world, monkeypatch, SENSITIVE))
    return {name.removeprefix("action_"): value for (name, _), value in found.items() if name.startswith("action_")}


def test_a_perfect_model_is_infinitely_sensitive_to_the_last_action_alone(
    data: dict[str, EpisodeSet],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    play(data)
    found = measured(tmp_path / "e", Quarters(), monkeypatch)
    assert (found["sensitivity"], found["lag"]) == (np.inf, 0)
    assert (found["sensitivity_0"], found["sensitivity_1"]) == (np.inf, 1.0)


@pytest.mark.parametrize("late", [0, 1])
def test_values_and_lag_are_as_derived_by_hand(
    late: int,
    data: dict[str, EpisodeSet],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With half of the noisy frame, the error of the right actions is sigma^2 / 16 (frames in [0, 1]). Another action moves two of four
    quarters by 1, which the half makes 1/8. So the ratio is 1 + 2 / sigma^2, at the lag of the action that the frames show."""
    play(data, delay=1 + late)
    found = measured(tmp_path / "e", Quarters(late, share=0.5), monkeypatch)
    by_hand = {sigma: 1 + 2 / sigma**2 for sigma in ESTIMATE_LEVELS}
    for sigma, expected in by_hand.items():
        assert found[f"sensitivity_{late}_at_{sigma:g}"] == pytest.approx(expected, rel=0.05)
        assert found[f"sensitivity_{1 - late}_at_{sigma:g}"] == 1.0
    assert found["sensitivity"] == pytest.approx(np.mean(list(by_hand.values())), rel=0.05)
    assert found["lag"] == late


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_model_without_actions_has_exactly_one_and_no_lag(
    share: float,
    data: dict[str, EpisodeSet],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Copy-last-frame with share 0. The noise is the same with every action, so the ratio is exactly 1."""
    play(data)
    found = measured(tmp_path / "e", Blind(share), monkeypatch)
    assert found.pop("sensitivity") == 1.0
    assert np.isnan(found.pop("lag"))
    assert found.pop("lag_clusters") == 6
    assert set(found.values()) == {1.0}, "the p-value too"


@pytest.mark.parametrize("held", [0.0, 0.7])
def test_a_shifted_model_is_found_in_play_that_holds_its_actions_or_draws_them(
    held: float,
    data: dict[str, EpisodeSet],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A model trained with shifted actions reads lag 1, where the right action is that of lag 0. In windows where the two are equal it is
    right, so its ratio at lag 1 is 1 + 2 / sigma^2, as that of a normal model at lag 0. In other windows its frame is wrong anyway."""
    play(data, held=held)
    found = measured(tmp_path / "e", Quarters(late=1, share=0.5), monkeypatch)
    for sigma in ESTIMATE_LEVELS:
        assert found[f"sensitivity_1_at_{sigma:g}"] == pytest.approx(1 + 2 / sigma**2, rel=0.1)
    assert (found["sensitivity_0"], found["lag"]) == (1.0, 1)
    assert found["lag_p"] < 0.01


def test_a_lag_without_windows_of_equal_actions_has_no_number() -> None:
    errors = np.array([[[1.0], [3.0], [8.0]], [[1.0], [5.0], [8.0]], [[2.0], [2.0], [9.0]]])
    same = np.array([[True, False], [True, False], [True, False]])
    assert lag_ratios(errors, same)[0] == pytest.approx(10 / 4)
    assert np.isnan(lag_ratios(errors, same)[1]).all()
    same[2, 1] = True
    assert lag_ratios(errors, same)[1] == pytest.approx(9 / 2)


@pytest.mark.parametrize(("value", "shown"), [(np.nan, "no number"), (np.inf, "∞"), (1.0, "1")])
def test_a_report_shows_what_has_no_number(value: float, shown: str) -> None:
    assert with_interval(SimpleNamespace(mean=value, low=np.nan, high=np.nan)) == shown


def test_windows_of_equal_actions_are_found_by_all_columns_of_an_action() -> None:
    """Lags 0, 1 and 2 of two windows. The context has one more action, and one follows it, which no estimate sees."""
    actions = torch.tensor([[[9, 9], [1, 3], [1, 2], [1, 2], [0, 0]], [[9, 9], [4, 4], [4, 4], [4, 4], [0, 0]]])
    frames = torch.zeros(2, 5, 3, 1, 1, dtype=torch.uint8)
    for dtype, expected in ((torch.int64, [[True, True, False], [True] * 3]), (torch.float32, [[True] * 3] * 2)):
        batch = Batch("estimates", torch.zeros(2, 4, 1, 3, 1, 1), WindowBatch(frames, actions.to(dtype), context=4), range(2))
        assert _measure(batch)["same"].tolist() == expected


def rises(of_group: list[float], windows: int, *others: float) -> np.ndarray:
    """Rises (groups * windows, 2 + others): 0 without a replaced action, the group's with lag 0, and `others` with each other lag."""
    first = np.repeat(of_group, windows)
    return np.stack([np.zeros_like(first), first, *(np.full_like(first, other) for other in others)], axis=1)


def test_windows_of_one_episode_are_not_independent() -> None:
    """Eight episodes rise by -0.5 or 1.5 in all of their windows. Their means have the standard deviation sqrt(8 / 7), so the mean of 0.5
    has the standard error sqrt(1 / 7). Windows that count as independent have one of 1 / 16, and t = 8."""
    planted, episodes = rises([-0.5, 1.5] * 4, 32), np.repeat(np.arange(8) * 3, 32)
    p, clusters = lag_p(planted, 0, episodes, np.arange(256))
    assert p == pytest.approx(stats.t.sf(0.5 * 7**0.5, 7))
    assert p > 0.1
    assert clusters == 8
    naive = stats.ttest_1samp(planted[:, 1], 0, alternative="greater").pvalue
    assert naive < 1e-12, "the fault that clustering prevents"


def test_few_episodes_leave_blocks_of_windows_as_clusters() -> None:
    planted, blocks = rises([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], 4), np.repeat(np.arange(6), 4)
    p, clusters = lag_p(planted, 0, blocks // 2, blocks)
    assert clusters == 6
    assert p == pytest.approx(stats.t.sf(2.5 / (3.5 / 6) ** 0.5, 5))
    assert all(np.isnan(lag_p(planted, 0, blocks // 2, np.minimum(blocks, 3))))


def test_the_peak_is_compared_with_every_other_lag_and_is_the_best_of_all() -> None:
    """Lag 0 rises by 2.5 on average, far above 0. Lag 1 rises by 2 in all windows, which lag 0 hardly exceeds."""
    groups = np.repeat(np.arange(6), 4)
    p, _ = lag_p(rises([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], 4, 2.0), 0, groups, groups)
    assert p == pytest.approx(2 * stats.t.sf(0.5 / (3.5 / 6) ** 0.5, 5))
    below, _ = lag_p(rises([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], 4, 3.0), 0, groups, groups)
    assert below == 1.0


@pytest.mark.parametrize(("starts", "lengths", "clusters"), [([0, 20, 40], [20, 20, 20], 6), ([0, 9, 20, 29, 40], [9, 11, 9, 11, 20], 5)])
def test_clusters_of_an_evaluation_are_its_episodes_or_the_blocks_of_its_references(
    starts: list[int],
    lengths: list[int],
    clusters: int,
    data: dict[str, EpisodeSet],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Six references lie end to end in three episodes. Only windows of one reference share frames."""
    play(data)
    data["heldout"] = replace(data["heldout"], starts=torch.tensor(starts), lengths=torch.tensor(lengths))
    found = measured(tmp_path / "e", Quarters(), monkeypatch)
    assert (found["lag_clusters"], found["lag_p"]) == (clusters, 0.0)


@pytest.mark.parametrize("spec", [ActionSpec.discrete(3), ActionSpec.columns((2, 3)), ActionSpec.continuous((-1.0,), (1.0,))])
def test_another_action_is_uniform_over_all_others(spec: ActionSpec) -> None:
    given = torch.ones(100, 6, *spec.shape, dtype=getattr(torch, spec.dtype))
    found = other_actions(given, spec, [(0, row) for row in range(100)]).reshape(600, -1)
    assert found.shape[1] == len(spec.sizes)
    assert not (found == 1).all(dim=1).any()
    if not spec.low:
        counts = found.unique(dim=0, return_counts=True)[1].double()
        number = int(np.prod(spec.sizes)) - 1
        assert len(counts) == number
        assert float((counts - 600 / number).abs().max()) < 5 * (600 / number) ** 0.5


def test_a_game_with_one_action_is_refused() -> None:
    with pytest.raises(UserError, match=r"Discrete\(1\): there is no other action; leave action_sensitivity out"):
        other_actions(torch.zeros(1, 1, dtype=torch.int64), ActionSpec.discrete(1), [(0,)])


@pytest.mark.parametrize(
    ("study", "words", "message"),
    [
        (
            "world_model_family",
            [],
            r"family=\w+ has none\. To leave action_sensitivity out, use metrics=\[drift\]",
        ),
        ("sampling_steps", ["objective.sigma_max=5"], r"trained at noise levels 0\.002 to 5, and action_sensitivity needs 0\.1 to 10"),
    ],
)
def test_models_without_such_estimates_are_refused(study: str, words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan_study(study, ["scale=tiny", "metrics=[drift,action_sensitivity]", *words])
