"""The classes of hostile input: each fills a case with one input, the commands that meet it, and the lies to look for."""

import hashlib
import json
import os
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from soak_inputs import (
    LONG,
    TEXTS,
    YAML_BOMBS,
    damage_bytes,
    dump,
    edit_number,
    job_of,
    mutate,
    other_kind,
    rewrite,
    store_files,
    value,
)
from soak_run import Case, Outcome, replace_file, run_command

from diamond_bench.store.files import sealed
from diamond_bench.store.states import CHECKSUM
from diamond_bench.studies.registration_files import sealed as sealed_registration

STUDY, AGENT_STUDY = "sampling_steps", "train-Breakout-seed0"
SWEEP = ["sweep", STUDY, "scale=tiny"]


@dataclass
class Template:
    """A sound store, and what commands say of it."""

    root: Path
    jobs: dict[str, list[str]] = field(default_factory=dict)
    """By kind: kind/id."""
    rows: dict[str, set[str]] = field(default_factory=dict)
    """By study: the rows of `results --json`, each as text."""
    shown: dict[str, str] = field(default_factory=dict)
    """By job: what `show` prints."""
    standing: str = ""
    """What `results` says of the registration."""
    files: list[str] = field(default_factory=list)
    bytes_of: dict[str, bytes] = field(default_factory=dict)
    """By job: result.json."""
    environment: dict[str, str] = field(default_factory=dict)

    def learn(self, folder: Path) -> None:
        """Asks the commands about the sound store."""
        self.files = store_files(self.root)
        for result in sorted(self.root.glob("*/*/result.json")):
            ref = result.parent.relative_to(self.root).as_posix()
            self.jobs.setdefault(result.parent.parent.name, []).append(ref)
            self.bytes_of[ref] = result.read_bytes()
            self.shown[ref] = run_command(["show", ref], folder, self.environment).out
            self.shown[ref] = lasting(self.shown[ref], folder)
        for study in (STUDY, AGENT_STUDY):
            self.rows[study] = rows(run_command(["results", study, "--json"], folder, self.environment).out)
            assert self.rows[study], study
        self.standing = registered(run_command(["results", STUDY], folder, self.environment))
        assert self.standing

    @property
    def all_jobs(self) -> list[str]:
        return [job for jobs in self.jobs.values() for job in jobs]


def lasting(shown: str, folder: Path) -> str:
    """What `show` prints, without the state, which no checksum covers, and the folder."""
    return re.sub(r"^state:\n(  .*\n)+", "", shown.replace(str(folder), ""), flags=re.MULTILINE)


def rows(printed: str) -> set[str]:
    return {json.dumps(row, sort_keys=True) for row in json.loads(printed)}


def registered(outcome: Outcome) -> str:
    return next((line for line in (outcome.out + outcome.err).splitlines() if line.startswith("Registered")), "")


# Lies: what a command says although somebody changed it and no checksum fits


def no_lies(template: Template) -> Callable[[Case, list[str], Outcome], str]:
    """A check: numbers, jobs and registrations that are shown are those that were written, or the command says that something is wrong."""

    def check(case: Case, command: list[str], outcome: Outcome) -> str:
        if command[0] == "merge":
            found = list((case.folder / "target").glob("*/*/result.json"))
            wrong = [path for path in found if path.read_bytes() != template.bytes_of.get("/".join(path.parts[-3:-1]))]
            return f"merged: {wrong}" if wrong else ""
        if outcome.code or outcome.admits:
            return ""
        if command[0] == "results" and "--json" in command:
            more = rows(outcome.out) - template.rows[command[1]]
            return f"{len(more)} rows that nobody computed: {sorted(more)[:2]}" if more else ""
        if command[:2] == ["results", STUDY] and registered(outcome) not in ("", template.standing):
            return f"registration: {registered(outcome)}"
        if command[0] == "show" and "\nchecksum: " in outcome.out:
            before, shown = template.shown[command[1]], lasting(outcome.out, case.folder)
            lines = sorted(set(shown.splitlines()) ^ set(before.splitlines()))
            return f"shown: {lines[:6]}" if shown != before else ""
        if command[0] == "gc" and "in no study's plan" in outcome.out:
            return "gc would remove a planned job"
        if command[0] in ("report", "export"):
            return f"{command[0]} uses a file that was changed"
        return ""

    return check


