"""Metric cards: how each metric responds to known damage of true frames. `python docs/hooks/metric_cards.py` measures and writes them.

Each damage makes a folder of frames, which `diamond-bench score` measures like those of any program. The page docs/metrics.md shows the
numbers of docs/figures/metric_cards.csv. Only this file decides from them what a metric sees.
"""

import argparse
import csv
import math
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DOCS = Path(__file__).parents[1]
NUMBERS = DOCS / "figures" / "metric_cards.csv"
PICTURE = DOCS / "figures" / "metric_cards.png"
PAGE = DOCS / "metrics.md"
BEGIN, END = "<!-- Metric cards: written by docs/hooks/metric_cards.py -->", "<!-- End of the metric cards -->"
COLUMNS = ("game", "metric", "damage", "repetition", "value", "scale")
"""Columns of NUMBERS. `scale` is the largest change of the metric among all damages and unrelated frames of this repetition."""
LEAST = 0.01
"""A smaller response, as a share of the scale, counts as none."""
GAMES: Mapping[str, Mapping[str, Any]] = {
    "synthetic/turn": {"env.minority_share": 0, "data": "random"},
    "Freeway": {"data.epsilon": 0.5},
    "vizdoom/E1M1": {
        **{"data.policy": "look_around", "data.num_train_frames": 40_000, "data.windows_per_episode": 4},
        **{"probe.channels": 32, "probe.num_steps": 4000, "probe.learning_rate": 0.003, "probe.pixel_noise": 0.1},
    },
}
SIZES = {
    **{"scale": "tiny", "data.num_train_frames": 1500, "data.num_references": 24, "data.reference_horizon": 16},
    **{"evaluation.num_trajectories": 8, "evaluation.horizon": 16, "evaluation.num_one_step": 16, "evaluation.num_sample_starts": 4},
    **{"evaluation.sample_horizon": 4, "evaluation.num_fid_images": 48},
    **{"probe.num_steps": 250, "probe.channels": 16, "probe.batch_size": 32, "probe.learning_rate": 0.008},
}
_STARTS = ("data.num_references", "evaluation.num_trajectories")
LARGER: Mapping[str, Mapping[str, Any]] = {
    "fid": {"data.num_train_frames": 2048, "evaluation.num_fid_images": 2048, **dict.fromkeys(_STARTS, 128)},
    "fvd": {"data.num_train_frames": 8192, "data.windows_per_episode": 20, **dict.fromkeys(_STARTS, 401)},
}
"""FID needs 2,048 images, FVD 401 clips, and its interval 20 episodes. Used if `--metrics` names the metric."""

Frames = NDArray[np.uint8]
"""(n, T, h, w, 3)."""


# Damages


