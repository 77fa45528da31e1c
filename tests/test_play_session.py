"""Sessions of play: lanes in lock-step, rewinding and branches, settings changed in play, predictions, drift and the steps of denoising."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from episode_sets import episode_set
from small_agents import small_agent_config
from stand_ins import CountingReward, CountingWorld, counting_frames, reward_of
from test_worlds import ENV, TURN, Played, case, played

from diamond_bench.agent import build_agent
from diamond_bench.config import OdeSampler
from diamond_bench.diffusion.quantization import from_bytes, to_bytes
from diamond_bench.envs.games import spec
from diamond_bench.errors import UserError
from diamond_bench.evaluation.player import PolicyPlayer
from diamond_bench.evaluation.rollouts import seeded_draw
from diamond_bench.jobs.agent_learners import describe
from diamond_bench.play.lanes import Imagined, Lane, Real, Setting, Start
from diamond_bench.play.session import MOST_LANES, Session
from diamond_bench.play.sources import start_at, trained, untrained
from diamond_bench.spaces import FrameSpec
from diamond_bench.worlds.copy_last_frame import CopyLastFrame
from diamond_bench.worlds.diamond.world import DiamondWorld, build_diamond
from diamond_bench.worlds.families import open_world
from diamond_bench.worlds.oracle import Oracle

CPU = torch.device("cpu")
CALM = replace(ENV, minority_share=0.0)
"""Without chance, a game's future follows from its actions."""


def start_of(play: Played, number: int = 0, seen: int = 4) -> Start:
    frames, actions = torch.from_numpy(play.frames[number, :seen].copy()), torch.from_numpy(play.actions[number, :seen].copy())
    return Start(frames, actions, torch.ones(seen, dtype=torch.bool), (number, seen - 1))


@cache
def diamond() -> DiamondWorld:
    world = case("diamond").open()
    assert isinstance(world, DiamondWorld)
    return world


def setting(num_steps: int) -> Setting:
    return Setting(OdeSampler(num_steps=num_steps))


def lane(name: str, num_steps: int = 2) -> Lane:
    world, first = diamond(), setting(num_steps)
    return Lane(name, trained(lambda milestone: world, first, OdeSampler()))


def session_of(*lanes: Lane, **options: int) -> Session:
    return Session(lanes or (lane("model"),), start_of(played()), **options)


def shown(session: Session, lane: int = 0) -> list[np.ndarray]:
    return [moment.shown[lane].frame for moment in session.now.path]


def play(session: Session, actions: Sequence[int]) -> None:
    for action in actions:
        session.step(action)


def test_the_model_and_the_real_game_stay_in_step_for_200_frames() -> None:
    """Without chance, the game's true future is the one that was recorded."""
    recorded = played(TURN, CALM, 204, 1)
    copies = open_world(CopyLastFrame(), spec(TURN, CALM), CPU)
    session = Session([Lane("copy", untrained(copies)), Lane("game", Real(recorded))], start_of(recorded))
    for step in range(200):
        moment = session.step(int(recorded.actions[0, 3 + step]))
        assert np.array_equal(moment.shown[1].frame, recorded.frames[0, 4 + step]), step
        assert np.array_equal(moment.shown[0].frame, recorded.frames[0, 3])
    assert moment.step == 200
    true, drift = recorded.frames[0, 203], session.drift(0, 1)
    apart = np.abs(true.astype(int) - recorded.frames[0, 3])
    assert np.array_equal(drift.difference, apart)
    assert drift.squared_error == pytest.approx(np.mean((apart / 255) ** 2))
    assert session.drift(1, 1).psnr == float("inf")


def test_lanes_have_the_same_noise_and_their_own_settings() -> None:
    session = session_of(lane("a"), lane("b"), lane("c", 1))
    play(session, [0, 1, 2])
    assert all(np.array_equal(a, b) for a, b in zip(shown(session, 0), shown(session, 1), strict=True))
    assert not np.array_equal(session.now.shown[0].frame, session.now.shown[2].frame)
    other = session_of(seed=1)
    play(other, [0, 1, 2])
    assert not np.array_equal(session.now.shown[0].frame, other.now.shown[0].frame)


