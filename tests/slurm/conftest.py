"""The test cluster: started once a session, and after each test brought back to an idle node and an empty queue; and stores on it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster, missing_reason
from stores import make_store, use

from diamond_bench.store.artifacts import Store


def _need(accounting: bool) -> None:
    """Skips where no cluster can be had; fails there where CI=true, so that no run of CI passes without these tests."""
    if reason := missing_reason(accounting):
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def slurm_installed() -> None:
    """Skips where no cluster can be started. Fails there in CI."""
    _need(accounting=False)


@pytest.fixture(scope="session")
def running_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A node with two GPUs and no accounting."""
    _need(accounting=False)
    with Cluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture
def cluster(running_cluster: Cluster) -> Iterator[Cluster]:
    """The node, idle and with an empty queue; what a test leaves there is cancelled. Jobs that ended stay in `squeue --states=all`."""
    yield running_cluster
    running_cluster.reset()


@pytest.fixture
def on_the_cluster(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of this process reach the cluster. A file that begins something long beside it overrides this, to begin that first."""
    use(cluster, monkeypatch)


@pytest.fixture
def store(tmp_path: Path, on_the_cluster: None) -> Store:
    """A store whose jobs are given to the cluster."""
    return make_store(tmp_path)


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """Where fake jobs write down their steps."""
    return tmp_path / "ledger"


@pytest.fixture(scope="session")
def running_accounting_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The same with slurmdbd and its database."""
    _need(accounting=True)
    with Cluster(tmp_path_factory.mktemp("slurmdbd"), accounting=True) as cluster:
        yield cluster


@pytest.fixture
def accounting_cluster(running_accounting_cluster: Cluster) -> Iterator[Cluster]:
    """The node whose jobs are charged to the account `lab`; for tests marked `slurm_accounting`."""
    yield running_accounting_cluster
    running_accounting_cluster.reset()
