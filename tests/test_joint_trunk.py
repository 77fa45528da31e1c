"""Rewards and ends from the denoiser's own features: labels, features, losses, training, imagination, cost, refusals."""

import math
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from families import CHECKS, Case, check_cost
from small_agents import small_agent_config
from test_segments import generator, replay_of
from test_train_agent import run_through, same, stopping_at
from test_training import CONFIG, TRAINING, artifact, data, train
from test_worlds import TINY, TURN, study
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from diamond_bench.agent import load_agent
from diamond_bench.config import (
    ConditioningConfig,
    FactoredObjective,
    HeadsConfig,
    NetworkConfig,
    OdeSampler,
    RewardEndConfig,
    TrainingConfig,
)
from diamond_bench.costs.train_agent import updates
from diamond_bench.data.segments import Segments, sample_with_finals
from diamond_bench.errors import UserError
from diamond_bench.jobs import train_agent
from diamond_bench.jobs.agent_learners import Learners
from diamond_bench.jobs.context import Interrupted, JobContext
from diamond_bench.models.outcome_heads import OutcomeHeads, harmonised, outcome_losses
from diamond_bench.spaces import ActionSpec, FrameSpec, WorldSpec
from diamond_bench.studies.plan import plan_study
from diamond_bench.studies.single import plan_profile, plan_train
from diamond_bench.worlds.diamond import FAMILY
from diamond_bench.worlds.diamond.joint import joint_loss
from diamond_bench.worlds.diamond.world import DiamondWorld, build_world
from diamond_bench.worlds.families import load_world_model

__all__ = ["data"]
SPEC = WorldSpec(FrameSpec.square(16), ActionSpec.discrete(3))
SAMPLER = OdeSampler(num_steps=2)
LAST = HeadsConfig("last", width=6)
EXTRA = HeadsConfig("extra", sigma=0.3, width=6, memory=5, weights="harmonised")
SEPARATE = HeadsConfig("frames", lstm=RewardEndConfig((1,), (8,), (False,), 4, 6, segment_length=4, batch_size=3))
FUSED = 2 * 4 * 6 * (8 * 16 * 16 + 6)
"""FLOP of a step of its LSTM, whose fused kernel is not in torch's table."""
ALL = {"last": LAST, "extra": EXTRA, "frames": SEPARATE}


def settings(heads: HeadsConfig, **conditioning: Any) -> Any:
    network = NetworkConfig((1, 1), (8, 8), (False, False), 12, heads)
    return SimpleNamespace(objective=FactoredObjective(), conditioning=ConditioningConfig(2, **conditioning), network=network)


def world(heads: HeadsConfig, sampler: OdeSampler = SAMPLER, **conditioning: Any) -> DiamondWorld:
    torch.manual_seed(0)
    built = build_world(settings(heads, **conditioning), SPEC)
    for parameter in built.stored.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return built.bound(sampler)


def play(b: int = 2, steps: int = 7) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(1)
    return torch.rand(b, 2, 3, 16, 16, generator=draws) * 2 - 1, torch.randint(3, (b, steps), generator=draws)


@pytest.mark.parametrize(("name", "check"), [pair for pair in product(ALL, CHECKS) if pair != ("frames", check_cost)])
def test_it_keeps_to_what_every_family_does(name: str, check: Any) -> None:
    frames, actions = play()
    cost = FAMILY.cost(settings(ALL[name]), SPEC, SAMPLER)
    check(Case(lambda: world(ALL[name]), frames, actions, torch.zeros(2, 2, dtype=torch.int64), cost, tolerance=0.05))


def test_a_harmonised_loss_has_the_minimum_and_the_gradients_derived_by_hand() -> None:
    """L / s + log(1 + s) falls until s^2 = L (1 + s). For L = 1/2 this is s = 1, for L = 4/3 it is s = 2."""
    losses, logs = torch.tensor([0.5, 4 / 3, 2.0]), torch.tensor([1.0, 2.0, 1.0]).log().requires_grad_()
    found = harmonised(losses, logs)
    assert found.tolist() == pytest.approx([0.5 + math.log(2), 2 / 3 + math.log(3), 2 + math.log(2)])
    (slope,) = torch.autograd.grad(found.sum(), logs)
    assert slope.tolist() == pytest.approx([0, 0, -1.5], abs=1e-6)  # by log s: s / (1 + s) - L / s


