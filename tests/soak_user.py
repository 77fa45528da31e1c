"""Hostile input that a user types or writes: arguments, environment variables, studies, cluster profiles, score files."""

import json
import random
from pathlib import Path
from typing import Any

import yaml
from soak_classes import AGENT_STUDY, STUDY, SWEEP, Template
from soak_inputs import NUMBERS, TEXTS, YAML_BOMBS, damage_bytes, mutate, other_kind
from soak_run import Case

from diamond_bench.compose import known_keys
from diamond_bench.studies.spec import study_files

# Arguments


FRAGMENTS = [
    "1,2,3", "[1,2", "range(1,1000000000)", "range(0,10,0)", "glob(*)", "choice(a,b)", "interval(0,1)", "shuffle(1,2)", "sort(3,1)",
    "tag(x,1)",
    "int(1.5)", "float('a')", "str([1])", "bool(2)", "{a:1}", "[[1]]", "'x", "a b", "a=b", "??", "null", "1,null", "[null]", "nan", "-inf",
    "10000", "[1,1]", "1e5", "0.1,0.2", "[Breakout,Breakout]", "Breakout,Pong", "[0.5,1.5]", "9" * 99, "[]", "()", "1,", ",", "\\", "é",
    "0,0",
]  # fmt: skip
STUDY_TOKENS = ["games", "seeds", "metrics", "scale", "objective", "sampler", "output_dir", "cluster", "conditioning", "seed", "game"]


def token(dice: random.Random) -> str:
    key = dice.choice([dice.choice(known_keys()), dice.choice(STUDY_TOKENS), dice.choice(known_keys()), dice.choice(TEXTS)])
    return f"{key}={word(dice)}" if dice.random() < 0.95 else word(dice)


def word(dice: random.Random) -> str:
    found = dice.choice([dice.choice(FRAGMENTS), dice.choice(TEXTS), str(dice.choice(NUMBERS))])
    return found.replace("\0", "").encode(errors="replace").decode()  # no process can get these as arguments


def arguments(case: Case, template: Template) -> None:
    dice, jobs = case.dice, template.all_jobs
    study = dice.choice([STUDY, STUDY, AGENT_STUDY, "atari_100k", "stochastic_world", word(dice)])
    job = dice.choice([word(dice), dice.choice(jobs), dice.choice(jobs)[:-3], "outside", "outside/file.txt"])
    tokens = ["scale=tiny"] * (dice.random() < 0.6) + [token(dice) for _ in range(dice.choice([0, 1, 1, 2]))]
    command = dice.choice(
        [
            ["sweep", study, *tokens, "--dry-run"], ["sweep", study, *tokens, "--dry-run", "--json"], ["train", *tokens, "--dry-run"],
            ["sweep", study, *tokens, "--dry-run"], ["register", study, *tokens], ["status", study, *tokens], ["results", study, *tokens],
            ["results", study, "--csv", word(dice)], ["power", study, *tokens], ["report", word(dice), *tokens], ["train", *tokens],
            ["evaluate", job, *tokens, "--dry-run"], ["evaluate", job, "--episodes", word(dice), "--dry-run"], ["import", job, *tokens],
            ["export", job, "outside/file.txt"], ["export", job, word(dice)], ["show", job, *tokens], ["diff", job, word(dice)],
            ["du", *tokens], ["gc", "--dry-run", *tokens], ["merge", job, "output_dir=target"],
            ["merge", "outputs", f"output_dir={word(dice)}", "--help"],
            ["paper", word(dice)], ["paper", "table5", "--results", word(dice)], ["paper", "table1", "--method", word(dice)],
            ["paper", "table5", "--scores", job], ["cancel", study, "--variant", word(dice)], ["logs", job], ["retry", study, *tokens],
            ["weights", "fetch", f"no {word(dice)}"], ["profile", "--parts", word(dice), *tokens], ["profile", "--packed", word(dice)],
            ["register", STUDY, "scale=tiny", "--export", job], [word(dice)], ["--" + word(dice)],
        ]
    )  # fmt: skip
    case.what, case.commands = repr(command), [command]


