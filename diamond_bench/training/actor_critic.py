"""REINFORCE with a value baseline on lambda-returns (paper section 3.2, appendix; method section 5; golden README 2.5)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from diamond_bench.config import ActorCriticConfig


@dataclass(frozen=True)
class Rollout:
    """t steps of b environments, played by the policy in training."""

    logits: Tensor
    """(b, t, a) of the policy, with gradient."""
    values: Tensor
    """(b, t), of the frames before each action, with gradient."""
    actions: Tensor
    """(b, t) int64, sampled."""
    rewards: Tensor
    """(b, t), unclipped rewards of the environment."""
    ends: Tensor
    """(b, t) bool: the episode ended with this step."""
    truncations: Tensor
    """(b, t) bool: the episode was truncated after this step."""
    bootstraps: Tensor
    """(b, t), value of the frame that each step led to, before any reset, without gradient. Ignored if the episode ended."""


@torch.no_grad()
def lambda_returns(rewards: Tensor, ends: Tensor, truncations: Tensor, bootstraps: Tensor, discount: float, trace_decay: float) -> Tensor:
    """lambda-returns of the rewards' signs, (b, t), without gradient.

    With v the bootstrap and r the sign of the reward,
    R_t = r_t + discount * (1 - end_t) * (v_t if truncated_t else (1 - trace_decay) * v_t + trace_decay * R_(t+1)),
    where R after the last step is v of the last step. If a step both ends and truncates an episode, the end counts.

    Args:
        rewards: (b, t), not clipped.
        ends: (b, t), bool or 0 and 1.
        truncations: (b, t), bool or 0 and 1.
        bootstraps: (b, t), see `Rollout`.
        discount: gamma.
        trace_decay: lambda.
    """
    after = bootstraps[:, -1]
    weight = trace_decay * (~truncations.bool())  # weight of the following return against the bootstrap
    goes_on = discount * (~ends.bool())
    signs = rewards.sign()
    returns: list[Tensor] = []
    for t in reversed(range(rewards.shape[1])):
        after = signs[:, t] + goes_on[:, t] * torch.lerp(bootstraps[:, t], after, weight[:, t])
        returns.append(after)
    return torch.stack(returns[::-1], dim=1)


def actor_critic_loss(rollout: Rollout, config: ActorCriticConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a rollout, and metrics (detached, on the device). The loss is the mean over all steps of
    -log pi(a) * (R - V) + value_weight * (V - R)^2 - entropy_weight * H. No gradient flows through R or the baseline.
    """
    returns = lambda_returns(rollout.rewards, rollout.ends, rollout.truncations, rollout.bootstraps, config.discount, config.trace_decay)
    log_policy = rollout.logits.log_softmax(dim=-1)
    taken = log_policy.gather(-1, rollout.actions[..., None]).squeeze(-1)
    entropy = -(log_policy.exp() * log_policy).sum(dim=-1).mean()
    loss_actions = -(taken * (returns - rollout.values.detach())).mean()
    loss_values = config.value_weight * F.mse_loss(rollout.values, returns)
    loss_entropy = -config.entropy_weight * entropy
    loss = loss_actions + loss_values + loss_entropy
    metrics = {
        "loss": loss,
        "loss_actions": loss_actions,
        "loss_values": loss_values,
        "loss_entropy": loss_entropy,
        "policy_entropy_bits": entropy / math.log(2),
    }
    return loss, {name: value.detach() for name, value in metrics.items()}
