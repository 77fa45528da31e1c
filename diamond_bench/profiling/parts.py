"""The parts of a training as pieces of work that can be timed: the job's own updates and imagination, on random data."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from diamond_bench.costs import frames_of
from diamond_bench.costs.world_model import call_flops
from diamond_bench.data.replay import Replay
from diamond_bench.data.segments import to_float
from diamond_bench.diffusion.schedules import nfe
from diamond_bench.envs.games import num_actions
from diamond_bench.envs.play import Steps
from diamond_bench.imagination.env import GeneratorDraws, ImaginationEnv, record_steps
from diamond_bench.imagination.starts import ReplayStarts
from diamond_bench.jobs.agent_learners import Learners, imagination_settings
from diamond_bench.jobs.agent_play import RealPlay
from diamond_bench.jobs.execution import Execution
from diamond_bench.models.actor_critic_cost import actor_critic_cost
from diamond_bench.models.graphs import Graphed
from diamond_bench.models.reward_end_cost import reward_end_cost
from diamond_bench.models.reward_end_model import RewardEndModel
from diamond_bench.models.shape import NUM_REWARDS
from diamond_bench.profiling.timing import MAX_CALLS, MAX_ROUNDS, Work
from diamond_bench.spaces import ActionSpec
from diamond_bench.store.kinds import TrainAgent
from diamond_bench.training.actor_critic import Rollout, actor_critic_loss
from diamond_bench.training.learner import Learner
from diamond_bench.training.means import Means
from diamond_bench.training.rollout import Carry, collect_rollout, reset_memory, sampled, start

_EPISODE = 200
"""Steps of a random episode."""
_TRAINED = 3.0
"""FLOP of an update in forward passes: a backward pass counts as two, as in `costs.train_agent`."""
_BACKWARD = 2.0
_LOADED = {"cpu": 128, "cuda": 1024}
"""Start segments that are loaded in a timing, 128 burnt in at once (`imagination.starts`): enough to make the fixed cost small."""
GRAPH_CALLS = Graphed.WARM_UP + 3
"""Calls after which CUDA graphs are recorded: the sampling's first, the warm-up, the recording, and a replay."""
_REAL_STEPS = 100
"""Maximum number of real steps of one timing."""


def random_replay(config: TrainAgent, device: torch.device) -> Replay:
    """A replay as large as that of a finished training, with random frames, actions and rewards. An episode ends every 200 steps."""
    size, budget, rng = config.env.frame_size, config.agent.budget, np.random.default_rng(config.seed)
    replay = Replay(budget, size, device)
    for first in range(0, budget, _EPISODE):
        n = min(_EPISODE, budget - first)
        frames = rng.integers(256, size=(n, size, size, 3), dtype=np.uint8)
        actions = rng.integers(num_actions(config.game), size=n)
        rewards = rng.choice([-1.0, 0.0, 1.0], n, p=[0.05, 0.9, 0.05]).astype(np.float32)
        ends = np.arange(n) == n - 1
        replay.append(0, Steps(frames, actions, rewards, ends, np.zeros(n, bool), frames))
    return replay


def flop_of(config: TrainAgent, device_type: str) -> dict[str, float]:
    """FLOP of each part that is dominated by networks, by the part's name, counted as in planning. Only networks count.

    On CUDA a rollout resets the policy's memory of all games at every step, finished or not (`collect_rollout`'s all_rows). On the CPU it
    does so only at the end of their horizon. Gradient flows through the burn-in of a reset, unless it is a rollout's last step.
    """
    c, frames, actions = config, frames_of(config), ActionSpec.discrete(num_actions(config.game))
    denoise = call_flops(c, frames)
    reward_end = reward_end_cost(c.reward_end, actions, frames).flops
    act = actor_critic_cost(c.actor_critic, actions, frames).flops
    imagined, steps, horizon, calls = c.actor_critic.batch_size, c.actor_critic.steps_per_update, c.actor_critic.horizon, nfe(c.sampler)
    terms, burnt_in = c.training.num_autoregressive_steps + 1, _start_length(c) - 1
    step = imagined * (calls * denoise + reward_end + act)
    cuda = device_type == "cuda"
    renewal = imagined * act * (1 + burnt_in) * (1.0 if cuda else 1 / horizon)
    with_gradient = steps - 1.0 if cuda else steps / horizon - steps / math.lcm(steps, horizon)
    backward = _BACKWARD * imagined * act * (steps + with_gradient * burnt_in)
    value_after = imagined * act
    return {
        "denoiser_update": _TRAINED * terms * c.training.batch_size * denoise,
        "reward_end_update": _TRAINED * c.reward_end.batch_size * (c.reward_end.segment_length - 1) * reward_end,
        "actor_critic_update": steps * (step + renewal) + value_after + backward,
        "imagination_step": step,
        "next_frame": imagined * calls * denoise,
        "denoiser_call": imagined * denoise,
        "reward_and_end": imagined * reward_end,
        "action": imagined * act,
        "renewal": renewal,
        "loss_and_backward": backward,
        "start_segments": segments_per_update(config) * burnt_in * reward_end,
    }


