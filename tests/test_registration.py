"""Registration: what a study states is written down before its evaluations finish, and every later change shows on its page."""

import csv
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from test_html_report import Page
from test_report import finish

from diamond_bench.cli.common import app, planned
from diamond_bench.errors import UserError
from diamond_bench.report import write_report
from diamond_bench.store.artifacts import Store
from diamond_bench.store.files import DamagedFile, read_json, write_exclusive
from diamond_bench.store.jobspec import JobRef
from diamond_bench.studies.housekeeping import merge
from diamond_bench.studies.plan import Plan, SavedPlan, as_saved, plan_study, save_plan
from diamond_bench.studies.registration import RegistrationStatus, register, registration_status, registrations
from diamond_bench.studies.registration_files import export_file

pytestmark = pytest.mark.usefixtures("unrendered")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
STATED = "metric: drift, baseline: {n: 1}, margin: 0.005"


class Lab:
    """A store and a study of n = 1 and 2 whose file may change between sweeps; jobs are written, not run."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "mine.yaml"
        self.store = Store(folder / "outputs", say=lambda text: None)

    def plan(self, primary: str = STATED, *tokens: str) -> Plan:
        axes = "axes: {n: {key: sampler.num_steps, values: [1, 2]}}"
        self.file.write_text(f"question: x\nprotocol: world_model\ngames: [Pong]\nseeds: 3\nprimary: {{{primary}}}\n{axes}\n")
        return plan_study(str(self.file), ["scale=tiny", "data=random", *tokens])

    def finished(self, ref: JobRef) -> bool:
        return self.store.state(ref).status == "done"

    def begin(self, primary: str = STATED, *tokens: str) -> tuple[Plan, SavedPlan]:
        """What a sweep does before its first job."""
        plan = self.plan(primary, *tokens)
        begin, saved = planned(plan, self.store)
        begin()
        return plan, saved

    def sweep(self, primary: str = STATED, *tokens: str, leave_out: int = 0) -> SavedPlan:
        """A whole sweep, or one that stops before its last evaluations."""
        plan, saved = self.begin(primary, *tokens)
        left = [point.jobs["evaluation"] for point in plan.points][len(plan.points) - leave_out :]
        for ref, spec in plan.jobs.items():
            if ref not in left and not self.finished(ref):
                finish(self.store, spec)
        return saved

    def standing(self, saved: SavedPlan) -> RegistrationStatus:
        return registration_status(saved, {ref for ref in saved.jobs if self.finished(ref)})


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_the_first_sweep_registers_before_its_first_job(lab: Lab) -> None:
    _, saved = lab.begin()
    (found,) = registrations(saved.folder)
    assert found.file == lab.store.root / "studies" / "mine" / "tiny" / "registration.json"
    assert found.content["primary"] == {
        "metric": "drift", "baseline": {"n": 1}, "margin": 0.005, "variants": [],
        "test": "permutation", "looks": [], "holm_equivalence": False,
    }  # fmt: skip
    assert (found.content["seeds"], found.content["games"], found.content["variants"]) == ([0, 1, 2], ["Pong"], ["n=1", "n=2"])
    assert len(found.evaluations) == 6
    assert found.content["finished"] == []
    assert not lab.standing(saved).confirmatory
    stands = lab.standing(lab.sweep())
    assert (stands.kind, stands.confirmatory, stands.alpha) == ("registered", True, 0.05)
    assert re.match(r"Registered on \d{4}-\d\d-\d\d \d\d:\d\d UTC \(SHA-256 [0-9a-f]{12}\.\.\.\), before any of its 6", stands.sentence)
    assert len(registrations(saved.folder)) == 1


def test_what_is_unfinished_is_incomplete_and_no_change(lab: Lab) -> None:
    for saved, done in ((lab.sweep(leave_out=2), 4), (as_saved(lab.plan(STATED, "seeds=2"), lab.store.root), 3)):
        stands = lab.standing(saved)
        assert (stands.kind, stands.confirmatory, stands.changes) == ("registered", False, ())
        assert f"Incomplete: these results hold {done} of them" in stands.sentence


@pytest.mark.parametrize(
    ("primary", "tokens", "change"),
    [
        ("metric: drift, baseline: {n: 1}, margin: 10%", (), "margin 0.005 -> 10%"),
        ("metric: psnr, baseline: {n: 1}, margin: 0.005", (), "metric drift -> psnr"),
        ("metric: drift, baseline: {n: 2}, margin: 0.005", (), "baseline n=1 -> n=2"),
        (f"{STATED}, test: t", (), "test permutation -> t"),
        (f"{STATED}, looks: [3, 5]", (), "looks none -> [3, 5]"),
        (f"{STATED}, variants: {{n: 2}}", (), "variants that answer the question none -> [n=[2]]"),
        (f"{STATED}, holm_equivalence: true", (), "holm_equivalence False -> True"),
        (STATED, ("games=[Pong,Breakout]",), "games added: Breakout"),
        (STATED, ("sampler.num_steps=1,3",), "variants added: n=3; variants removed: n=2"),
        (STATED, ("seeds=[0,1,7]",), "seeds [0, 1, 2] -> [0, 1, 7]"),
        (STATED, ("training.weight_decay=0.5",), "settings or code revision of 6 evaluations"),
    ],
)
def test_a_change_after_a_look_is_named_and_one_before_it_is_an_amendment(
    primary: str, tokens: tuple[str, ...], change: str, lab: Lab
) -> None:
    lab.begin()
    _, saved = lab.begin(primary, *tokens)
    first, second = registrations(saved.folder)
    assert second.content["amends"] == first.sha256
    assert second.file.name == "registration-2.json"
    assert lab.standing(lab.sweep(primary, *tokens)).confirmatory
    shutil.rmtree(lab.store.root)

    lab.sweep(leave_out=2)
    _, saved = lab.begin(primary, *tokens)
    assert len(registrations(saved.folder)) == 1
    stands = lab.standing(saved)
    assert (stands.kind, stands.confirmatory) == ("changed", False)
    assert stands.sentence.startswith(f"Changed after 4 finished evaluations: {change}. All results are exploratory.")
    assert lab.standing(lab.sweep(primary, *tokens)).sentence == stands.sentence  # as many as had finished when it was changed
    assert lab.standing(lab.sweep()).kind == "registered"  # the registered analysis is still the registered one


def test_a_change_of_the_variants_after_a_look_at_the_old_ones_is_no_amendment(lab: Lab) -> None:
    lab.sweep()
    _, saved = lab.begin(STATED, "sampler.num_steps=1,3", "training.weight_decay=0.5")  # none of its own evaluations has finished
    assert lab.standing(saved).sentence.startswith("Changed after 6 finished evaluations: variants added: n=3")
    shutil.rmtree(lab.store.root / "evaluate_world_model")
    for file in saved.folder.glob("registration*.json"):
        file.unlink()
    assert "nothing states" in lab.standing(saved).sentence


def test_seeds_added_later_are_exploratory(lab: Lab) -> None:
    lab.sweep()
    stands = lab.standing(lab.sweep(STATED, "seeds=5"))
    assert (stands.kind, stands.confirmatory) == ("seeds added", False)
    assert "Seeds added after 6 finished evaluations: 3 -> 5 seeds, and no looks were registered." in stands.sentence


def test_registered_looks_are_confirmatory_at_their_level(lab: Lab) -> None:
    primary = f"{STATED}, looks: [3, 5, 10]"
    first = lab.standing(lab.sweep(primary))
    assert (first.kind, first.confirmatory, first.alpha) == ("planned look", True, pytest.approx(0.015))
    second = lab.standing(lab.sweep(primary, "seeds=5"))
    assert (second.kind, second.confirmatory, second.alpha) == ("planned look", True, pytest.approx(0.01))
    assert "These results are planned look 2 of 3, at 5 seeds, tested at a level of 1%." in second.sentence
    between = lab.standing(lab.sweep(primary, "seeds=6"))
    assert (between.kind, between.confirmatory) == ("seeds added", False)
    assert "5 -> 6" not in between.sentence
    assert "3 -> 6 seeds, which is no registered look" in between.sentence


def test_the_seeds_of_a_look_cannot_be_chosen(lab: Lab) -> None:
    primary = f"{STATED}, looks: [3, 5]"
    lab.sweep(primary)
    assert lab.standing(lab.sweep(primary, "seeds=[0,1,2,7,9]")).kind == "seeds added"
    assert not lab.standing(lab.sweep(primary, "seeds=5", leave_out=1)).confirmatory


def test_evaluations_of_an_earlier_sweep_make_a_registration_late(lab: Lab) -> None:
    saved = lab.sweep(leave_out=2)
    saved.folder.joinpath("registration.json").unlink()  # a store from before registrations, or somebody's second thought
    late = lab.standing(lab.sweep("metric: psnr, baseline: {n: 1}, margin: 0.005"))
    assert (late.kind, late.confirmatory) == ("late", False)
    assert "4 evaluations of the study had already finished" in late.sentence


def test_old_and_merged_stores(lab: Lab, tmp_path: Path) -> None:
    partly = Store(tmp_path / "partly", say=lambda text: None)
    finish(partly, next(spec for spec in lab.plan().jobs.values() if spec.kind == "evaluate_world_model"))
    saved = lab.sweep()
    merged = Store(tmp_path / "merged", say=lambda text: None)
    (merged.root / "studies").mkdir(parents=True)
    assert len(merge(merged, lab.store.root).plans) == 1
    there = as_saved(lab.plan(), merged.root)
    assert registration_status(there, {ref for ref in there.jobs if merged.state(ref).status == "done"}).kind == "registered"
    merge(partly, lab.store.root)  # where an evaluation had finished before the registration was written
    stands = registration_status(as_saved(lab.plan(), partly.root), set(saved.jobs))
    assert (stands.kind, stands.confirmatory) == ("late", False)
    assert "1 evaluation of the study had already finished" in stands.sentence
    saved.folder.joinpath("registration.json").unlink()
    old = {key: value for key, value in saved.primary.items() if key not in ("test", "looks", "holm_equivalence")}
    plan = SavedPlan(**{**vars(saved), "primary": old})
    stands = lab.standing(plan)
    assert (stands.kind, stands.confirmatory) == ("not registered", False)
    register(plan, lambda ref: False)
    assert lab.standing(saved).changes == ()  # keys left out have the values that hold without them


@pytest.mark.parametrize("damage", [lambda text: text.replace("0.005", "0.05"), lambda text: text[:200], lambda text: "{}"])
def test_an_edited_registration_counts_as_none(damage: Callable[[str], str], lab: Lab) -> None:
    saved = lab.sweep()
    file = saved.folder / "registration.json"
    file.write_text(damage(file.read_text()))
    with pytest.raises(DamagedFile):
        register(saved, lab.finished)
    stands = lab.standing(lab.sweep("metric: drift, baseline: {n: 1}, margin: 0.05"))  # it is swept all the same
    assert (stands.kind, stands.confirmatory) == ("not registered", False)
    assert "registration.json is damaged" in stands.sentence
    assert len(list(saved.folder.glob("registration*"))) == 1


def test_of_two_writers_one_registers_and_nothing_is_overwritten(lab: Lab, tmp_path: Path) -> None:
    file, won = tmp_path / "folder" / "one.json", []
    barrier = threading.Barrier(8)

    def write(text: str) -> None:
        barrier.wait()
        if write_exclusive(file, text.encode() * 10_000):
            won.append(text)

    threads = [threading.Thread(target=write, args=(str(number),)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert file.read_text() == won[0] * 10_000
    assert list(file.parent.iterdir()) == [file]

    plans = [as_saved(lab.plan(f"{STATED}, test: {test}"), lab.store.root) for test in ("permutation", "t")]
    found: list[bool] = []
    starts = threading.Barrier(8)

    def run(plan: SavedPlan) -> None:
        starts.wait()
        found.append(register(plan, lambda ref: False)[1])

    threads = [threading.Thread(target=run, args=(plans[number % 2],)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    files = registrations(plans[0].folder)
    assert sum(found) == len(files) >= 2
    assert [file.content["amends"] for file in files] == [None, *(file.sha256 for file in files[:-1])]


def test_the_command_registers_before_any_job_and_exports(lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*options: str, primary: str = STATED) -> str:
        lab.plan(primary)
        app(["register", str(lab.file), "scale=tiny", "data=random", f"output_dir={lab.store.root}", *options], standalone_mode=False)
        return capsys.readouterr().err

    copy = tmp_path / "attached.json"
    assert "before any of its 6 evaluations had finished" in run("--export", str(copy))
    first = read_json(lab.store.root / "studies" / "mine" / "tiny" / "registration.json")
    assert read_json(copy) == {"registrations": [first]}
    run("--export", str(copy))  # the same again
    saved = lab.sweep(STATED, f"output_dir={lab.store.root}")
    assert lab.standing(saved).kind == "registered"
    assert first["sha256"][:12] in lab.standing(saved).sentence
    with pytest.raises(UserError, match=r"Changed after 6 finished evaluations: margin 0.005 -> 0.5"):
        run(primary="metric: drift, baseline: {n: 1}, margin: 0.5")
    after = tmp_path / "after.json"
    said = run("--export", str(after), primary="metric: drift, baseline: {n: 1}, margin: 0.5")
    assert "is unchanged, because evaluations that it covers have finished. Changed after 6 finished evaluations" in said
    assert read_json(after) == {"registrations": [first]}
    copy.write_text("somebody's notes")
    with pytest.raises(UserError, match="not overwritten"):
        run("--export", str(copy))
    assert copy.read_text() == "somebody's notes"
    with pytest.raises(UserError, match="cannot be written"):
        run("--export", str(copy / "x.json"))
    for folder in (".", str(tmp_path)):
        with pytest.raises(UserError, match="is a folder; name a file"):
            run("--export", folder)


def test_register_warns_as_a_sweep_does_and_exports_amendments(lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab.plan()
    command = ["register", str(lab.file), "scale=tiny", "data=random", f"output_dir={lab.store.root}"]
    app(command, standalone_mode=False)
    assert "'better' and 'worse' are out of reach" in capsys.readouterr().err
    lab.plan("metric: drift, baseline: {n: 1}, margin: 0.5")
    app([*command, "--export", str(tmp_path / "both.json")], standalone_mode=False)
    assert "both.json: the first registration and 1 amendment" in capsys.readouterr().err
    assert [one["content"]["primary"]["margin"] for one in read_json(tmp_path / "both.json")["registrations"]] == [0.005, 0.5]


def test_a_dry_run_registers_nothing_and_says_what_a_sweep_would_do(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    def dry(primary: str = STATED) -> str:
        lab.plan(primary)
        app(["sweep", str(lab.file), "scale=tiny", "data=random", f"output_dir={lab.store.root}", "--dry-run"], standalone_mode=False)
        return capsys.readouterr().out

    other = "metric: drift, baseline: {n: 1}, margin: 0.5"
    assert "Not registered yet: a sweep registers this comparison before its first job." in dry()
    assert not lab.store.root.exists()
    _, saved = lab.begin()
    assert "before any of its 6 evaluations had finished" in dry()
    assert re.search(r"A sweep amends the registration of .* since no evaluation has finished: margin 0.005 -> 0.5", dry(other))
    lab.sweep()
    assert "Changed after 6 finished evaluations: margin 0.005 -> 0.5." in dry(other)
    assert [file.name for file in saved.folder.glob("*-*.json")] == []


def test_a_change_that_is_reverted_leaves_a_trace(lab: Lab) -> None:
    lab.sweep()
    lab.sweep("metric: drift, baseline: {n: 1}, margin: 0.5")
    saved = lab.sweep()
    stands = lab.standing(saved)
    assert (stands.kind, stands.confirmatory) == ("registered", True)
    at = r"\d{4}-\d\d-\d\d \d\d:\d\d UTC"
    (sentence,) = stands.trace
    assert re.fullmatch(rf"Changed at {at}, after 6 evaluations had finished \(margin 0.005 -> 0.5\); reverted at {at}.", sentence)
    assert sentence.replace(">", "&gt;") in write_report(saved, lab.store, lambda text: None)[0].read_text()
    lab.sweep()
    assert [file.name for file in saved.folder.glob("change-reverted-*")] == ["change-reverted-1.json"]  # once
    changed = lab.standing(lab.sweep("metric: psnr, baseline: {n: 1}, margin: 0.5"))
    assert (changed.kind, changed.trace) == ("changed", (sentence,))
    assert len(lab.standing(lab.sweep()).trace) == 2


def test_a_return_is_noted_where_the_name_of_its_file_is_taken(lab: Lab) -> None:
    """A pilot study's return has the name, or a file that was damaged since."""
    saved = lab.sweep()
    (saved.folder / "change-reverted-1.json").write_text("{")
    lab.sweep("metric: drift, baseline: {n: 1}, margin: 0.5")
    (sentence,) = lab.standing(lab.sweep()).trace
    assert "; reverted at " in sentence
    assert (saved.folder / "change-reverted-2.json").exists()