def test_fixed_and_learned_weights_of_the_three_losses() -> None:
    parts = [torch.tensor(value) for value in (3.0, 5.0, 7.0)]
    heads = OutcomeHeads(HeadsConfig("last", reward_weight=10.0, end_weight=0.5), 8, 4)
    assert heads.joint_loss(*parts).item() == 3 + 50 + 3.5
    assert heads.log_scales is None
    heads = OutcomeHeads(HeadsConfig("last", weights="harmonised"), 8, 4)
    assert heads.joint_loss(*parts).item() == pytest.approx(15 + 3 * math.log(2)), "every scale begins at 1"


def test_losses_of_rewards_and_ends_count_signs_and_no_padding() -> None:
    rewards, ends = torch.zeros(3, 3), torch.zeros(3, 2)
    rewards[0, 2], ends[1, 1] = math.log(2), math.log(3)  # probabilities 1/2 of +1, and 3/4 of an end
    true = torch.tensor([5.0, -1.0, 0.0]), torch.tensor([False, True, True]), torch.tensor([True, True, False])
    found = [loss.item() for loss in outcome_losses(rewards, ends, *true)]
    assert found == pytest.approx([(math.log(2) + math.log(3)) / 2, (math.log(2) - math.log(3 / 4)) / 2])
    assert [loss.item() for loss in outcome_losses(rewards, ends, *true[:2], torch.zeros(3, dtype=torch.bool))] == [0, 0]