def test_a_step_is_that_of_the_world_with_the_sampler_of_the_moment() -> None:
    """A change of n holds from the next frame on. The noise of frame t has the seed (session, t)."""
    session, world, start = session_of(), diamond(), start_of(played())
    play(session, [1, 2])
    session.change(0, setting(3))
    play(session, [0])
    state = world.start(from_bytes(start.frames)[None], start.actions[None], start.mask[None], seeded_draw([(0, 0)], CPU))
    for step, (action, n) in enumerate([(1, 2), (2, 2), (0, 3)], start=1):
        state, found = world.bound(OdeSampler(num_steps=n)).step(state, torch.tensor([action]), seeded_draw([(0, step)], CPU))
        assert np.array_equal(to_bytes(found.frame)[0].numpy(), shown(session)[step])
    assert [moment.settings[0].sampler.num_steps for moment in session.now.path[1:]] == [2, 2, 3]


@pytest.mark.parametrize("memory_bytes", [1, 2**20])
def test_rewinding_and_going_on_in_the_same_way_gives_the_same_frames(memory_bytes: int) -> None:
    """Also where the memories of the moment were dropped, and in the real game."""
    actions = [int(action) for action in np.random.default_rng(0).integers(3, size=20)]
    whole = session_of(lane("model"), Lane("game", Real(played())))
    play(whole, actions)
    session = session_of(lane("model"), Lane("game", Real(played())), memory_bytes=memory_bytes)
    play(session, actions[:13])
    session.rewind(8)
    assert session.now.step == 5
    play(session, [(actions[5] + 1) % 3, *actions[6:10]])  # another branch
    branch = session.now
    assert not np.array_equal(branch.shown[0].frame, whole.now.path[10].shown[0].frame)
    session.go(13)
    play(session, actions[13:])
    for which in range(2):
        assert all(np.array_equal(a, b) for a, b in zip(shown(session, which), shown(whole, which), strict=True))
    kept = [moment for moment in session.moments[1:] if moment.memories is not None]
    assert len(kept) == (1 if memory_bytes == 1 else len(session.moments) - 1)
    session.go(branch.number)
    assert [moment.action.tolist() for moment in session.now.path[1:]] == [*actions[:5], (actions[5] + 1) % 3, *actions[6:10]]


def test_a_step_that_was_played_is_found_again() -> None:
    session = session_of()
    play(session, [0, 1])
    last = session.now
    session.rewind(1)
    assert session.step(1) is last
    session.rewind(5)
    assert session.now.number == 0
    session.seed = 7
    session.step(0)
    assert session.now.number == 3


def test_denoising_shows_every_call_of_the_present_frame() -> None:
    session = session_of(lane("model", 3), lane("guided"))
    play(session, [0, 1])
    steps = session.denoising(0)
    assert len(steps) == 3
    assert [step.sigma for step in steps] == sorted((step.sigma for step in steps), reverse=True)
    difference = steps[-1].clean.astype(int) - session.now.shown[0].frame  # the last step goes to the estimate; quantising truncates
    assert np.abs(difference).max() <= 1
    session.change(0, setting(1))
    assert len(session.denoising(0)) == 3
    play(session, [0])
    assert len(session.denoising(0)) == 1


def test_rewards_and_ends_are_those_of_the_model_that_predicts_them() -> None:
    """The frames count, and rewards and ends follow from the count."""
    counts = torch.tensor([0, 1, 1, 3])
    start = Start(counting_frames(counts), torch.tensor([1, 0, 2, 0]), torch.ones(4, dtype=torch.bool))
    world = CountingWorld()
    session = Session([Lane("counter", Imagined(lambda _: world, world.spec.actions, reward_end=CountingReward()))], start)
    total, ended = 3, []
    for action in [2, 1, 0, 2, 2, 1, 2]:
        total += action
        now = session.step(action).shown[0]
        assert now.frame[0, 0, 0] == total
        assert now.reward == reward_of(torch.tensor(total)).sign()
        assert now.reward_probabilities == pytest.approx([float(now.reward == sign) for sign in (-1, 0, 1)])
        ended.append(now.ended)
    assert total == 13
    assert ended == [False] * 6 + [True]
    assert now.end_probability == pytest.approx(1.0)
    memories = session.now.memories
    assert memories is not None
    state = memories[0].outcome
    assert state[0].item() == 3 + 7  # the transitions of the start, then one at each step


