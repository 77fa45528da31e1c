"""Agents whose policy sees the reconstructions of a token model's tokenizer, in the game and where imagined games start."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_agents import small_agent_config
from test_family_agents import RUN, SMALL
from test_play_session import lane, played, setting, start_of
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from diamond_bench.agent import Agent, build_agent, load_agent, save_agent
from diamond_bench.costs.train_agent import agent_work, updates
from diamond_bench.data.replay import Replay
from diamond_bench.data.segments import to_float
from diamond_bench.diffusion.quantization import from_bytes
from diamond_bench.errors import UserError
from diamond_bench.evaluation.player import PolicyPlayer, WatchingPolicy
from diamond_bench.jobs.agent_learners import Learners, describe
from diamond_bench.jobs.agent_play import RealPlay
from diamond_bench.models.actor_critic import ViewingPolicy
from diamond_bench.store.kinds import TrainAgent
from diamond_bench.studies.single import plan_train
from diamond_bench.training.means import Means

SEES = "actor_critic.observations=reconstructions"


def config(*more: str) -> TrainAgent:
    return small_agent_config(*RUN, "family=tokens", *SMALL["tokens"], *more)


def agent_of(settings: TrainAgent) -> Agent:
    """With weights that react to what they see."""
    torch.manual_seed(0)
    agent = build_agent(describe(settings))
    for parameter in agent.actor_critic.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return agent


def decoded(agent: Agent, frames: Tensor) -> Tensor:
    """Each code's picture, by hand."""
    world: Any = agent.world_model
    shown = world.tokenizer.decode(world.tokenizer.encode(frames).tokens).clamp(-1, 1)
    return ((shown + 1) / 2 * 255).round() / 255 * 2 - 1


@torch.no_grad()
def test_the_policy_sees_reconstructions_of_the_real_game_also_after_it_is_stored(tmp_path: Path) -> None:
    agent, plain = agent_of(config(SEES)), agent_of(config())
    assert plain.policy is plain.actor_critic
    save_agent(agent, tmp_path / "agent")
    frames = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    on_grid = from_bytes(torch.from_numpy(frames).permute(0, 3, 1, 2))
    assert not torch.equal(decoded(agent, on_grid), on_grid)
    expected = agent.actor_critic(decoded(agent, on_grid), agent.actor_critic.initial_state(2))
    for one in (agent, load_agent(tmp_path / "agent")):
        player = PolicyPlayer(one.policy)
        logits, (h, _) = player(frames, player.initial_state(2))
        torch.testing.assert_close(logits, expected.logits)
        torch.testing.assert_close(h, expected.state[0])
        burnt = one.policy.burn_in(on_grid[None], one.policy.initial_state(1))
        two_steps = agent.actor_critic.burn_in(decoded(agent, on_grid)[None], agent.actor_critic.initial_state(1))
        torch.testing.assert_close(burnt, two_steps)
    watching = WatchingPolicy(agent.policy, np.random.default_rng(0))
    watching.see(frames[0])
    watching(None, 0)
    torch.testing.assert_close(watching._state[0], expected.state[0][:1])


def same_frames(found: Tensor, expected: Tensor) -> None:
    """Up to the rounding of another batch size, which may move a value by one grey level."""
    torch.testing.assert_close(found, expected, atol=2 / 255 + 1e-6, rtol=0)