def test_a_dry_run_follows_no_link_in_place_of_the_study(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    saved = lab.sweep()
    saved.folder.rename(lab.file.parent / "away")
    saved.folder.symlink_to(lab.file.parent / "away")
    app(["sweep", str(lab.file), "scale=tiny", "data=random", f"output_dir={lab.store.root}", "--dry-run"], standalone_mode=False)
    shown = capsys.readouterr()
    assert "Registered on" not in shown.out
    assert "would be refused" in shown.err
    assert "symbolic link" in " ".join(shown.err.split())


def test_an_export_waits_for_no_pipe(lab: Lab, tmp_path: Path) -> None:
    saved = lab.sweep()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="there is another file of this name"):
        export_file(registrations(saved.folder), tmp_path / "pipe")


def test_the_page_shows_the_registered_seeds(lab: Lab) -> None:
    primary = f"{STATED}, looks: [3, 5]"
    lab.sweep(primary)
    saved = lab.sweep(primary, "seeds=5")
    page = write_report(saved, lab.store, lambda text: None)[0].read_text()
    assert "<li>Seeds: 0, 1, 2. Games: Pong.</li>" in page
    assert "This page holds the seeds 0, 1, 2, 3, 4." in page


def test_results_and_report_say_how_the_study_stands(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.sweep()
    for command in ("results", "report"):
        app([command, "mine", f"output_dir={lab.store.root}"], standalone_mode=False)
        said = capsys.readouterr()
        assert "before any of its 6 evaluations had finished" in (said.out if command == "results" else said.err)
        assert ("Undecided: n=2 may be better or worse than n=1." in said.out) == (command == "results")


def words_in_chromium(page: Path, folder: Path) -> str:
    """The text of a page as headless Chromium shows it."""
    probe = folder / "probe.html"
    probe.write_text(
        f'<!doctype html><iframe id=page src="{page.as_uri()}" style="width:1200px;height:4000px"></iframe><script>'
        'addEventListener("load", () => setTimeout(() => { const doc = document.getElementById("page").contentDocument;'
        'doc.querySelectorAll("details").forEach(e => e.open = true);'
        "document.body.textContent = 'FOUND ' + doc.body.innerText + ' END'; }, 300));</script>"
    )
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--virtual-time-budget=8000"]
    command = [str(CHROMIUM), *options, f"--user-data-dir={folder / 'profile'}", "--dump-dom", probe.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search("FOUND (.*) END", done.stdout, re.DOTALL)
    assert found, done.stderr
    return " ".join(found[1].split()).replace("-&gt;", "->")


@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's package chromium")
def test_a_browser_reads_what_was_changed_after_the_study_ran(lab: Lab, tmp_path: Path) -> None:
    page = write_report(lab.sweep(), lab.store, lambda text: None)[0]
    before = " ".join(Page(page.read_text()).words.split())
    assert "before any of its 6 evaluations had finished" in before
    assert "The smallest difference that matters is 0.005." in before
    assert "Stated in the study's file before it ran" not in before
    saved = lab.sweep("metric: psnr, baseline: {n: 1}, margin: 0.01")
    assert write_report(saved, lab.store, lambda text: None)[0] == page
    after = words_in_chromium(page, tmp_path)
    assert "Changed after 6 finished evaluations: metric drift -> psnr; margin 0.005 -> 0.01. All results are exploratory." in after
    assert "Registered: Metric: drift (pixel error) ↓, against n = 1." in after
    assert "Stated by this page: Metric: PSNR (dB) ↑, against n = 1." in after


def test_the_report_s_files_carry_the_standing_and_follow_it(lab: Lab) -> None:
    saved = lab.sweep()
    folder = saved.folder / "report"

    def files() -> tuple[dict[str, object], set[str]]:
        write_report(saved, lab.store, lambda text: None)
        with (folder / "comparison.csv").open() as file:
            return read_json(folder / "report.json")["registration"], {row["registration"] for row in csv.DictReader(file)}

    reported, column = files()
    assert (reported["kind"], reported["confirmatory"], reported["alpha"], reported["changes"]) == ("registered", True, 0.05, [])
    assert reported["sha256"] == json.loads((saved.folder / "registration.json").read_text())["sha256"]
    assert column == {"registered"}
    (saved.folder / "registration.json").unlink()
    reported, column = files()  # of the same results
    assert (reported["kind"], reported["confirmatory"]) == ("not registered", False)
    assert column == {"not registered"}


def test_a_single_agent_s_training_is_not_registered(lab: Lab) -> None:
    plan = lab.plan()
    begin, saved = planned(type(plan)(**{**vars(plan), "command": "diamond-bench train game=Pong"}), lab.store)
    begin()
    assert not registrations(saved.folder)
    assert save_plan(plan, lab.store.root).folder == saved.folder
