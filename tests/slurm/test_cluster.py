"""The test cluster is a real SLURM: it gives out GPUs, keeps order, signals, requeues, and survives what real ones survive."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from cluster import ACCOUNT, Cluster, ClusterError, missing_reason, processes_of, reserved_ports, until

ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"}
SIGNALLED = """
import signal, subprocess, sys, time
received = open(sys.argv[1], "a", buffering=1)
signal.signal(signal.SIGUSR2, lambda *_: received.write("USR2\\n"))
received.write("ready\\n")
while "USR2" not in open(sys.argv[1]).read():
    time.sleep(0.05)
"""


def submit(cluster: Cluster, folder: Path, script: str, *options: str) -> str:
    """Submits a batch script that writes to folder/<job id>.out (of an array: id_index.out); its job id."""
    output = "%A_%a.out" if any(option.startswith("--array") for option in options) else "%j.out"
    return cluster.run("sbatch", "--parsable", "--mem=100", f"--output={folder}/{output}", *options, f"--wrap={script}")


def ends(cluster: Cluster, *jobs: str, seconds: float = 90) -> list[str]:
    """The states in which jobs, or elements of arrays, ended. A step whose message to the controller fails repeats it after 15 seconds."""
    try:
        until(lambda: {cluster.states()[job] for job in jobs} <= ENDED, f"the end of {jobs}", seconds)
    except ClusterError as error:
        raise ClusterError(f"{error}, in {cluster.states()}") from None
    return [cluster.states()[job] for job in jobs]


def running(cluster: Cluster, *jobs: str) -> None:
    until(lambda: {cluster.states().get(job) for job in jobs} == {"RUNNING"}, f"{jobs} running")


def test_what_is_absent_is_named_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("cluster._path", lambda: str(tmp_path))  # a machine without any program
    if os.geteuid() != 0:
        assert "needs root" in missing_reason()
        return
    assert missing_reason().endswith("apt-get install -y --no-install-recommends munge slurmctld slurmd slurm-client")
    assert missing_reason(accounting=True).endswith(" munge slurmctld slurmd slurm-client slurmdbd mariadb-server")


def test_ports_are_one_cluster_s_at_a_time_and_nobody_s_where_somebody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also between their choice and a daemon's start, and while a daemon is away: two clusters that start at once had met there."""
    firsts = range(30_000, 30_012, 4)
    monkeypatch.setattr("cluster._PORTS", firsts)
    with socket.create_server(("127.0.0.1", firsts[1] + 3)):
        reservation, ports = reserved_ports()
        theirs = f"import cluster; cluster._PORTS = {firsts!r}; print(cluster.reserved_ports()[1][0])"
        other = subprocess.run([sys.executable, "-c", theirs], cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
        assert {ports[0], int(other.stdout)} == {firsts[0], firsts[2]}
        monkeypatch.setattr("cluster._PORTS", [firsts[1], ports[0]])
        with pytest.raises(ClusterError, match="no four free ports"):
            reserved_ports()
        reservation.close()
        again, same = reserved_ports()  # what a cluster that ended had is free
        again.close()
        assert same == ports


def test_two_jobs_that_overlap_in_time_see_one_gpu_each_and_a_third_waits(cluster: Cluster, tmp_path: Path) -> None:
    script = "echo $CUDA_VISIBLE_DEVICES $(date +%s.%N); sleep 1; date +%s.%N"
    jobs = [submit(cluster, tmp_path, script, "--gres=gpu:1") for _ in range(3)]
    assert ends(cluster, *jobs) == ["COMPLETED"] * 3
    seen = [(tmp_path / f"{job}.out").read_text().split() for job in jobs]
    (first, start, end), (second, other_start, other_end), (_, last_start, _) = seen
    assert {first, second} == {"0", "1"}
    assert max(float(start), float(other_start)) < min(float(end), float(other_end)) < float(last_start)


def test_an_element_starts_when_the_same_element_of_the_array_before_is_done(cluster: Cluster, tmp_path: Path) -> None:
    slow = f"until [ $SLURM_ARRAY_TASK_ID = 1 -o -e {tmp_path}/go ]; do sleep 0.1; done"
    before = submit(cluster, tmp_path, slow, "--array=0-1")
    after = submit(cluster, tmp_path, "true", "--array=0-1", f"--dependency=aftercorr:{before}", "--kill-on-invalid-dep=yes")
    assert ends(cluster, f"{before}_1", f"{after}_1") == ["COMPLETED"] * 2
    assert cluster.states()[f"{before}_0"] == "RUNNING"
    assert cluster.states()[f"{after}_0"] == "PENDING"
    (tmp_path / "go").touch()
    assert ends(cluster, f"{after}_0") == ["COMPLETED"]


def test_usr2_reaches_a_step_that_requeues_its_job_and_runs_again_within_seconds(cluster: Cluster, tmp_path: Path) -> None:
    received = tmp_path / "received"
    first = f"srun {sys.executable} -c '{SIGNALLED}' {received}; date +%s.%N; scontrol requeue $SLURM_JOB_ID; sleep 60"
    script = f'if [ -z "$SLURM_RESTART_COUNT" ]; then {first}; fi; echo again $SLURM_RESTART_COUNT; date +%s.%N'
    job = submit(cluster, tmp_path, script, "--requeue", "--open-mode=append")
    until(lambda: received.exists() and received.read_text() == "ready\n", "a step that is ready")
    cluster.run("scancel", "--signal=USR2", job)
    until(lambda: cluster.states()[job] == "PENDING", "a requeued job")
    assert cluster.run("squeue", "--noheader", f"--jobs={job}", "--format=%r") == "BeginTime"
    assert ends(cluster, job) == ["COMPLETED"]
    numbers = re.findall(r"\d{10}\.\d+", text := (tmp_path / f"{job}.out").read_text())
    assert "again 1\n" in text
    assert float(numbers[1]) - float(numbers[0]) < 15  # 6 s where nothing else runs; two minutes with SLURM's default


@pytest.mark.parametrize("daemon", ["slurmctld", "slurmd"])
def test_a_daemon_that_restarts_loses_no_job(cluster: Cluster, tmp_path: Path, daemon: str) -> None:
    go = f"until [ -e {tmp_path}/go ]; do sleep 0.1; done; echo done"
    jobs = [submit(cluster, tmp_path, go), submit(cluster, tmp_path, f"srun sh -c '{go}'"), submit(cluster, tmp_path, "true", "--hold")]
    array = submit(cluster, tmp_path, "true", "--array=0-2", f"--dependency=afterok:{jobs[0]}")
    running(cluster, *jobs[:2])
    before = cluster.states()
    if daemon == "slurmd":
        cluster.restart_node()
    else:
        cluster.restart_controller()
        cluster.kill_controller(hard=True)  # it loses at most what changed since it last saved: every 5 seconds, and when it ends
        cluster.start_controller()
    assert cluster.states() == before
    (tmp_path / "go").touch()
    assert ends(cluster, *jobs[:2], *(f"{array}_{index}" for index in range(3))) == ["COMPLETED"] * 5
    assert [(tmp_path / f"{job}.out").read_text() for job in jobs[:2]] == ["done\n"] * 2
    assert cluster.states()[jobs[2]] == "PENDING"


def test_a_cancelled_job_learns_of_it_and_impossible_requests_are_refused(cluster: Cluster, tmp_path: Path) -> None:
    held, runs = submit(cluster, tmp_path, "true", "--hold"), submit(cluster, tmp_path, "sleep 60")
    running(cluster, runs)
    cluster.run("scancel", held, runs)
    assert ends(cluster, held, runs) == ["CANCELLED"] * 2
    refused = {
        "Invalid partition name specified": ["--partition=nowhere"],
        "Requested time limit is invalid": ["--partition=short", "--time=20"],
        "Invalid job array specification": ["--array=0-1001"],
    }
    for message, options in refused.items():
        done = cluster.call("sbatch", *options, "--wrap=true")
        assert (done.returncode, message in done.stderr) == (1, True), done.stderr


def test_a_job_whose_output_has_no_folder_fails_with_53(cluster: Cluster, tmp_path: Path) -> None:
    job = submit(cluster, tmp_path / "absent", "true")
    assert ends(cluster, job) == ["FAILED"]
    reported = cluster.run("scontrol", "show", "job", job)
    assert "Reason=JobLaunchFailure" in reported
    assert "ExitCode=0:53" in reported


def test_reset_brings_back_an_idle_node_from_anything(cluster: Cluster, tmp_path: Path) -> None:
    orphan = "import os, signal, time; os.fork() or (os.setsid(), os.fork() and os._exit(0), signal.signal(15, 1)); time.sleep(60)"
    running(cluster, submit(cluster, tmp_path, f"srun {sys.executable} -c '{orphan}'"))
    submit(cluster, tmp_path, "sleep 60", "--array=0-99")
    cluster.set_node("DRAIN")
    cluster.kill_controller()
    cluster.reset()
    assert cluster.run("squeue", "--noheader") == ""
    assert cluster.run("sinfo", "--noheader", "--partition=main", "--format=%T") == "idle"
    until(lambda: not processes_of(cluster.folder, daemons=False), "no process of a job")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_cluster_started_by_hand_leaves_no_process_however_it_ends(running_cluster: Cluster, tmp_path: Path, how: signal.Signals) -> None:
    folder, script = tmp_path / "own", Path(__file__).parent / "cluster.py"
    with subprocess.Popen([sys.executable, "-P", str(script), str(folder)], stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        try:
            line = started.stdout.readline()
            assert line == f"export SLURM_CONF={folder}/slurm.conf\n"
            clients = {**os.environ, "SLURM_CONF": line.strip().partition("=")[2]}
            submitted = ["sbatch", f"--output={tmp_path}/%j.out", "--wrap=srun sleep 60"]
            subprocess.run(submitted, env=clients, check=True, capture_output=True)
            until(lambda: len(processes_of(folder, daemons=False)) >= 3, "a batch script, srun and sleep")
        finally:
            started.send_signal(how)
    until(lambda: not processes_of(folder), "no process of the cluster")
    assert running_cluster.run("sinfo", "--noheader", "--partition=main", "--format=%T") == "idle"  # and the other goes on


@pytest.mark.slurm_accounting
def test_accounting_reports_how_jobs_ended_and_refuses_an_unknown_account(accounting_cluster: Cluster, tmp_path: Path) -> None:
    cluster = accounting_cluster
    done, cancelled, late = (submit(cluster, tmp_path, script) for script in ("true", "sleep 60", "sleep 300"))
    running(cluster, cancelled, late)
    cluster.run("scancel", cancelled)
    cluster.run("scontrol", "update", f"JobId={late}", "EndTime=now+1")
    refused = cluster.call("sbatch", "--account=nobody", "--wrap=true")
    assert (refused.returncode, "Invalid account" in refused.stderr) == (1, True)

    def reported() -> dict[str, str]:
        command = ("sacct", "--noheader", "--allocations", "--parsable2", "--format=JobID,State,Account")
        return dict(line.split("|", 1) for line in cluster.run(*command).splitlines())

    expected = {done: f"COMPLETED|{ACCOUNT}", cancelled: f"CANCELLED by 0|{ACCOUNT}", late: f"TIMEOUT|{ACCOUNT}"}
    until(lambda: reported() == expected, f"{expected} from sacct", seconds=80)
