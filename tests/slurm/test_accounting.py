"""What the accounting database tells of tasks that the controller has forgotten, and the accounts it lets jobs be charged to."""

import fake_jobs
import pytest
from cluster import ACCOUNT, Cluster
from fake_jobs import count
from stores import make_store, use
from test_tasks import submitted, until

from diamond_bench.errors import UserError
from diamond_bench.launch.slurm import queue_status as joining
from diamond_bench.launch.slurm.client import accounted, slurm
from diamond_bench.launch.slurm.queue_status import queue_status
from diamond_bench.store.artifacts import Store
from diamond_bench.store.batches import read_batches

pytestmark = [pytest.mark.slurm_accounting, pytest.mark.timeout(300)]


def test_the_database_is_asked_for_what_the_controller_has_forgotten(
    accounting_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(accounting_cluster, monkeypatch)
    store = make_store(tmp_path_factory.mktemp("accounted"))
    done, ended = count("done", steps=1), count("ended", steps=3)
    submitted(store, [done], account=ACCOUNT)
    submitted(store, [ended], account=ACCOUNT, extra=("hold",))
    arrays = [str(batch.array) for batch in read_batches(store.root)]
    slurm("scancel", arrays[1])
    until(lambda: {entry.state for entry in accounted(arrays).values()} == {"COMPLETED", "CANCELLED"}, 90)
    monkeypatch.setattr(joining, "queue", dict)  # as after MinJobAge
    states = queue_status(store).states
    assert states[ended.ref].status == "cancelled"
    assert states[ended.ref].text == "cancelled in SLURM"
    assert states[done.ref].status == "done"


def test_an_account_that_is_not_ours_is_refused_and_nothing_is_created(
    accounting_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(accounting_cluster, monkeypatch)
    root = tmp_path_factory.mktemp("refused") / "outputs"
    with pytest.raises(UserError, match=r"(?i)invalid account"):
        submitted(Store(root, kinds=fake_jobs.KINDS, say=lambda text: None), [count("never")], account="nobodys")
    assert not root.exists()