def test_imagined_games_begin_with_reconstructions_and_the_game_is_played_on_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Collection shows the policy decoded frames alone, and so does the imagination, whose memory of padding stays empty."""
    settings = config(SEES, "actor_critic.start_frames=3", "actor_critic.horizon=2")
    generator = torch.Generator().manual_seed(0)
    replay = Replay(60, 16, torch.device("cpu"))
    torch.manual_seed(0)
    learners = Learners(settings, torch.device("cpu"), replay, generator)
    seen: list[Tensor] = []
    policy = learners.agent.actor_critic
    policy.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    RealPlay(settings, learners, replay).collect(40, Means(torch.device("cpu")))
    true = from_bytes(replay.storage.frames[:40])
    same_frames(torch.cat(seen)[:40], decoded(learners.agent, true))
    env: Any = learners._imagination
    starts: list[Any] = []
    hand_out = env._ring.hand_out

    def noted(*given: Any) -> Any:
        starts.append(hand_out(*given))
        return starts[-1]

    monkeypatch.setattr(env._ring, "hand_out", noted)
    first, _ = env.reset()
    segments = starts[-1][0].segments
    same_frames(first, decoded(learners.agent, to_float(segments)[:, -1]))
    viewed: list[int] = []
    view = env._view
    monkeypatch.setattr(env, "_view", lambda frames: (viewed.append(len(frames)), view(frames))[1])
    monkeypatch.setattr(env._draws, "end", lambda logits: torch.zeros(len(logits), dtype=torch.bool))
    _, _, _, truncated, _ = env.step(torch.zeros(len(first), dtype=torch.int64))
    assert not truncated.any()
    assert not viewed, "no game begins, so no start is encoded"
    frames, _, _, truncated, infos = env.step(torch.zeros(len(first), dtype=torch.int64))
    assert truncated.all()
    assert viewed == [3 * len(first)]
    segments = starts[-1][0].segments
    real = to_float(segments)
    same_frames(frames, decoded(learners.agent, real[:, -1]))
    mask = segments.mask[:, :-1, None, None, None]
    expected = decoded(learners.agent, real[:, :-1].flatten(0, 1)).unflatten(0, (len(real), 2)) * mask
    same_frames(infos["burn_in"], expected)
    levels = (infos["final_obs"] + 1) * 127.5
    assert (levels - levels.round()).abs().max() < 1e-3


def test_the_cost_of_an_agent_counts_the_reconstructions_where_games_begin() -> None:
    more = "actor_critic.start_frames=3"
    settings, counter = config(SEES, more), FlopCounterMode(display=False)
    world: Any = agent_of(settings).world_model
    with counter, sdpa_kernel(SDPBackend.MATH):
        world.reconstruct(torch.zeros(1, 3, 16, 16))
    trained = settings.actor_critic
    rows = trained.steps_per_update * trained.batch_size * updates(settings).actor_critic
    assert agent_work(settings) - agent_work(config(more)) == pytest.approx(3 * counter.get_total_flops() * rows)


def test_a_watching_policy_sees_the_padding_of_a_start_as_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    agent, seen = agent_of(config(SEES)), []
    burn_in = agent.actor_critic.burn_in
    monkeypatch.setattr(agent.actor_critic, "burn_in", lambda frames, state: (seen.append(frames), burn_in(frames, state))[1])
    start = start_of(played())
    start = replace(start, mask=torch.tensor([False, False, True, True]))
    replace(lane("model"), policy=agent.policy).begin(start, (0,))
    (frames,) = seen
    assert frames.abs().flatten(2).amax(2).gt(0).tolist() == [[False, False, True]]


def test_a_watching_policy_sees_decoded_frames_of_imagination_once() -> None:
    agent = agent_of(config(SEES))
    policy = agent.policy
    assert isinstance(policy, ViewingPolicy)
    counted: list[int] = []

    def view(frames: Tensor) -> Tensor:
        counted.append(len(frames))
        return policy.view(frames)

    counting = replace(policy, view=view)
    for is_decoded, times in ((False, [3, 1, 1]), (True, [3, 1])):
        counted.clear()
        watched = replace(lane("model"), policy=counting, decoded=is_decoded)
        memory, shown = watched.begin(start_of(played()), (0,))
        watched.step(memory, shown, np.array(1), (0, 1), setting(2))
        assert counted == times


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (("family=transformer", *SMALL["transformer"]), ["family=transformer has no tokenizer", "family=tokens"]),
        ((), ["family=diamond has no tokenizer", "actor_critic.observations=frames"]),
        (("family=tokens", *SMALL["tokens"], "agent.collection=concurrent"), ["agent.collection=concurrent", "sequential"]),
    ],
)
def test_agents_without_a_fixed_tokenizer_are_refused(tokens: tuple[str, ...], words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        small_agent_config(*RUN, *tokens, SEES)
    for word in words:
        assert word in str(error.value)


def test_a_model_free_agent_is_refused() -> None:
    with pytest.raises(UserError, match=r"actor_critic\.observations: a model-free agent"):
        plan_train(["game=synthetic/turn", "scale=tiny", "agent.model_free=true", SEES])