def test_a_policy_watches_each_frame_once_and_plays() -> None:
    torch.manual_seed(0)
    policy = build_agent(describe(small_agent_config(f"game={TURN}"))).actor_critic
    for parameter in policy.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    session = session_of(replace(lane("model"), policy=policy))
    taken = []
    for _ in range(4):
        taken.append(session.policy_action(0))
        session.step(taken[-1])
    player = PolicyPlayer(policy)
    frames = [*start_of(played()).frames.numpy()[:-1], *shown(session)]
    state = player.initial_state(1)
    for frame in frames:
        logits, state = player(frame.transpose(1, 2, 0)[None], state)
    said = session.now.shown[0].policy
    assert said.probabilities == pytest.approx(logits[0].softmax(0).tolist(), abs=1e-5)
    assert said.entropy == pytest.approx(float(torch.distributions.Categorical(logits=logits[0]).entropy()) / np.log(2), abs=1e-4)
    session.rewind(4)
    for action in taken:
        assert session.policy_action(0) == action
        session.step(action)


def test_the_real_game_counts_its_own_rewards() -> None:
    session = session_of(Lane("game", Real(played())))
    for _ in range(12):
        now = session.step(1).shown[0]
        cells = now.frame[:, ::2, ::2]  # a pixel per cell
        walker, player = _columns(cells)
        assert now.reward == float(walker == player)
    assert now.reward_probabilities is None
    assert now.lives == 0


def _columns(cells: np.ndarray) -> tuple[int, int]:
    walker = np.argwhere((cells == 255).all(axis=0))[0][1]
    player = np.argwhere((cells == np.array([0, 158, 115])[:, None, None]).all(axis=0))
    return int(walker), int(player[0][1])


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda s: s.step(3), r"action 3: expected one of Discrete\(3\)"),
        (lambda s: s.step(-1), "action -1"),
        (lambda s: s.step([0]), r"action \[0\]"),
        (lambda s: s.step(0.5), "action 0.5"),
        (lambda s: s.go(9), "moments 0 to 1"),
        (lambda s: s.rewind(-1), "rewind by -1"),
        (lambda s: s.change(1, setting(1)), "the real game has no settings"),
        (lambda s: s.change(0, Setting(OdeSampler(guidance=2.0))), "action_dropout"),
        (lambda s: s.policy_action(0), "model: there is no policy"),
        (lambda s: s.denoising(1), "game: it samples nothing"),
    ],
)
def test_mistakes_change_nothing(attempt: object, message: str) -> None:
    session = session_of(lane("model"), Lane("game", Real(played())))
    session.step(0)
    before = session.now, session.settings
    with pytest.raises(UserError, match=message):
        attempt(session)  # type: ignore[operator]
    assert (session.now, session.settings) == before
    assert len(session.moments) == 2


def test_lanes_that_cannot_play_together_are_refused() -> None:
    with pytest.raises(UserError, match=f"expected 1 to {MOST_LANES}"):
        session_of(*(lane(str(number)) for number in range(MOST_LANES + 1)))
    with pytest.raises(UserError, match="expected different names"):
        session_of(lane("same"), lane("same"))
    with pytest.raises(UserError, match="expected models of one game"):
        session_of(lane("model"), Lane("other", Imagined(lambda _: diamond(), spec("Breakout", ENV).actions)))


def test_a_full_session_says_so() -> None:
    session = session_of(frame_bytes=3 * 3 * 16 * 16)
    play(session, [0, 1])
    with pytest.raises(UserError, match="holds 3 frames"):
        session.step(2)
    assert session.now.number == 2


