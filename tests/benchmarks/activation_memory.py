"""What an update of each network keeps for its backward pass, counted by autograd's own hooks on the CPU, at the paper's size and batch.

    python tests/benchmarks/activation_memory.py [fp32|bf16]

The batch is counted in eight parts, one at a time, as what is kept grows with the batch alone. For the policy it is counted as on a GPU,
where every step of a rollout burns in the memory of all games.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from diamond_bench.agent import build_agent
from diamond_bench.jobs.agent_learners import describe
from diamond_bench.models.precision import Precision
from diamond_bench.store.kinds import TrainAgent
from diamond_bench.studies.single import plan_train

PARTS = 8


def kept(network: nn.Module, work: Callable[[], object]) -> int:
    """Bytes of all memory that autograd saves while `work` is done, the weights apart."""
    found: dict[int, torch.UntypedStorage] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        found[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        held = work()  # noqa: F841 - or else autograd would free it at once
    weights = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    return sum(storage.nbytes() for key, storage in found.items() if key not in weights)


def main(precision: Precision = "fp32") -> None:
    """Prints a line for each network."""
    plan = plan_train([f"execution.precision={precision}"])
    config: TrainAgent = next(spec.config for spec in plan.jobs.values() if spec.kind == "train_agent")
    agent: Any = build_agent(describe(config), precision)
    past, size, generator = config.conditioning.num_frames, config.env.frame_size, torch.Generator().manual_seed(0)

    def drawn(batch: int, frames: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.rand(batch, frames, 3, size, size, generator=generator) * 2 - 1, torch.zeros(batch, frames, dtype=torch.int64)

    b = config.training.batch_size // PARTS
    frames, actions = drawn(b, past + 1 + config.training.num_autoregressive_steps)
    everywhere = torch.ones_like(actions, dtype=torch.bool)
    denoiser = agent.world_model.compilable[0]
    of_denoiser = PARTS * kept(denoiser, lambda: denoiser.training_loss(frames, actions, everywhere, generator))
    seen, acted = drawn(config.reward_end.batch_size // PARTS, config.reward_end.segment_length - 1)
    of_reward_end = PARTS * kept(agent.reward_end, lambda: agent.reward_end(seen, acted, seen, None))
    policy, games = agent.actor_critic, config.actor_critic.batch_size
    shown = drawn(games, 1)[0][:, 0]
    step = kept(policy, lambda: policy(shown, policy.initial_state(games, shown.device)))
    burnt_in = max(past, config.actor_critic.start_frames) - 1
    of_policy = config.actor_critic.steps_per_update * (1 + burnt_in) * step
    for name, count in (("denoiser", of_denoiser), ("reward/end model", of_reward_end), ("actor-critic", of_policy)):
        print(f"{precision}: an update of the {name} keeps {count / 1e9:.1f} GB")


if __name__ == "__main__":
    main(*sys.argv[1:])  # type: ignore[arg-type]