def environment(case: Case, template: Template) -> None:
    dice = case.dice
    name = dice.choice(["DIAMOND_BENCH_OUTPUTS", "MINARI_DATASETS_PATH", "DIAMOND_BENCH_WEIGHTS", "XDG_CONFIG_HOME", "COLUMNS", "HOME",
    "TERM",
                        "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "XDG_CACHE_HOME", "TMPDIR", "LANG"])  # fmt: skip
    content = word(dice).encode(errors="replace").decode()
    if name == "DIAMOND_BENCH_WEIGHTS" and dice.random() < 0.7:
        weights = case.folder / "weights"
        weights.mkdir()
        for file in Path(template.environment["DIAMOND_BENCH_WEIGHTS"]).glob("*.safetensors"):
            data, _ = damage_bytes(file.read_bytes(), dice)
            (weights / file.name).write_bytes(data)
            if dice.random() < 0.3:
                other_kind(weights / file.name, case.folder / "outside", dice)
        content = str(weights)
    case.environment[name] = content
    case.what = f"{name}={content!r}"
    case.commands = dice.sample([["status"], [*SWEEP, "--dry-run"], ["weights", "list"], ["results", STUDY], ["studies"], SWEEP,
                                 ["sweep", STUDY, "scale=tiny", f"cluster={word(dice)}", "--dry-run"]], 2)  # fmt: skip


# Files that a user writes


def yaml_text(content: Any, dice: random.Random) -> bytes:
    try:
        text = yaml.safe_dump(content) if dice.random() < 0.6 else json.dumps(content)
    except (yaml.YAMLError, RecursionError, ValueError):
        text = json.dumps(content)
    return text.encode(errors="surrogatepass")


def yaml_input(content: Any, dice: random.Random) -> tuple[bytes, str]:
    draw = dice.random()
    if draw < 0.6:
        for _ in range(dice.choice([1, 1, 2])):
            content, how = mutate(content, dice)
        return yaml_text(content, dice), how
    if draw < 0.8:
        return damage_bytes(yaml_text(content, dice), dice)
    bomb = dice.choice(YAML_BOMBS)
    return bomb.encode(), f"YAML {bomb[:60]!r}"


def study_file(case: Case, template: Template) -> None:
    dice = case.dice
    content = yaml.safe_load(
        study_files()[dice.choice([STUDY, "diffusion_objective", "stochastic_world", "sampling_steps_agent"])].read_text()
    )
    data, case.what = yaml_input(content, dice)
    name = "mine.yaml" if dice.random() < 0.85 else dice.choice(TEXTS).replace("\0", "").replace("/", "")[:200] + ".yaml"
    file = case.folder / name.encode(errors="replace").decode()
    file.write_bytes(data)
    if dice.random() < 0.06:
        case.what = other_kind(file, case.folder / "outside", dice)
    case.what = f"{file.name!r}: {case.what}"
    case.commands = [["sweep", str(file), f"scale={dice.choice(['tiny', 'smoke', 'paper'])}", "--dry-run"]]
    if dice.random() < 0.2:
        case.commands.append(
            dice.choice([["results", str(file)], ["sweep", str(file), "scale=tiny"], ["register", str(file), "scale=tiny"]])
        )


PROFILE = {
    "partition": "gpu", "account": "lab", "qos": None, "gpus": 1, "gres": None, "cpus": 4, "memory": "16G", "time": "4:00:00",
    "largest": 0, "packed": 1,
    "parallelism": 2, "mps": False, "signal_seconds": 120, "retries": 1, "retry_seconds": 30, "setup": ["module load cuda"],
    "extra": {"x": "1"},
    "scratch": "/tmp", "collect_dataset": {"gpus": 0}, "train_world_model": {"time": "1:00"},
}  # fmt: skip


def cluster_profile(case: Case, template: Template) -> None:
    dice = case.dice
    data, case.what = yaml_input(PROFILE, dice)
    file = case.folder / "mine.yaml"
    file.write_bytes(data)
    if dice.random() < 0.1:
        case.what = other_kind(file, case.folder / "outside", dice)
    case.commands = [["sweep", STUDY, "scale=smoke", f"cluster={file}", "--dry-run", *(["--json"] * (dice.random() < 0.2))]]


def score_file(case: Case, template: Template) -> None:
    dice = case.dice
    lines = [
        "method,game,seed,score,source",
        *(f"Ours,{game},{seed},{10.5 + seed},here" for game in ("Breakout", "Pong") for seed in range(3)),
    ]
    fields = [line.split(",") for line in lines]
    for _ in range(dice.choice([1, 2])):
        row = dice.choice(fields)
        row[dice.randrange(len(row))] = str(dice.choice([dice.choice(TEXTS), dice.choice(NUMBERS), "1,2", '"a', "Ours\n"]))
        if dice.random() < 0.2:
            dice.choice(fields).append("more")
        if dice.random() < 0.1:
            dice.choice(fields).pop()
    data = "\n".join(map(",".join, fields)).encode(errors="surrogatepass")
    case.what = repr(data[:200])
    if dice.random() < 0.3:
        data, case.what = damage_bytes(data, dice)
    file = case.folder / "scores.csv"
    file.write_bytes(data)
    if dice.random() < 0.08:
        case.what = other_kind(file, case.folder / "outside", dice)
    case.commands = [["paper", "table5", "--scores", str(file), "--out", "written"]]