def test_the_weights_change_with_the_milestone_and_each_is_loaded_once() -> None:
    loaded = []

    def load(milestone: float | None) -> DiamondWorld:
        loaded.append(milestone)
        if milestone == 0.3:
            raise UserError("milestone=0.3: kept 0.5, 1.0")
        torch.manual_seed(0)
        world = build_diamond(diamond().description, FrameSpec.square(16))
        for parameter in world.denoiser.parameters():
            torch.nn.init.normal_(parameter, std=0.2 if milestone is None else 0.1)
        return world

    first = setting(2)
    session = session_of(Lane("model", trained(load, first, OdeSampler())))
    assert loaded == [None]
    session.change(0, replace(first, milestone=0.5))
    session.step(0)
    session.rewind(1)
    session.change(0, replace(setting(1), milestone=0.5))
    session.step(0)
    session.rewind(1)
    session.change(0, first)
    session.step(0)
    a, b, c = (moment.shown[0].frame for moment in session.moments[1:])
    assert not np.array_equal(a, b)
    assert not np.array_equal(a, c)
    assert np.array_equal(c, session_of().step(0).shown[0].frame)  # the same weights as the stand-in's
    with pytest.raises(UserError, match=r"kept 0\.5"):
        session.change(0, replace(first, milestone=0.3))
    assert loaded == [None, 0.5, 0.3]
    assert session.settings == (first,)


def test_an_atari_game_is_rewound_to_the_same_screens() -> None:
    """The emulator's state is saved at each frame. Boxing is scored as the game scores it."""
    env = replace(ENV, frame_size=64)
    recorded = played("Boxing", env, 12, 1)
    actions = [int(action) for action in recorded.actions[0, 3:11]]
    session = Session([Lane("game", Real(recorded))], start_of(recorded))
    play(session, actions)
    assert all(np.array_equal(frame, recorded.frames[0, 3 + step]) for step, frame in enumerate(shown(session)))
    session.rewind(6)
    play(session, [(actions[2] + 1) % 3, 2, 2, 2])
    session.go(2)
    again = Session([Lane("game", Real(recorded))], start_of(recorded))
    play(again, actions)
    session.moments[2].following.clear()  # so that the steps are played again
    play(session, actions[2:])
    assert all(np.array_equal(a, b) for a, b in zip(shown(session), shown(again), strict=True))


def test_starts_are_places_in_recorded_episodes() -> None:
    episodes = episode_set(5, 4)
    start = start_at(episodes, 1, 2, 2)
    first = int(episodes.starts[1])
    assert torch.equal(start.frames, episodes.frames[first + 1 : first + 3])
    assert start.place == (1, 2)
    early = start_at(episodes, 1, 0, 3)
    assert early.mask.tolist() == [False, False, True]
    assert torch.equal(early.frames[2], episodes.frames[first])
    assert not early.frames[:2].any()
    with pytest.raises(UserError, match="episode 2: there are the episodes 0 to 1"):
        start_at(episodes, 2, 0, 2)
    with pytest.raises(UserError, match=f"has the steps 0 to {int(episodes.lengths[1]) - 2}"):
        start_at(episodes, 1, int(episodes.lengths[1]) - 1, 2)


def test_the_oracle_and_the_real_game_share_their_chance() -> None:
    """Both draw from the seed of the start, so they stay equal in a random game. Another seed gives another future."""
    oracle = open_world(Oracle(), spec(TURN, ENV), CPU, played())
    session = session_of(Lane("oracle", untrained(oracle)), Lane("game", Real(played())))
    other = session_of(Lane("game", Real(played())), seed=1)
    for _ in range(40):
        session.step(0)
        other.step(0)
        assert session.drift(0, 1).squared_error == 0
        assert session.now.shown[0].reward == session.now.shown[1].reward
    assert any(not np.array_equal(a, b) for a, b in zip(shown(session, 1), shown(other), strict=True))
