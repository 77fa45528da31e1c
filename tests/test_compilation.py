"""torch.compile: which calls go through it, that it is really used, and that it is a function of the config alone."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_agents import small_agent_config
from test_agent_wiring import learners, replay
from torch import Tensor, nn

from diamond_bench.config import ExecutionConfig, OdeSampler
from diamond_bench.errors import UserError
from diamond_bench.jobs import train_agent
from diamond_bench.jobs.agent_learners import Learners
from diamond_bench.jobs.context import Interrupted, JobContext
from diamond_bench.jobs.execution import Execution, apply_to_world_model, compile_rows, resolve
from diamond_bench.launch.devices import check_devices
from diamond_bench.models import graphs
from diamond_bench.models.compilation import Compiled
from diamond_bench.models.graphs import Graphed
from diamond_bench.studies.execution import (
    COMPILE_PAYS_OFF_FLOPS,
    check_execution,
    has_compiler,
    of_imagination,
    of_no_compilation,
    of_training,
)
from diamond_bench.studies.plan import plan_study
from diamond_bench.studies.single import plan_train
from diamond_bench.training.checkpoint import load_checkpoints, save_checkpoint
from diamond_bench.training.loop import Begun

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class Counting:
    """A backend of torch.compile that runs graphs as they are, and counts them and their calls."""

    def __init__(self) -> None:
        self.graphs = self.calls = 0

    def __call__(self, module: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        self.graphs += 1

        def run(*given: Any) -> Any:
            self.calls += 1
            return module.forward(*given)

        return run


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counting]:
    """Everything that is compiled goes through a counting backend; g++ takes too long for what is tested here."""
    counting, real = Counting(), torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **how: real(function, **{**how, "backend": counting}))
    torch.compiler.reset()
    yield counting
    torch.compiler.reset()


def test_only_the_sizes_named_are_compiled_each_once_with_and_without_gradient(backend: Counting) -> None:
    layer = nn.Linear(3, 2)
    compiled = Compiled(layer, {4})
    for _ in range(3):
        torch.testing.assert_close(compiled(torch.ones(4, 3)), layer(torch.ones(4, 3)), rtol=0, atol=0)
        with torch.no_grad():
            compiled(torch.ones(4, 3))
        assert torch.equal(compiled(torch.ones(5, 3)), layer(torch.ones(5, 3)))
    assert compiled.calls == {"compiled": 6, "eager": 3}
    assert (backend.graphs, backend.calls) == (2, 6)
    assert compiled.seconds > 0


def test_without_gradient_alone(backend: Counting) -> None:
    compiled = Compiled(nn.Linear(3, 2), {4}, with_gradient=False)
    compiled(torch.ones(4, 3)).sum().backward()
    assert backend.calls == 0
    with torch.inference_mode():
        compiled(torch.ones(4, 3))
    assert backend.calls == 1


def test_what_cannot_be_captured_whole_is_an_error(backend: Counting) -> None:
    class Peeks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1 if x.sum().item() > 0 else x

    with pytest.raises(Exception, match=r"item|graph break|Unsupported"):
        Compiled(Peeks(), {1})(torch.ones(1, 2))


@pytest.mark.parametrize("extent", ["all", "imagination"])
def test_an_agent_s_training_runs_compiled(backend: Counting, extent: str) -> None:
    settings = small_agent_config(f"execution.compile={extent}")
    built = learners(settings, replay())
    assert built.execution == Execution(compile=extent)  # type: ignore[arg-type]
    plain = learners(small_agent_config("execution.compile=none"), replay())
    assert plain.compilable[0].compiled is None
    for name in ("denoiser", "reward_end", "actor_critic"):
        with_it, without = built.update(name), plain.update(name)
        torch.testing.assert_close(with_it[name]["loss"], without[name]["loss"], rtol=1e-4, atol=1e-5)
    policy, denoiser, reward_end_model = (network.compiled for network in built.compilable)
    assert policy is not None
    assert denoiser is not None
    assert reward_end_model is not None
    steps = settings.actor_critic.steps_per_update
    imagined = steps * settings.sampler.num_steps  # type: ignore[union-attr]
    terms = settings.training.num_autoregressive_steps + 1
    if extent == "all":
        assert denoiser.calls == {"compiled": imagined + terms, "eager": 0}
        assert reward_end_model.calls["compiled"] == steps + 1
        assert policy.calls["compiled"] >= steps + 1
    else:
        assert denoiser.calls == {"compiled": imagined, "eager": terms}
        assert reward_end_model.calls["compiled"] == steps
        assert policy.calls["compiled"] == 2, "without gradient: the value of the last frame, and of the frames at which games were cut"
    (row,) = compile_rows(built.compilable)
    assert (row.metric, row.measured) == ("compile_seconds", True)
    assert row.value > 0
    assert compile_rows(plain.compilable) == []


def test_an_interrupted_compiled_training_goes_on_with_the_same_numbers(backend: Counting) -> None:
    """The policy's update after the interruption calls all three networks."""
    settings = small_agent_config("execution.compile=all")
    whole, second = (learners(settings, replay()) for _ in range(2))
    for name in ("denoiser", "reward_end", "actor_critic"):
        whole.update(name)
    state = copy.deepcopy(whole.state_dict())
    drawn = whole.generator.get_state()
    whole.update("actor_critic")
    torch.compiler.reset()
    second.load_state_dict(state)
    second.generator.set_state(drawn)
    second.update("actor_critic")
    for one, other in zip(whole.compilable, second.compilable, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


# What execution comes to


def test_auto_is_a_function_of_work_and_device() -> None:
    asked = ExecutionConfig()
    assert resolve(asked, CPU, COMPILE_PAYS_OFF_FLOPS["cpu"] * 0.99) == Execution()
    assert resolve(asked, CPU, COMPILE_PAYS_OFF_FLOPS["cpu"]) == Execution(compile="all")
    assert resolve(asked, CUDA, COMPILE_PAYS_OFF_FLOPS["cuda"] * 0.99) == Execution()
    assert resolve(asked, CUDA, COMPILE_PAYS_OFF_FLOPS["cuda"]) == Execution(compile="all")
    assert resolve(ExecutionConfig(compile="none", cuda_graphs="all"), CUDA, 1e30) == Execution(cuda_graphs="all")


def test_auto_without_a_compiler_compiles_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert resolve(ExecutionConfig(), CPU, 1e30) == Execution()
    assert resolve(ExecutionConfig(), CUDA, 1e30) == Execution()
    with pytest.raises(UserError, match=r"execution.compile=all: .* C\+\+ compiler.*g\+\+"):
        resolve(ExecutionConfig(compile="all"), CPU, 0)
    with pytest.raises(UserError, match=r"execution.compile=all: .* C compiler.*gcc"):
        resolve(ExecutionConfig(compile="all"), CUDA, 0)
    check_execution(ExecutionConfig(compile="all"), "cpu", here=False)


def test_the_compiler_is_looked_for_where_torch_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    (tmp_path / "clang++").touch(0o755)
    assert not has_compiler("cpu")
    monkeypatch.setenv("CXX", "clang++")
    assert has_compiler("cpu")


def test_a_run_that_goes_on_keeps_what_it_began_with_where_it_can(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    long, short = COMPILE_PAYS_OFF_FLOPS["cpu"], 0.0
    assert resolve(ExecutionConfig(), CPU, long, begun=Begun("none")).compile == "none", "a run from before there was compiling"
    assert resolve(ExecutionConfig(), CPU, short, begun=Begun("all")).compile == "all"
    assert resolve(ExecutionConfig(compile="none"), CPU, long, begun=Begun("all")).compile == "none"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert resolve(ExecutionConfig(), CPU, long, begun=Begun("all")).compile == "none"


def test_a_checkpoint_of_other_arithmetic_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = small_agent_config("execution.num_threads=1")
    said: list[str] = []
    stops = iter([False] * 3 + [True] * 99)
    context = JobContext(tmp_path, should_stop=lambda: next(stops), say=said.append)
    with pytest.raises(Interrupted):
        train_agent.run(settings, context)
    _, state, file = next(load_checkpoints(tmp_path / "checkpoint", print))
    assert state["compile"] == "none"
    file.unlink()
    save_checkpoint(tmp_path / "checkpoint", 10**6, {**state, "compile": "all"})
    monkeypatch.setenv("PATH", str(tmp_path))  # this node has no compiler
    stops = iter([True] * 99)
    with pytest.raises(Interrupted):
        train_agent.run(settings, context)
    assert "the checkpoint was made on cpu with compile=all; restarting on cpu" in said
    assert list((tmp_path / "checkpoint").glob("*.unused"))


@pytest.mark.parametrize("extent", ["imagination", "all"])
def test_graphs_need_cuda(extent: str) -> None:
    with pytest.raises(UserError, match=f"execution.cuda_graphs={extent}: a cpu has none"):
        resolve(ExecutionConfig(cuda_graphs=extent), CPU, 0)  # type: ignore[arg-type]


def test_streams_need_cuda_and_are_part_of_an_identity_where_frames_are_sampled() -> None:
    with pytest.raises(UserError, match=r"execution.sampling_streams=2: a cpu has none; use execution.sampling_streams=1"):
        resolve(ExecutionConfig(sampling_streams=2), CPU, 0)
    assert resolve(ExecutionConfig(sampling_streams=2), CUDA, 0) == Execution(sampling_streams=2)
    one, two = ids(), ids("execution.sampling_streams=2")
    assert one["train_world_model"] == two["train_world_model"]
    assert not one["evaluate_world_model"] & two["evaluate_world_model"]


def test_groups_of_games_are_compiled_in_their_own_sizes(backend: Counting) -> None:
    torch.manual_seed(0)
    settings = small_agent_config("actor_critic.batch_size=5", "training.batch_size=4")
    built = Learners(settings, CPU, replay(), torch.Generator().manual_seed(7), Execution(compile="all", sampling_streams=2))
    built.update("actor_critic")
    denoiser: Any = built.agent.world_model.denoiser  # type: ignore[union-attr]
    assert denoiser.compiled.calls["eager"] == 0
    assert denoiser.compiled.first_calls == 2, "groups of 3 and of 2"


def test_what_a_gpu_can_is_not_refused_of_one_that_is_named_where_it_is_not() -> None:
    """So that a GPU's study can be looked at on a laptop; that there is no GPU is said when it is to run."""
    check_devices([ExecutionConfig(device="cuda", cuda_graphs="all", sampling_streams=2)], here=True)
    with pytest.raises(UserError, match="a cpu has none"):
        check_devices([ExecutionConfig(device="cpu", cuda_graphs="all")], here=False)


@pytest.mark.parametrize("recorded", [False, True])
def test_an_evaluation_samples_in_groups_too(recorded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "record_cuda_graph", lambda work, generators: work)
    model = Learners(small_agent_config(), CPU, replay(), torch.Generator(), Execution()).agent.world_model
    assert model is not None
    batches: list[int] = []
    network: Any = model.denoiser
    original = network.denoise
    monkeypatch.setattr(network, "denoise", lambda x, *rest: batches.append(len(x)) or original(x, *rest))
    execution = Execution(cuda_graphs="imagination" if recorded else "none", sampling_streams=2)
    executed = apply_to_world_model(execution, model.bound(OdeSampler(num_steps=1)), 5)
    past, actions = torch.zeros(5, model.context, 3, 16, 16), torch.zeros(5, model.context, dtype=torch.int64)
    for _ in range(Graphed.WARM_UP + 3):
        executed.step((past, actions), actions[:, 0], torch.zeros_like)
    assert batches == [3, 2] * (Graphed.WARM_UP + 3)


def test_more_streams_than_games_are_refused() -> None:
    with pytest.raises(UserError, match=r"execution.sampling_streams=3: 2 games are imagined at once \(actor_critic.batch_size\)"):
        plan_train(["scale=tiny", "actor_critic.batch_size=2", "execution.sampling_streams=3"])
    with pytest.raises(UserError, match=r"execution.sampling_streams=3: 2 games are imagined at once \(evaluation.batch_size\)"):
        plan_study("sampling_steps", ["scale=tiny", "evaluation.batch_size=2", "execution.sampling_streams=3"])


def test_nothing_of_the_policy_s_update_compiles_while_it_is_recorded(backend: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Warm-ups see what the recording will: the same shapes and strides. A compilation within a capture fails on a GPU."""
    compiled: list[tuple[int, int]] = []

    def record(work: Callable[[], Any], generators: Any) -> Callable[[], Any]:
        before = backend.graphs
        work()
        compiled.append((before, backend.graphs))
        return work

    monkeypatch.setattr(graphs, "record_cuda_graph", record)
    torch.manual_seed(0)
    built = Learners(small_agent_config(), CPU, replay(), torch.Generator().manual_seed(7), Execution(compile="all", cuda_graphs="all"))
    for _ in range(Graphed.WARM_UP + 1):
        built.update("actor_critic")
    ((before, after),) = compiled
    assert before == after > 0


def ids(*tokens: str) -> dict[str, set[str]]:
    plan = plan_study("sampling_steps", ["scale=tiny", *tokens])
    return {kind: {ref.id for ref in plan.jobs if ref.kind == kind} for kind in ("train_world_model", "evaluate_world_model")}


def test_what_is_asked_of_the_compiler_is_part_of_an_identity_where_it_matters() -> None:
    auto, none, imagination, everything = (ids(f"execution.compile={c}") for c in ("auto", "none", "imagination", "all"))
    assert auto == ids()
    assert len({tuple(sorted(found["train_world_model"])) for found in (auto, none, everything)}) == 3
    assert imagination["train_world_model"] == none["train_world_model"], "a training imagines nothing"
    assert ids("execution.cuda_graphs=all") == auto, "the same kernels"
    execution = ExecutionConfig(compile="imagination")
    assert of_training(execution).compile == "none"
    assert of_imagination(execution).compile == "all"
    assert of_no_compilation(execution).compile == "auto"
    agents = [plan_train(["scale=tiny", f"execution.compile={c}"]).jobs for c in ("auto", "all")]
    of_kind = [{ref.kind: ref.id for ref in jobs} for jobs in agents]
    assert of_kind[0]["train_agent"] != of_kind[1]["train_agent"]
    evaluations = [next(s.config for s in jobs.values() if s.kind == "evaluate_agent") for jobs in agents]
    assert evaluations[0] == evaluations[1]