def reading(dice: random.Random, job: str, number: int) -> list[list[str]]:
    """Some commands that read a store; those on `job` included."""
    pool = [
        ["status"], ["status", STUDY], ["status", "--json"], ["results", STUDY], ["results", STUDY, "--json"],
        ["results", AGENT_STUDY, "--json"],
        ["results", STUDY, "--csv", "table.csv"], ["show", job], ["show", job], ["diff", job, job], ["logs", job], ["du"], ["du", "--json"],
        ["gc", "--dry-run"], ["gc", "--dry-run", "--unplanned"], ["gc"], ["power", STUDY], ["merge", "outputs", "output_dir=target"],
        ["cancel", STUDY], ["retry", STUDY], [*SWEEP, "--dry-run"], SWEEP, ["export", job, "exported.pt"],
        ["evaluate", job, "--dry-run", "scale=tiny"],
        ["register", STUDY, "scale=tiny"], ["paper", "table5", "--results", f"{STUDY}:tiny"],
        ["sweep", STUDY, "scale=tiny", "games=[Breakout]", f"data.policy={job}", "--dry-run"],
    ]  # fmt: skip
    return dice.sample(pool, number)


# The store


def sealed_again(name: str, content: Any) -> bytes:
    """A JSON file of the store with a checksum that fits, as a forger would write it."""
    if name.endswith(("result.json", "plan.json")) and isinstance(content, dict):
        return dump(sealed(content))
    if "registration" in name and isinstance(content, dict) and isinstance(content.get("content"), dict):
        return sealed_registration(content["content"])
    return dump(content)


def store_json(case: Case, template: Template) -> None:
    """A JSON file of the store with wrong values; half of those with a checksum get one that fits."""
    dice = case.dice
    name = choose(template, dice, ".json", "claim-000001")
    content, case.what = mutate(json.loads((case.store / name).read_text() or "{}"), dice)
    forged = dice.random() < 0.5
    try:
        data = sealed_again(name, content) if forged else dump(content)
    except ValueError:
        data, forged = dump(content), False
    finish(case, template, name, data, 3)
    if not forged and sealed_by_us(name):
        case.checks.append(no_lies(template))


def choose(template: Template, dice: random.Random, *ends: str) -> str:
    """A file of the store; each kind of file is as likely as the others."""
    found: dict[str, list[str]] = {}
    for name in template.files:
        if name.endswith(ends):
            parts = name.split("/")
            found.setdefault(parts[0] + "/" + ("*" if parts[1] != "batch" else "") + "/".join(parts[2:]), []).append(name)
    return dice.choice(found[dice.choice(sorted(found))])


def finish(case: Case, template: Template, name: str, data: bytes | None, commands: int) -> None:
    """Puts data into the store, and adds commands that meet them."""
    if data is not None:
        replace_file(case.store / name, data)
    job = job_of(name)
    case.touched.add(job)
    case.what = f"{name}: {case.what}"
    named = job if job in template.shown else case.dice.choice(template.all_jobs)
    case.commands = reading(case.dice, named, commands)


def sealed_by_us(name: str) -> bool:
    """Whether a checksum, or a name that is one, covers a file."""
    return name.endswith(("result.json", "config.yaml", "plan.json")) or "registration" in name or "/jobs/" in name


def store_bytes(case: Case, template: Template) -> None:
    """Any file of the store truncated, flipped or replaced by other bytes."""
    dice = case.dice
    name = choose(template, dice, "")
    data, case.what = damage_bytes((case.store / name).read_bytes(), dice)
    if name.endswith("config.yaml") and dice.random() < 0.5:  # a forger's: the YAML itself must be bounded too
        body = dice.choice(YAML_BOMBS).encode()
        data = CHECKSUM + hashlib.sha256(body).hexdigest().encode() + b"\n" + body
    same = data == (case.store / name).read_bytes()
    finish(case, template, name, data, 3)
    if sealed_by_us(name) and not same:
        case.checks.append(no_lies(template))