def segments_per_update(config: TrainAgent) -> float:
    """Start segments that an update of the policy consumes if no imagined episode ends before its horizon."""
    settings = config.actor_critic
    return settings.batch_size * settings.steps_per_update / settings.horizon


def _start_length(config: TrainAgent) -> int:
    return max(config.conditioning.num_frames, config.actor_critic.start_frames)


class Parts:
    """One execution of a training's parts: its own networks and optimisers, over a replay that all executions share."""

    def __init__(
        self, config: TrainAgent, device: torch.device, replay: Replay, execution: Execution | None = None, contiguous: bool = False
    ) -> None:
        """`execution`: by default the one that config.execution resolves to. `contiguous`: keep convolutions' weights in PyTorch's own
        layout, whatever `build_agent` chose."""
        settings = config.actor_critic
        self._whole_ring = settings.preload
        self._config = replace(config, actor_critic=replace(settings, preload=settings.steps_per_update))
        # a ring of the config's size would burn in thousands of start segments before the first update; their cost is measured separately
        self._device = device
        torch.manual_seed(config.seed)
        self.learners = Learners(self._config, device, replay, torch.Generator(device).manual_seed(config.seed), execution)
        agent = self.learners.agent
        assert agent.world_model is not None
        assert agent.reward_end is not None
        if contiguous:
            for network in agent.networks.values():
                network.to(memory_format=torch.contiguous_format)
        never_end(agent.reward_end)
        self._policy, self._world, self._reward_end = agent.actor_critic, agent.world_model.bound(config.sampler), agent.reward_end
        own = torch.Generator(device).manual_seed(config.seed)  # the imagination below reseeds it
        self._own, self._draws, self._draw = own, GeneratorDraws(own), sampled(own)
        self._env = self._imagination(replay)
        self._env.reset()
        self._step = self._env.step(torch.zeros(config.actor_critic.batch_size, dtype=torch.int64, device=device))
        self.works = {
            "denoiser_update": Work(partial(self.learners.update, "denoiser")),
            "reward_end_update": Work(partial(self.learners.update, "reward_end")),
            "actor_critic_update": Work(partial(self.learners.update, "actor_critic"), self._prepare_updates),
            "imagination_step": Work(self.imagine, self.prepare),
            **self._step_works(replay),
            "renewal": self._memory_reset(),
            "loss_and_backward": self._loss_and_backward(),
            "start_segments": Work(lambda: self._env.reset(seed=config.seed)),
            "real_step": self._real_steps(),
        }
        self.each = {
            "renewal": 1 / config.actor_critic.horizon,
            "start_segments": segments_per_update(config) / self._loaded,
            "real_step": 1 / self._collected,
        }
        """Factor that converts a call of a work to one occurrence of the part, where it is not 1."""
        self._carry = start(self._policy, self._env)

    def first_descent(self) -> None:
        """An update of the policy that costs almost nothing, after which its gradients and Adam's moments are allocated."""
        output = self._policy(self._carry.frames, self._policy.initial_state(len(self._carry.frames), self._device))
        self.learners.learn_from(output.logits.mean() + output.value.mean())

    def rest_of_the_ring(self) -> Tensor:
        """Memory of the same size as the start segments by which a training's ring exceeds the one built here."""
        settings, segment = self._config.actor_critic, _start_length(self._config) * 8 + 2 * self._config.reward_end.lstm_dim * 4
        batches = max(0, self._whole_ring - settings.preload) * (2 if settings.discard_left_overs else 1)
        return torch.ones(batches * settings.batch_size * segment, dtype=torch.uint8, device=self._device)

    def compiled(self) -> dict[int, int]:
        """Number of first calls of each compiled network."""
        networks = self.learners.compilable
        return {number: network.compiled.first_calls for number, network in enumerate(networks) if network.compiled is not None}

    def compile_seconds(self) -> float | None:
        """Seconds of those first calls; None if nothing is compiled."""
        compiled = [network.compiled for network in self.learners.compilable if network.compiled is not None]
        return sum(one.seconds for one in compiled) if compiled else None

    def _prepare_updates(self, calls: int) -> None:
        """Loads the start segments for this number of updates, so that no timing includes loading."""
        self.learners.prepare(calls)

    def _imagination(self, replay: Replay) -> ImaginationEnv:
        """The learners' imagination with fewer start segments: at most as many as are burnt in at once, or as the calls of one timing may
        take."""
        config, settings = self._config, self._config.actor_critic
        blocks = 2 if settings.discard_left_overs else 1
        preload = max(blocks * MAX_CALLS, -(-_LOADED[self._device.type] // settings.batch_size))
        self._loaded = blocks * preload * settings.batch_size
        starts = ReplayStarts(replay, _start_length(config), self._own)
        env = ImaginationEnv(self._world, self._reward_end, starts, self._draws, imagination_settings(replace(settings, preload=preload)))
        if self.learners.execution.cuda_graphs != "none":
            record_steps(env, [self._own])
        return env

    def prepare(self, steps: int) -> None:
        """Loads the start segments of so many imagined steps."""
        self._env.prepare(steps)

    def imagine(self) -> None:
        """One imagined step of all games, as `collect_rollout` takes it."""
        h, c = self._carry.state
        output = self._policy(self._carry.frames, (h.detach(), c.detach()))
        frames, *_ = self._env.step(self._draw(output.logits.detach()))
        self._carry = Carry(frames, output.state)

    def _step_works(self, replay: Replay) -> dict[str, Work]:
        config, b = self._config, self._config.actor_critic.batch_size
        starts = ReplayStarts(replay, config.conditioning.num_frames, self._own)
        segments = starts.read(starts.draw(b))
        past, actions, frames = to_float(segments), segments.actions, to_float(segments)[:, -1]
        world = self._world.start(past, actions, segments.mask, self._draws.noise)
        with torch.no_grad():
            memory = self._reward_end(past[:, -1:], actions[:, -1:], past[:, -1:], None).state
        state = self._policy.initial_state(b, self._device)

        @torch.no_grad()
        def reward_and_end() -> None:
            output = self._reward_end(past[:, -1:], actions[:, -1:], frames[:, None], memory)
            self._draws.reward_class(output.reward_logits[:, 0])
            self._draws.end(output.end_logits[:, 0])

        def action() -> None:
            self._draw(self._policy(frames, state).logits.detach())

        return {
            "next_frame": Work(lambda: self._world.step(world, actions[:, -1], self._draws.noise)),
            "denoiser_call": Work(lambda: self._world.call(world)),
            "reward_and_end": Work(reward_and_end),
            "action": Work(action),
        }

    def _memory_reset(self) -> Work:
        """The renewals of one horizon, as a rollout does them: gradient on, the games ending at its last step."""
        b, horizon = self._config.actor_critic.batch_size, self._config.actor_critic.horizon
        *_, infos = self._step
        going_on = torch.zeros(b, dtype=torch.bool, device=self._device)
        over = ~going_on
        h, c = (torch.randn_like(kept, requires_grad=True) for kept in self._policy.initial_state(b, self._device))

        def call() -> None:
            for _ in range(horizon - 1):
                reset_memory(self._policy, (h, c), going_on, infos, None)
            reset_memory(self._policy, (h, c), over, infos, None)

        return Work(call)

    def _loss_and_backward(self) -> Work:
        """Loss, backward pass and optimiser of the policy, on a rollout whose imagination was done before and costs nothing."""
        settings, learner = self._config.actor_critic, Learner(self._policy, self._config.actor_critic, self.learners.execution.fused)
        recorded = Recorded(self._step, settings.horizon)
        rollouts: list[Rollout] = []

        def before(calls: int) -> None:
            rollouts[:] = [collect_rollout(self._policy, recorded, self._carry, settings.steps_per_update, self._draw)[0]]

        def call() -> None:
            loss, _ = actor_critic_loss(rollouts.pop(), settings)
            learner.update(loss)

        return Work(call, before, most_calls=1)  # an update changes the weights that another rollout's graph holds

    def _real_steps(self) -> Work:
        config = self._config
        self._collected = min(_REAL_STEPS, config.agent.steps_per_epoch)
        rows = self._collected * (GRAPH_CALLS + MAX_ROUNDS)
        play = RealPlay(config, self.learners, Replay(rows, config.env.frame_size, self._device))
        means = Means(self._device)
        return Work(lambda: play.collect(self._collected, means), most_calls=1)


class Recorded:
    """One step of an imagination, given again at every step and cut at the horizon: a `TensorEnv` that takes no time."""

    def __init__(self, step: tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Tensor]], horizon: int) -> None:
        self._frames, self._rewards, ends, _, self._infos = step
        self.num_envs = len(ends)
        self._no, self._yes = torch.zeros_like(ends), torch.ones_like(ends)
        self._horizon, self._steps = horizon, 0

    def prepare(self, num_steps: int) -> None:
        """Does nothing."""

    def reset(self, *, seed: int | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """See `TensorEnv.reset`."""
        self._steps = 0
        return self._frames, {}

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """See `TensorEnv.step`."""
        self._steps += 1
        cut = self._no if self._steps % self._horizon else self._yes
        return self._frames, self._rewards, self._no, cut, self._infos


@torch.no_grad()
def never_end(model: RewardEndModel) -> None:
    """Sets a model with fresh weights to say that no episode ends, so that they are cut at the horizon as nearly all of a training are:
    fresh weights would end every second one at each step."""
    first, _, last = model.head
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    first.weight[0] = 0.0
    first.bias[0] = 10.0
    last.weight[NUM_REWARDS:, 0] = torch.tensor([10.0, -10.0], device=last.weight.device)