class RightHeads(torch.nn.Module):
    """Heads that read the right answer from the features: the class of the reward, and the end."""

    config = LAST

    def start(self, rows: int, like: Tensor) -> tuple[Tensor, ...]:
        return ()

    def forward(self, features: Tensor, memory: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        return 100 * torch.eye(3)[features[:, 0]], 100 * torch.eye(2)[features[:, 1]], memory

    joint_loss = OutcomeHeads.joint_loss
    log_scales = None


def test_a_predicted_frame_is_labelled_with_the_action_that_led_to_it() -> None:
    """Three past frames and two predicted ones: the actions 2 and 3 led to these."""
    rewards = torch.tensor([[9.0, 9.0, -2.0, 1.0, 9.0], [9.0, 9.0, 0.0, 7.0, 9.0]])
    ends = torch.tensor([[True, True, False, True, True], [True, True, False, False, True]])
    acted = torch.tensor([[True, True, True, True, False], [False, False, True, False, False]])
    nothing = torch.zeros(2, 5, dtype=torch.int64)
    segments = Segments(torch.zeros(2, 5, 3, 2, 2, dtype=torch.uint8), nothing, ~acted | acted, rewards, ends, acted)
    right = [torch.tensor([[0, 0], [1, 0]]), torch.tensor([[2, 1], [0, 1]])]  # the last one leads to no frame that counts

    def total(features: list[Tensor]) -> float:
        return joint_loss(RightHeads(), torch.tensor(0.25), features, segments)[0].item()  # type: ignore[arg-type]

    assert total(right) == 0.25
    assert total(right[::-1]) > 30


def test_the_heads_read_the_last_call_of_sampling_at_its_level() -> None:
    model, calls = world(LAST), []
    frames, actions = play()
    watched = model.watched(lambda x, clean, sigma: calls.append((x, sigma)))
    state = watched.start(frames, actions[:, :2], torch.ones(2, 2, dtype=torch.bool), torch.zeros_like)
    _, step = watched.step(state, actions[:, 1], torch.zeros_like)  # type: ignore[attr-defined]
    x, sigma = calls[-1]
    assert [level for _, level in calls] == sorted((level for _, level in calls), reverse=True)
    assert len(calls) == 2
    assert logits_of(model, x, sigma, frames, actions[:, :2]) == step.reward_logits.flatten().tolist()


def test_guidance_adds_calls_without_actions_that_the_heads_do_not_read() -> None:
    guided, plain = (world(LAST, OdeSampler(num_steps=1, guidance=weight), action_dropout=0.2) for weight in (3.0, 1.0))
    frames, actions = play()
    found = []
    for model in (guided, plain):
        state = model.start(frames, actions[:, :2], torch.ones(2, 2, dtype=torch.bool), torch.zeros_like)
        found.append(model.step(state, actions[:, 1], torch.zeros_like)[1])
    assert not torch.equal(found[0].frame, found[1].frame)
    assert torch.equal(found[0].reward_logits, found[1].reward_logits)  # type: ignore[arg-type]


def test_an_extra_call_sees_the_sampled_frame_at_the_stated_level() -> None:
    model, drawn = world(replace(EXTRA, memory=0)), []
    frames, actions = play()

    def draw(like: Tensor) -> Tensor:
        drawn.append(torch.full_like(like, 0.1 * len(drawn)))
        return drawn[-1]

    state = model.start(frames, actions[:, :2], torch.ones(2, 2, dtype=torch.bool), draw)
    _, step = model.step(state, actions[:, 1], draw)
    assert logits_of(model, step.frame + 0.3 * drawn[-1], 0.3, frames, actions[:, :2]) == step.reward_logits.flatten().tolist()  # type: ignore[union-attr]


@torch.no_grad()
def logits_of(model: DiamondWorld, x: Tensor, sigma: float, past: Tensor, actions: Tensor) -> list[float]:
    kept: list[Tensor] = []
    model.denoiser.denoise(x, torch.full((len(x),), sigma), past, actions, kept=kept)
    assert model.denoiser.heads is not None
    found: list[float] = model.denoiser.heads(kept[0], ())[0].flatten().tolist()
    return found


def test_a_separate_network_sees_the_transition_and_remembers_the_start() -> None:
    model = world(SEPARATE)
    frames, actions = play()
    state = model.start(frames, actions[:, :2], torch.ones(2, 2, dtype=torch.bool), torch.zeros_like)
    _, step = model.step(state, actions[:, 1], torch.zeros_like)
    assert model.separate is not None
    with torch.no_grad():
        shown, following = frames, torch.stack((frames[:, 1], step.frame), dim=1)
        whole = model.separate(shown, actions[:, :2], following).reward_logits[:, 1]
    assert torch.allclose(whole, step.reward_logits, atol=1e-5)  # type: ignore[arg-type]
    cost = FAMILY.cost(settings(SEPARATE), SPEC, SAMPLER)
    assert sum(p.numel() for network in model.networks.values() for p in network.parameters()) == cost.parameters


def test_the_cost_of_a_separate_network_counts_its_start_and_its_steps() -> None:
    """The memory of two past frames comes from one transition."""
    model, (frames, actions), counted = world(SEPARATE), play(1), []
    for steps in (0, 1):
        counter = FlopCounterMode(display=False)
        with counter, sdpa_kernel(SDPBackend.MATH):
            state = model.start(frames, actions[:, :2], torch.ones(1, 2, dtype=torch.bool), torch.zeros_like)
            if steps:
                model.step(state, actions[:, 1], torch.zeros_like)
        counted.append(counter.get_total_flops() + FUSED * (1 + steps))
    cost = FAMILY.cost(settings(SEPARATE), SPEC, SAMPLER)
    assert counted == [cost.start_flops, cost.start_flops + cost.flops_per_frame]


def test_heads_learn_rewards_and_ends_from_the_denoiser() -> None:
    """A game whose frame shows the action before it. The action is the reward, and the third action ends the game."""
    torch.manual_seed(0)
    model, draws = build_world(settings(replace(LAST, width=32)), SPEC), generator()
    (trainable,) = model.trainables(TrainingConfig(num_autoregressive_steps=0))
    optimizer = torch.optim.AdamW(trainable.network.parameters(), 1e-2)
    for _ in range(60):
        actions = torch.randint(3, (16, 3), generator=draws)
        shown = torch.cat((torch.zeros(16, 1, dtype=torch.int64), actions[:, :-1]), dim=1) * 100 + 20
        frames, yes = shown.to(torch.uint8)[..., None, None, None].expand(16, 3, 3, 16, 16), torch.ones(16, 3, dtype=torch.bool)
        loss, found = trainable.loss(Segments(frames, actions, yes, actions - 1.0, actions == 2, yes), draws)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert found["loss_reward"] < 0.3, "log(3) = 1.1 without learning"
    assert found["loss_end"] < 0.2, "0.64 without learning"


def config(heads: HeadsConfig, **training: Any) -> Any:
    return replace(CONFIG, network=replace(CONFIG.network, heads=heads), training=replace(TRAINING, num_steps=5, **training))


def trunk(folder: Path) -> dict[str, Tensor]:
    found = load_world_model(folder / "models" / "1", FrameSpec.square(16))
    assert isinstance(found, DiamondWorld)
    return found.denoiser.network.state_dict()


def test_a_stopped_gradient_leaves_the_denoiser_exactly_as_without_heads(data: Any, tmp_path: Path) -> None:
    """The clipping of gradients, too, must not couple them: gradients are above the limit here."""
    trained = {}
    for name, heads in {"none": HeadsConfig(), "stopped": replace(LAST, gradient=False), "joint": LAST}.items():
        train(tmp_path / name, config=config(heads, max_grad_norm=0.01))
        trained[name] = trunk(tmp_path / name)
    assert all(torch.equal(value, trained["stopped"][key]) for key, value in trained["none"].items())
    assert not all(torch.equal(value, trained["joint"][key]) for key, value in trained["none"].items())


@pytest.mark.parametrize(("name", "stop_after", "total"), [("extra", 3, 5), ("frames", 3, 10), ("frames", 7, 10)])
def test_an_interruption_changes_no_byte(name: str, stop_after: int, total: int, data: Any, tmp_path: Path) -> None:
    described = config(ALL[name], ema=0.5)
    train(tmp_path / "whole", config=described)
    with pytest.raises(Interrupted, match=f"update {stop_after} of {total}"):
        train(tmp_path / "parts", stop_after, described)
    train(tmp_path / "parts", config=described)
    assert artifact(tmp_path / "parts") == artifact(tmp_path / "whole")
    loaded = load_world_model(tmp_path / "whole" / "models" / "1", FrameSpec.square(16))
    assert (loaded.spec.rewards, loaded.spec.ends) == (True, True)
    assert {"extra": "heads", "frames": "reward_end"}[name] in loaded.networks


@pytest.mark.parametrize("name", ALL)
def test_the_cost_of_an_update_is_counted(name: str) -> None:
    training = TrainingConfig(num_autoregressive_steps=1, batch_size=2)
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        for trainable in world(ALL[name]).trainables(training):
            b, t = trainable.batch_size or training.batch_size, trainable.segment_length
            given = torch.zeros(b, t, 3, 16, 16, dtype=torch.uint8), torch.zeros(b, t, dtype=torch.int64)
            trainable.loss(Segments(*given, torch.ones(b, t, dtype=torch.bool)), generator())
    fused = FUSED * 3 * 3 * (name == "frames")  # three segments of four frames
    assert 3 * (counter.get_total_flops() + fused) == FAMILY.update_flops(settings(ALL[name]), SPEC, training)


@pytest.mark.parametrize("num_envs", [1, 2])
@pytest.mark.parametrize("lengths", [(3, 40, 20, 7, 9, 11), (3, 40, 20)])
def test_segments_may_end_with_the_frame_after_an_episode(num_envs: int, lengths: tuple[int, ...]) -> None:
    """Below four episodes, each is chosen in proportion to its frames, the final one included."""
    segments = sample_with_finals(replay_of(*lengths, num_envs=num_envs).episodes, 4000, 6, generator(), "recency")
    shown, number = segments.frames[:, :, 0, 0, 0].long(), segments.frames[:, :, 1, 0, 0].long()
    expected = shown[:, -1:] - 5 + torch.arange(6)
    assert torch.equal(segments.mask, expected >= 0)
    assert torch.equal(shown[segments.mask], expected[segments.mask])
    final = segments.mask & (shown == torch.tensor(lengths)[number])
    assert torch.equal(segments.acted, segments.mask & ~final)
    assert torch.equal(segments.actions, torch.where(segments.mask & ~final, (shown + number) % 4, 0))
    assert not final[:, :-1].any()
    assert {int(e) for e in number[final]} == set(range(len(lengths)))
    if len(lengths) < 4:
        shares = torch.bincount(number[:, -1]) / 4000
        assert shares.tolist() == pytest.approx([(n + 1) / 66 for n in lengths], abs=0.04)
    assert segments.ends is not None
    assert segments.ends[:, -2][final[:, -1] & (number[:, -1] == 0)].all(), "the first episode ended by its last action"
    assert not segments.ends[final].any()


AGENT = ("game=synthetic/turn", "seed=0", "agent.budget=60", "agent.initial_steps=40", "agent.max_initial_steps=40")
WORLD = ("network.depths=[1]", "network.channels=[8]", "network.attention=[false]", "sampler.num_steps=1")
HEADS = ("network.heads.reads=last", "network.heads.width=8", "network.heads.memory=4")


def test_an_agent_learns_from_its_denoisers_rewards_and_an_interruption_changes_no_byte(tmp_path: Path) -> None:
    described = small_joint_agent()
    whole = train_agent.run(described, JobContext(tmp_path / "whole"))
    run_through(described, tmp_path / "parts", stopping_at([50, 90]))
    assert same(tmp_path / "whole", tmp_path / "parts")
    agent = load_agent(tmp_path / "whole" / "agent")
    assert agent.reward_end is None
    assert agent.world_model is not None
    assert agent.world_model.spec.rewards
    count, done = updates(described), whole.info["updates"]
    assert done == {"actor_critic": count.actor_critic, "denoiser": count.denoiser}
    assert count.reward_end == 0


def test_a_network_of_an_agents_world_model_may_have_its_own_optimiser(monkeypatch: pytest.MonkeyPatch) -> None:
    own, trainables = RewardEndConfig(warmup_steps=0, learning_rate=0.25), DiamondWorld.trainables
    monkeypatch.setattr(DiamondWorld, "trainables", lambda self, training: [replace(t, optimizer=own) for t in trainables(self, training)])
    replay = replay_of(9, 9, size=16)
    replay.storage.actions.zero_()
    learners = Learners(small_joint_agent(), torch.device("cpu"), replay, generator())
    learners.update("denoiser")
    assert learners._learners["denoiser"].rate == 0.25


def small_joint_agent() -> Any:
    small = ("scale=tiny", "env.frame_size=16", "agent.test_every=0", "actor_critic.channels=[8]", "actor_critic.down=[true]")
    plan = plan_train([*small, *AGENT, *WORLD, *HEADS])
    return next(spec.config for spec in plan.jobs.values() if spec.kind == "train_agent")


@pytest.mark.parametrize(
    ("arm", "tokens", "words"),
    [
        ("network.heads.sigma: 0.3", (), ["network.heads.sigma", "no effect", "network.heads.reads=none"]),
        ("network.heads.reads: last, network.heads.sigma: 0.3", (), ["network.heads.sigma", "network.heads.reads=last"]),
        ("network.heads.reads: last, network.heads.lstm.lstm_dim: 8", (), ["heads.lstm.lstm_dim", "network.heads.reads=last"]),
        ("network.heads.reads: frames, network.heads.width: 8", (), ["network.heads.width", "network.heads.reads=frames"]),
        (
            "network.heads.reads: last, network.heads.gradient: false, network.heads.weights: harmonised",
            (),
            ["network.heads.weights", "network.heads.gradient=false"],
        ),
        (
            "network.heads.reads: last, network.heads.weights: harmonised, network.heads.end_weight: 2.0",
            (),
            ["network.heads.end_weight", "network.heads.weights=harmonised"],
        ),
        (
            "network.heads.reads: last, network.heads.memory: 8, training.num_autoregressive_steps: 0",
            (),
            ["network.heads.memory=8", "training.num_autoregressive_steps"],
        ),
        ("network.heads.reads: last, execution.sampling_streams: 2", (), ["sampling_streams=2", "network.heads.reads=extra"]),
        (
            "network.heads.reads: last, conditioning: cross_attention, execution.encode_past: once",
            (),
            ["execution.encode_past=once", "network.heads.reads=last", "every_call"],
        ),
        ("network.heads.reads: extra, network.heads.sigma: 90.0", (), ["network.heads.sigma=90", "to 20"]),
        ("network.heads.reads: frame", (), ["network.heads.reads='frame'", "frames"]),
        ("family: cascade, sampler: fast, family.inner.network.heads.reads: last", (), ["family.inner.network.heads.reads=last", "none"]),
        ("network.heads.reads: none", ("evaluation.metrics=[outcomes]",), ["outcomes", "network.heads.reads to last, extra or frames"]),
    ],
)
def test_settings_that_make_no_sense_are_refused_at_planning(arm: str, tokens: tuple[str, ...], words: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        plan_study(study(tmp_path, f"a: {{{arm}}}"), [*(token for token in TINY if not token.startswith("metrics=")), *tokens])
    for word in words:
        assert word in str(error.value)


def test_agents_and_profiles_refuse_what_they_cannot_use() -> None:
    with pytest.raises(UserError, match=r"network\.heads\.reads=frames: an agent has that network \(reward_end\)"):
        plan_train(["scale=tiny", *AGENT, "network.heads.reads=frames"])
    with pytest.raises(UserError, match=r"reward_end\.\w+: it has no effect with network\.heads\.reads=last"):
        small_agent_config(*AGENT, "network.heads.reads=last")
    with pytest.raises(UserError, match=r"network\.heads\.reads=last: a profile measures"):
        plan_profile(["scale=tiny", "network.heads.reads=last"], None, lambda device: ("cpu", "a CPU"))


def test_equal_trainings_have_one_identity(tmp_path: Path) -> None:
    arms = "a: {}, b: {network.heads.reads: none}, c: {network.heads.reads: last}, d: {network.heads.reads: frames}"
    plan = plan_study(study(tmp_path, arms, game=TURN), list(TINY))
    trainings = {point.variant: point.jobs["world_model"] for point in plan.points}
    assert trainings["a"] == trainings["b"]
    assert len(set(trainings.values())) == 3