def store_kind(case: Case, template: Template) -> None:
    """A link, FIFO, folder, socket or giant in place of any file or folder of the store."""
    dice = case.dice
    name = choose(template, dice, "")
    for _ in range(dice.choice([0, 0, 0, 1, 2, 3])):
        if "/" in name:
            name = name.rpartition("/")[0]
    case.what = other_kind(case.store / name, case.folder / "outside", dice)
    if "/" not in name:
        case.touched.update(job for job in template.all_jobs if job.startswith(f"{name}/"))
    finish(case, template, name, None, 3)
    if name.count("/") and "studies" not in name:
        case.checks.append(no_lies(template))


def odd_name(case: Case, template: Template) -> None:
    """Files and folders in the store whose names nobody expects."""
    dice = case.dice
    name = dice.choice(TEXTS).replace("\0", "").replace("/", "")[:200].encode(errors="replace").decode() or "x"
    name = dice.choice([name, "0" * 16, "f" * 16 + ".damaged-1", "claim-000009", "claim-999999999999", f".{name}.tmp", "plan.json",
    name + ".json",
                        "registration-3.json", "change-abc.json", "task-1.json"])  # fmt: skip
    parent = dice.choice(["", "studies", f"studies/{STUDY}", f"studies/{STUDY}/tiny", f"studies/{STUDY}/tiny/jobs", "slurm",
    "slurm/batch", "compiled",
                          "evaluate_world_model", dice.choice(template.all_jobs)])  # fmt: skip
    built = case.store / parent / name
    built.parent.mkdir(parents=True, exist_ok=True)
    if not os.path.lexists(built) and not built.is_dir():
        if dice.random() < 0.4:
            (built / "tiny").mkdir(parents=True)
            (built / "tiny" / "plan.json").write_bytes(dump(value(dice)))
        elif dice.random() < 0.5:
            built.write_bytes(dump(value(dice)))
        else:
            other_kind(built, case.folder / "outside", dice)
    case.what = f"new {parent}/{name!r}"
    if parent in template.shown:
        case.touched.add(parent)
    case.commands = reading(dice, dice.choice(template.all_jobs), 3)


def edited(case: Case, template: Template) -> None:
    """One number or text of a result, config, plan, registration or record of jobs is another: a lie, since no checksum is recomputed."""
    dice = case.dice
    names = [name for name in template.files if sealed_by_us(name)]
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(name.split("/")[0] + name.split("/")[-1][:6] + str("/jobs/" in name), []).append(name)
    name = dice.choice(kinds[dice.choice(sorted(kinds))])
    file = case.store / name
    if name.endswith("config.yaml"):
        lines = file.read_text().splitlines(keepends=True)
        at = dice.choice([i for i, line in enumerate(lines) if any(c.isdigit() for c in line)])
        digit = dice.choice([i for i, c in enumerate(lines[at]) if c.isdigit()])
        before = lines[at]
        lines[at] = before[:digit] + str((int(before[digit]) + 1) % 10) + before[digit + 1 :]
        data, case.what = "".join(lines).encode(), f"{before.strip()[:80]} -> {lines[at].strip()[:80]}"
    else:
        found = edit_number(json.loads(file.read_text()), dice)
        assert found is not None, name
        data, case.what = dump(found[0]), found[1]
    state = file.lstat()
    finish(case, template, name, data, 2)
    if dice.random() < 0.3:  # with its time set back, as a careful hand would
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    job = job_of(name) if job_of(name) in template.shown else dice.choice(template.all_jobs)
    for command in (
        ["results", STUDY, "--json"],
        ["results", AGENT_STUDY, "--json"],
        ["show", job],
        ["merge", "outputs", "output_dir=target"],
    ):
        if command not in case.commands:
            case.commands.append(command)
    if "studies" in name:
        case.commands += [["results", STUDY], ["gc", "--dry-run", "--unplanned"]]
    case.checks.append(no_lies(template))


