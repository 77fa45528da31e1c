"""Predicted rewards and ends along reference trajectories: from the model's own frames, and from the true ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diamond_bench.data.segments import Segments
from diamond_bench.diffusion.quantization import from_bytes
from diamond_bench.evaluation.rollouts import seeded_draw
from diamond_bench.imagination.env import RewardEnd, burn_in, predict_outcome
from diamond_bench.metrics.play import Key, Predicted, Tick, WindowBatch
from diamond_bench.worlds.contract import Draw, State, Step, WorldModel


@dataclass(frozen=True)
class OutcomeModel:
    """What predicts rewards and ends: a world model, or an agent's reward/end model from the frames of its world model."""

    world: WorldModel
    reward_end: RewardEnd | None = None
    """None if the world model predicts them."""

    @torch.no_grad()
    def free_running(self, play: WindowBatch, keys: Sequence[Key], tick: Tick = lambda: None) -> Predicted:
        """The predictions along frames that the world model imagines from its own frames, under the true actions. `keys`: see `imagine`."""
        draw, past = seeded_draw(keys, play.frames.device), from_bytes(play.frames[:, : play.context])
        state = self._start(play, past, 0, draw)
        shown, memory, found = past[:, -1], self._memory(play), []
        for action in play.actions[:, play.context - 1 : -1].unbind(1):
            state, step = self.world.step(state, action, draw)
            *logits, memory = predict_outcome(self.reward_end, shown, action, step, memory)
            found.append(logits)
            shown = step.frame
            tick()
        return _probabilities(found)

    @torch.no_grad()
    def teacher_forced(self, play: WindowBatch, keys: Sequence[Key], tick: Tick = lambda: None) -> Predicted:
        """The predictions along the true frames. A world model that predicts its own outcomes starts again from the true frames at each
        step."""
        memory, found = self._memory(play), []
        for t, action in enumerate(play.actions[:, play.context - 1 : -1].unbind(1)):
            shown, following = (from_bytes(play.frames[:, play.context + t + i]) for i in (-1, 0))
            if self.reward_end is not None:
                step = Step(following)
            else:
                past, draw = from_bytes(play.frames[:, t : t + play.context]), seeded_draw([(*key, t) for key in keys], shown.device)
                _, step = self.world.step(self._start(play, past, t, draw), action, draw)
            *logits, memory = predict_outcome(self.reward_end, shown, action, step, memory)
            found.append(logits)
            tick()
        return _probabilities(found)

    def _start(self, play: WindowBatch, past: Tensor, t: int, draw: Draw) -> State:
        mask = past.new_ones(past.shape[:2], dtype=torch.bool)
        origin = None if play.origin is None else play.origin + torch.tensor([0, t], device=past.device)
        return self.world.start(past, play.actions[:, t : t + play.context], mask, draw, origin)

    def _memory(self, play: WindowBatch) -> State:
        """The reward/end model's memory after the context."""
        frames, actions = play.frames[:, : play.context], play.actions[:, : play.context]
        segments = Segments(frames, actions, torch.ones(frames.shape[:2], dtype=torch.bool, device=frames.device))
        return tuple(memory[None] for memory in burn_in(self.reward_end, segments))


def _probabilities(found: Sequence[Sequence[Tensor | None]]) -> Predicted:
    """The probabilities of logits of rewards (b, 3) and of ends (b, 2) at each step. A game without ends has none."""
    rewards = torch.stack([logits[0].double().softmax(dim=-1) for logits in found if logits[0] is not None], dim=1)
    ends = [logits[1].double().softmax(dim=-1)[:, 1] for logits in found if logits[1] is not None]
    return Predicted(rewards, torch.stack(ends, dim=1) if ends else torch.zeros_like(rewards[..., 0]))
