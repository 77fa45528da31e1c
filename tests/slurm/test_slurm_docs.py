"""docs/slurm.md, followed as it is written: on a real SLURM, at scale tiny and less, with the page's profile less what a site alone can
know."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from cluster import Cluster
from command_line import ROOT, diamond_bench

PAGE = (ROOT / "docs" / "slurm.md").read_text()
SMALLER = ("sampler.num_steps=1,10", "metrics=[drift]")
"""The page's sweep at less cost: what it shows of SLURM depends neither on how often nor by what is evaluated."""
_SH = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def profile_of_the_page() -> dict[str, object]:
    """The profile that the page has people write."""
    return yaml.safe_load(PAGE.partition("<<'EOF'\n")[2].partition("EOF\n")[0])


def commands() -> list[list[str]]:
    """The page's diamond-bench commands on studies, in order, at scale tiny."""
    lines = [
        line for block in _SH.findall(PAGE) for line in block.splitlines() if line.startswith("diamond-bench ") and "fetch" not in line
    ]
    return [[re.sub("^scale=(small|smoke)$", "scale=tiny", word) for word in shlex.split(line)[1:]] for line in lines]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_page_is_followed(cluster: Cluster, tmp_path: Path) -> None:
    """Its profile is found by name; the commands come in the page's order; at the end everything is done.

    Slow, since it trains and evaluates: the default tests give the same commands in test_steering.py, and let fake jobs run on SLURM.
    """
    clusters = tmp_path / "config" / "diamond_bench" / "clusters"
    clusters.mkdir(parents=True)
    written = profile_of_the_page()
    assert all(written.pop(key) for key in ("partition", "account", "setup"))
    (clusters / "mycluster.yaml").write_text(yaml.safe_dump({**written, "partition": "main", "cpus": 1, "memory": "2G"}))
    own = {"XDG_CONFIG_HOME": str(tmp_path / "config"), "DIAMOND_BENCH_OUTPUTS": str(tmp_path / "outputs"), **cluster.env}
    said = {}
    for words in commands():
        if "--watch" in words:
            words = [word for word in words if word != "--watch"]
        if words[:1] == ["logs"]:
            words = ["logs", next((tmp_path / "outputs" / "train_world_model").iterdir()).name, "--follow"]
        if words[:1] == ["results"]:  # the page's reader comes back when the jobs are done
            diamond_bench("sweep", "sampling_steps", "scale=tiny", "cluster=mycluster", "--wait", *SMALLER, cwd=tmp_path, env=own)
        done = diamond_bench(*words, *(SMALLER if words[0] == "sweep" else ()), cwd=tmp_path, env=own)
        assert "Traceback" not in done.stderr
        said[" ".join(words)] = done.stdout + done.stderr
    assert "#SBATCH --job-name=sampling_steps/train_world_model" in said["sweep sampling_steps scale=tiny cluster=mycluster --dry-run"]
    assert "submitted 4 jobs in 3 arrays" in said["sweep sampling_steps scale=tiny cluster=mycluster"]
    assert "pending" in said["status sampling_steps"] or "running" in said["status sampling_steps"]
    assert (tmp_path / "outputs/studies/sampling_steps/tiny/report/index.html").stat().st_size > 0
    states = diamond_bench("status", "sampling_steps", "--json", cwd=tmp_path, env=own).stdout
    assert '"counts": {"done": 4}' in states


def test_the_page_s_table_of_keys_is_the_profile(cluster: Cluster) -> None:
    from dataclasses import fields

    from diamond_bench.config import SlurmCluster
    from diamond_bench.store.kinds import KINDS

    table = PAGE.partition("| Key |")[2].partition("\n\n")[0]
    listed = {name for row in table.splitlines()[2:] for name in re.findall(r"`([a-z_]+)`", row.split("|")[1])}
    assert listed == {f.name for f in fields(SlurmCluster)} - {"name", *KINDS}


@pytest.mark.usefixtures("slurm_installed")
def test_the_cluster_starts_by_hand_as_the_page_says(tmp_path: Path) -> None:
    (line,) = (line for line in PAGE.splitlines() if "cluster.py" in line)
    script = ROOT / line.split()[1]
    started = subprocess.Popen([sys.executable, script, tmp_path / "byhand"], stdout=subprocess.PIPE, text=True)
    try:
        assert started.stdout is not None
        assert started.stdout.readline().startswith("export SLURM_CONF=")
    finally:
        started.terminate()
        assert started.wait(60) is not None