def swapped(case: Case, template: Template) -> None:
    """Files of one job in the folder of another of the same kind: each is sound, in the wrong place."""
    dice = case.dice
    jobs = template.jobs["evaluate_world_model"]
    one, other = dice.sample(jobs, 2)
    name = dice.choice(["result.json", "arrays.npz", "config.yaml", "media/frames.npz"])
    replace_file(case.store / one / name, (case.store / other / name).read_bytes())
    if name == "result.json" and dice.random() < 0.5:
        state = (template.root / one / name).lstat()
        os.utime(case.store / one / name, ns=(state.st_atime_ns, state.st_mtime_ns))
    case.touched = {one}
    case.what = f"{name} of {other} in {one}"
    case.commands = [["results", STUDY, "--json"], ["show", one], ["merge", "outputs", "output_dir=target"]]
    case.checks.append(no_lies(template))


def changed_arrays(case: Case, template: Template) -> None:
    """Arrays and weights of a done job with other numbers, in files of the right form. A report or an export must not use them."""
    dice = case.dice
    if case.number % 2:
        job = template.jobs["train_agent"][0]
        file = dice.choice(sorted((case.store / job).rglob("*.safetensors")))
        data = bytearray(file.read_bytes())
        data[-dice.randrange(1, 5000)] ^= 1 << dice.randrange(8)
        replace_file(file, bytes(data))
        case.commands = [["export", job, "exported.pt"]]
    else:
        job = dice.choice(template.jobs["evaluate_world_model"])
        file = case.store / job / dice.choice(["arrays.npz", "media/frames.npz"])
        with np.load(file) as arrays:
            content = {name: arrays[name].copy() for name in arrays.files}
        name = "drift" if "drift" in content else "imagined"
        content[name] = (content[name] * 0.5).astype(content[name].dtype)
        file.unlink()
        np.savez(file, **content)
        shutil.rmtree(case.store / "studies" / STUDY / "tiny" / "report")
        case.commands = [["report", STUDY]]
    case.touched = {job}
    case.what = f"{file.relative_to(case.store)} with other numbers"
    case.checks.append(no_lies(template))


def batches(case: Case, template: Template) -> None:
    """Records of what SLURM was given, and claims, with wrong values."""
    dice = case.dice
    name = dice.choice([name for name in template.files if name.startswith("slurm/") or "/claim-" in name])
    if name.startswith("slurm/"):
        rewrite(case.store / name, lambda content: mutate(content, dice)[0])
    else:
        replace_file(case.store / name, dump(value(dice)))
        if dice.random() < 0.5:
            later = 1e9 * dice.choice([2e9, 4e9, 0])
            os.utime(case.store / name, ns=(int(later), int(later)))
    case.what = f"{name} {(case.store / name).read_bytes()[:100]!r}"
    case.touched = {job_of(name)}
    job = job_of(name) if job_of(name) in template.shown else dice.choice(template.all_jobs)
    case.commands = dice.sample([["status"], ["gc", "--dry-run"], ["gc"], ["cancel", STUDY], ["retry", STUDY], ["logs", job], SWEEP,
    ["show", job],
                                 ["status", "--json"]], 3)  # fmt: skip


def logs(case: Case, template: Template) -> None:
    """What a job printed, and the errors of failed jobs, with escape sequences and broken text."""
    dice = case.dice
    job = dice.choice(template.all_jobs)
    data, case.what = damage_bytes((case.store / job / "log.txt").read_bytes(), dice)
    hidden = "".join(dice.sample([text for text in TEXTS if text != LONG], 8)).encode(errors="surrogatepass")
    replace_file(case.store / job / "log.txt", data + hidden)
    case.touched = {job}
    case.commands = [["logs", job]]
    if dice.random() < 0.5:
        (case.store / job / "result.json").unlink()
        rewrite(
            case.store / job / "state.json",
            lambda state: {**state, "status": "failed", "error": dice.choice(TEXTS), "host": dice.choice(TEXTS)},
        )
        case.commands += dice.sample([["status"], ["show", job], ["status", "--json"], ["results", STUDY], SWEEP], 2)