def blurred(frames: Frames, last: Frames, rng: np.random.Generator) -> Frames:
    """Each pixel is the mean of its 3 x 3 neighbours."""
    padded = np.pad(frames.astype(np.uint16), ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    height, width = frames.shape[2:4]
    total = sum(padded[:, :, i : i + height, j : j + width] for i in range(3) for j in range(3))
    return np.asarray((total + 4) // 9, np.uint8)


def noisy(frames: Frames, last: Frames, rng: np.random.Generator) -> Frames:
    """Gaussian noise with a standard deviation of 8 of 255 grey levels."""
    return np.asarray((frames + rng.normal(0, 8, frames.shape)).round().clip(0, 255), np.uint8)


def without_object(frames: Frames, last: Frames, rng: np.random.Generator) -> Frames:
    """In each frame, the background replaces the smallest moving object. The background is the median over all frames."""
    from scipy.ndimage import label

    background = np.median(frames.reshape(-1, *frames.shape[2:]), axis=0).astype(np.uint8)
    found = frames.copy()
    for frame in found.reshape(-1, *frames.shape[2:]):
        labels, count = label((frame != background).any(axis=-1))
        if count:
            sizes = np.bincount(labels.ravel())[1:]
            gone = labels == 1 + int(sizes.argmin())
            frame[gone] = background[gone]
    return found


def frozen(frames: Frames, last: Frames, rng: np.random.Generator) -> Frames:
    """The last frame of the context, in place of all frames."""
    return np.broadcast_to(last[:, None], frames.shape)


def delayed(frames: Frames, last: Frames, rng: np.random.Generator) -> Frames:
    """Each frame comes one step late."""
    return np.concatenate((last[:, None], frames[:, :-1]), axis=1)


def unchanged(frames: Frames, last: Frames, rng: np.random.Generator) -> Frames:
    """True frames."""
    return frames


DAMAGES: Mapping[str, tuple[str, Callable[[Frames, Frames, np.random.Generator], Frames]]] = {
    "none": ("true frames", unchanged),
    "blur": ("each pixel is the mean of its 3 x 3 neighbours", blurred),
    "noise": ("Gaussian noise, standard deviation 8 of 255", noisy),
    "object": ("the smallest moving object of each frame is painted over with the background", without_object),
    "actions": ("the true game, but each action is taken one step late", unchanged),
    "frozen": ("the last frame of the context in place of all frames", frozen),
    "delay": ("each frame comes one step late", delayed),
}


# Measurement


def measure(game: str, repetition: int, metrics: str, work: Path) -> list[dict[str, Any]]:
    """The rows of NUMBERS of one repetition, which is the seed of its starts. `metrics`: as in `metrics=` of a score, or empty for all."""
    from diamond_bench.launch.local import run_local
    from diamond_bench.store.artifacts import Store
    from diamond_bench.stored.score_starts import write_starts
    from diamond_bench.studies.score import plan_prepare, plan_score

    store = Store(work / "outputs", say=print)
    settings = {"game": game, **sizes(metrics), **GAMES[game], "evaluation.seed": repetition}
    place = work / game.replace("/", "-") / str(repetition)
    prepared, config = plan_prepare(place / "starts", [f"{key}={value}" for key, value in settings.items()])
    run_local(store, prepared.jobs.values(), num_workers=1, device="cpu")
    (dataset,) = prepared.jobs
    shutil.rmtree(place, ignore_errors=True)
    write_starts(store, dataset, config, prepared.scale, place / "starts")
    asked = [f"metrics={metrics}"] if metrics else []
    plan = plan_score(write_damages(store, dataset, config, place, repetition), ["execution.num_threads=1", *asked])
    summary = run_local(store, plan.jobs.values(), num_workers=2, device="cpu")
    if summary.exit_code:
        raise SystemExit(f"{game}: jobs failed: {summary.failed}")
    found = card_rows(game, repetition, {point.variant: store.result(point.jobs["evaluation"]).rows for point in plan.points})
    return [row for row in found if not metrics or row["metric"] in columns_of(metrics)]


def names_of(metrics: str) -> list[str]:
    """The names in a list such as [fid,drift]."""
    return [name.strip() for name in metrics.strip("[]").split(",") if name.strip()]


def sizes(metrics: str) -> dict[str, Any]:
    """SIZES, raised to those that one of the metrics needs."""
    found = dict(SIZES)
    for name in names_of(metrics):
        for key, value in LARGER.get(name, {}).items():
            found[key] = max(value, found.get(key, value))
    return found


def columns_of(metrics: str) -> set[str]:
    """The columns of metrics such as [fid,drift]. Every evaluation also has those that are always measured."""
    from diamond_bench.metrics import all_metrics

    return {column for name in names_of(metrics) for column in all_metrics()[name].columns}


def write_damages(store: Any, dataset: Any, config: Any, place: Path, seed: int) -> list[Path]:
    """A folder of frames for each damage. The game itself plays the starts, so frames under other actions are true as well."""
    import torch

    from diamond_bench.data.references import one_step_windows, reference_windows
    from diamond_bench.data.static import load_info, load_split
    from diamond_bench.evaluation.given import starts_of
    from diamond_bench.evaluation.rollouts import imagine
    from diamond_bench.metrics.play import WindowBatch
    from diamond_bench.worlds.families import open_world
    from diamond_bench.worlds.oracle import Oracle
    from diamond_bench.worlds.recordings import recorded_episodes

    folder, e = store.folder(dataset), config.evaluation
    described, heldout = load_info(folder), load_split(folder, "heldout")
    layout = described.content["heldout"]
    window, starts = (layout["reference_context"], layout["reference_horizon"]), layout["reference_starts"]
    references = reference_windows(heldout, max(e.num_trajectories, e.num_sample_starts), *window, seed=e.seed, starts=starts)
    every = reference_windows(heldout, len(starts), *window, e.seed, starts=starts)
    found = starts_of(e, references, one_step_windows(every, e.num_one_step, e.seed), described.spec.actions)
    world = open_world(Oracle(), described.spec, torch.device("cpu"), recorded_episodes(folder, heldout))
    for kind, of in found.items():
        plays = [of.play(row) for row in range(of.count)]
        assert plays[0].origin is not None
        joined = [torch.cat([getattr(play, name) for play in plays]) for name in ("frames", "actions", "origin")]
        play = WindowBatch(joined[0], joined[1], plays[0].context, joined[2])
        late = play.actions.clone()
        late[:, play.context - 1 :] = play.actions[:, play.context - 2 : -1]
        last = play.frames[:, play.context - 1].permute(0, 2, 3, 1).numpy()
        played = {
            late_: imagine(world, WindowBatch(play.frames, actions, play.context, play.origin), [(0, 0, i) for i in range(len(play))])
            .permute(0, 1, 3, 4, 2)
            .numpy()
            for late_, actions in ((False, play.actions), (True, late))
        }
        for number, (name, (_, damage)) in enumerate(DAMAGES.items()):
            rng = np.random.default_rng([seed, number, len(kind)])
            frames = damage(played[name == "actions"], last, rng)
            if of.samples:
                frames = np.stack([damage(played[name == "actions"], last, rng) for _ in range(of.samples)], axis=1)
            (place / name).mkdir(exist_ok=True)
            np.save(place / name / f"{kind}.npy", frames)
            shutil.copy(place / "starts" / "manifest.json", place / name)
    return [place / name for name in DAMAGES]


def card_rows(game: str, repetition: int, results: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The rows of NUMBERS of one repetition, from the rows of each damage's score."""
    from diamond_bench.metrics.columns import METRIC_INFO

    found = []
    values = {name: {(row["metric"], row.get("baseline", "")): float(row["value"]) for row in rows} for name, rows in results.items()}
    for metric in dict.fromkeys(row["metric"] for row in results["none"]):
        info = METRIC_INFO.get(metric)
        if info is None or info.cost or info.detail or not (info.headline or info.compared) or not info.better:
            continue
        of_metric = {name: comparable(metric, of.get((metric, ""), math.nan)) for name, of in values.items()}
        unrelated = comparable(metric, values["none"].get((metric, "unrelated-frames"), math.nan))
        changes = [abs(value - of_metric["none"]) for value in (*of_metric.values(), unrelated) if math.isfinite(value)]
        scale = max(changes, default=0.0)
        for name, value in of_metric.items():
            found.append(
                {"game": game, "metric": metric, "damage": name, "repetition": repetition, "value": f"{value:.6g}", "scale": f"{scale:.6g}"}
            )
    return found


def comparable(metric: str, value: float) -> float:
    """The value on a scale that is finite for true frames: decibels become the mean squared error."""
    from diamond_bench.metrics.columns import METRIC_INFO

    return 10 ** (-value / 10) if METRIC_INFO[metric].unit == "dB" else value


# Cards


def responses(rows: Iterable[Mapping[str, str]]) -> dict[tuple[str, str], dict[str, tuple[float, float]]]:
    """By game and metric, the response to each damage and the spread of undamaged repetitions, both as shares of the scale.

    The response is the mean over repetitions of the change against true frames of the same starts. The spread is the standard deviation of
    the value of true frames over repetitions.
    """
    cells: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = {}
    for row in rows:
        of = cells.setdefault((row["game"], row["metric"]), {})
        of.setdefault(row["damage"], []).append((float(row["value"]), float(row["scale"])))
    found = {}
    for key, of in cells.items():
        true = np.array([value for value, _ in of["none"]])
        scale = np.array([scale for _, scale in of["none"]])
        spread = float(true.std(ddof=1) / scale.mean()) if len(true) > 1 and scale.all() else math.nan
        found[key] = {
            name: (float(np.mean((np.array([v for v, _ in values]) - true) / scale)) if scale.all() else math.nan, spread)
            for name, values in of.items()
            if name != "none"
        }
    return found


def sees(response: float, spread: float) -> bool:
    """Whether a response exceeds twice the spread of undamaged repetitions, and LEAST."""
    return abs(response) > max(2 * (0.0 if math.isnan(spread) else spread), LEAST)


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """The cards as a table in Markdown."""
    from diamond_bench.metrics.columns import METRIC_INFO

    names = [name for name in DAMAGES if name != "none"]
    lines = [["Game", "Metric", *names, "blind to", "true frames", "largest change", "spread"], ["---"] * (len(names) + 6)]
    for (game, metric), of in responses(rows).items():
        own = [row for row in rows if (row["game"], row["metric"], row["damage"]) == (game, metric, "none")]
        floor, scale = (np.mean([float(row[name]) for row in own]) for name in ("value", "scale"))
        seen = [name for name in names if sees(*of[name])]
        spread = of[names[0]][1]
        unit = " (as MSE)" if METRIC_INFO[metric].unit == "dB" else ""
        lines.append(
            [
                *(game, f"`{metric}`{unit}"),
                *(f"**{round(100 * of[name][0])}%**" if name in seen else share(of[name][0]) for name in names),
                ", ".join(name for name in names if name not in seen) or "none",
                *(f"{floor:.3g}", f"{scale:.3g}", share(spread)),
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def share(value: float) -> str:
    return f"{round(100 * value)}%" if math.isfinite(value) else "–"


def costs() -> str:
    """The measuring time of each metric as a table in Markdown, from the registry."""
    from diamond_bench.config import EvaluationConfig
    from diamond_bench.metrics import all_metrics

    size = EvaluationConfig(num_trajectories=64, horizon=200, num_sample_starts=64, num_samples=8, sample_horizon=10, num_fid_images=4096)
    lines = ["| Metric | Play that it needs | Time at scale small |", "| --- | --- | --- |"]
    for name, metric in all_metrics().items():
        needed = ", ".join(f"`{kind}`" for kind in metric.play if kind not in metric.spares)
        seconds = metric.seconds(size)
        lines.append(f"| `{name}` | {needed} | {f'{seconds:,.0f} s' if seconds >= 1 else 'below 1 s'} |")
    return "\n".join(lines)


def unmeasured(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """The registered metrics without a number in the cards, with the reason if their kind of play is none that frames can give."""
    from diamond_bench.metrics import all_metrics
    from diamond_bench.metrics.planning import lacking

    measured = {row["metric"] for row in rows}
    found = []
    for name, metric in all_metrics().items():
        if not measured & set(metric.columns):
            absent = lacking(metric, ("rollouts", "one_step", "samples", "altered"))
            found.append(f"`{name}` ({'not measurable from frames alone' if absent else 'not measured here'})")
    return found


def with_registry(page: str) -> str:
    """The page with what follows from the registry of metrics: their cost, and those without a card. The site shows it."""
    words = "The time is that of one evaluation on two CPU cores, as estimates before a run state it: 64 trajectories of 200 frames."
    cost = f"## Cost\n\n{words}\n\n{costs()}"
    rest = f"## Metrics without a card\n\n{', '.join(unmeasured(read_numbers()))}."
    return page.replace(END, f"{END}\n\n{cost}\n\n{rest}")


def read_numbers() -> list[dict[str, str]]:
    with NUMBERS.open(newline="") as file:
        return list(csv.DictReader(file))


def write_numbers(rows: Sequence[Mapping[str, Any]]) -> None:
    with NUMBERS.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def draw(rows: Sequence[Mapping[str, str]]) -> None:
    """A heat map per game: metrics against damages."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    every = responses(rows)
    games = list(dict.fromkeys(game for game, _ in every))
    names = [name for name in DAMAGES if name != "none"]
    figure, axes = plt.subplots(1, len(games), figsize=(5.2 * len(games), 5.4), squeeze=False, layout="constrained")
    most = max(sum(of_game == game for of_game, _ in every) for game in games)
    for axis, game in zip(axes[0], games, strict=True):
        metrics = [metric for of_game, metric in every if of_game == game]
        grid = np.array([[every[game, metric][name][0] for name in names] for metric in metrics])
        image = axis.imshow(100 * np.abs(grid), cmap="Blues", vmin=0, vmax=100, aspect="auto")
        for i, metric in enumerate(metrics):
            for j, name in enumerate(names):
                response, spread = every[game, metric][name]
                words = "–" if math.isnan(response) else f"{100 * response:.0f}" if sees(response, spread) else "blind"
                axis.text(j, i, words, ha="center", va="center", fontsize=8, color="white" if abs(response) > 0.6 else "black")
        axis.set_xticks(range(len(names)), names)
        axis.xaxis.tick_top()
        axis.set_yticks(range(len(metrics)), metrics)
        axis.set_ylim(most - 0.5, -0.5)  # rows of equal height in all panels
        axis.spines[:].set_visible(False)
        axis.set_title(game)
    figure.colorbar(image, ax=axes[0], label="response, % of the metric's largest change", shrink=0.8)
    figure.savefig(PICTURE, dpi=120, metadata={"Software": None})


def render(page: str, rows: Sequence[Mapping[str, str]]) -> str:
    """The page with the table between its two marks."""
    before, rest = page.split(BEGIN)
    sets: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        sets.setdefault((row["game"], row["metric"]), set()).add(row["repetition"])
    usual = max(map(len, sets.values()))
    fewer = "".join(f", {len(of)} for `{metric}` in {game}" for (game, metric), of in sets.items() if len(of) < usual)
    words = f"Repetitions, each with other starts: {usual}{fewer}."
    return f"{before}{BEGIN}\n\n{words}\n\n{table(rows)}\n\n{END}{rest.split(END)[1]}"


def main() -> None:
    """Measures the games given as arguments, and writes their numbers, the figure and the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("games", nargs="*", choices=[*GAMES, []], help="games to measure again; none only draws")
    parser.add_argument("--repetitions", type=int, default=3, help="sets of starts")
    parser.add_argument("--metrics", default="", help="such as [drift,lpips]; by default all that can be measured")
    parser.add_argument("--work", type=Path, default=Path("metric_cards"), help="folder of the store and of the damaged frames")
    asked = parser.parse_args()
    for game in asked.games:
        work = asked.work.absolute()
        new = [row for repetition in range(asked.repetitions) for row in measure(game, repetition, asked.metrics, work)]
        again = {(row["game"], row["metric"]) for row in new}
        kept = [row for row in read_numbers() if (row["game"], row["metric"]) not in again]
        write_numbers(sorted([*kept, *new], key=lambda row: list(GAMES).index(row["game"])))
    texts = read_numbers()
    draw(texts)
    PAGE.write_text(render(PAGE.read_text(), texts))


if __name__ == "__main__":
    main()
