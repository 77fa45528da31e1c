"""The job `collect_dataset`: a policy plays a game, and its episodes form a training split and a held-out split."""

from collections.abc import Callable
from typing import Any

import numpy as np

from diamond_bench.agent import load_agent
from diamond_bench.data.leaks import SPREAD, TrainingRuns, spread_windows
from diamond_bench.data.minari_io import Episode
from diamond_bench.data.static import spec_facts
from diamond_bench.envs.copies import CopiedFrames
from diamond_bench.envs.games import check_policy, family_of, make_env, make_policy, spec
from diamond_bench.envs.lives import Frame
from diamond_bench.envs.policies import EpsilonGreedy, Policy
from diamond_bench.errors import UserError
from diamond_bench.evaluation.player import WatchingPolicy
from diamond_bench.jobs.context import JobContext, Result
from diamond_bench.jobs.dataset_artifact import EpisodeCache, StoredEpisode, finished_result, publish, stop_if_asked
from diamond_bench.store.kinds import CollectDataset
from diamond_bench.studies.agents import AGENT_FOLDER

MAX_REJECTED_GAMES = 20
"""Number of consecutive held-out games without a usable reference after which the collection gives up."""

_SPLITS = ("train", "heldout")


def run(config: CollectDataset, context: JobContext) -> Result:
    """Writes train/ (exactly num_train_frames frames), heldout/ (num_references windows) and dataset.json.

    An episode is a game. Lost lives are recorded and do not end it. Only the last game of a split is truncated. Each has its own seeds,
    derived from (data.seed, split, index), so it does not matter which attempt played it. Held-out windows that occur in training
    (data/leaks.py) do not count. With data.windows_per_episode, at most that many windows of a held-out game are references.

    Raises Interrupted with finished games kept, and UserError if the policy cannot give such references.
    """
    return finished_result(context) or _Collection(config, context).run()


class _Collection:
    def __init__(self, config: CollectDataset, context: JobContext) -> None:
        self._agent = None
        if "agent" in context.inputs:  # on the CPU, so that the device never affects the play
            self._agent = load_agent(context.inputs["agent"] / AGENT_FOLDER)
        else:
            check_policy(config.data.policy, config.game)
        self._config, self._context, self._data = config, context, config.data
        self._spec = spec(config.game, config.env)
        self._env = CopiedFrames(make_env(config.game, config.env))
        self._cache = EpisodeCache(context)
        self._window = config.data.reference_context + config.data.reference_horizon
        self._frames_done = 0

    def run(self) -> Result:
        train = self._train()
        heldout, starts, refused = self._heldout(TrainingRuns([game.pairs for game in train]))
        facts = {
            "game": self._config.game,
            **family_of(self._config.game).facts(self._config.env),
            "policy": self._data.policy,
            "epsilon": self._data.epsilon,
            "random_start_steps": self._data.random_start_steps,
            **spec_facts(self._spec),
            "lost_life": "recorded, not an end: an episode is a whole game",
            "heldout": {
                "references": len(starts),
                "reference_starts": starts,
                "refused_as_leaks": refused,
                "reference_context": self._data.reference_context,
                "reference_horizon": self._data.reference_horizon,
                **({} if self._data.windows_per_episode is None else {"windows_per_episode": self._data.windows_per_episode}),
            },
        }
        return publish(self._context, self._config.game.lower().replace("/", "-"), self._spec, facts, train, heldout)

    def _train(self) -> list[StoredEpisode]:
        games: list[StoredEpisode] = []
        left = self._data.num_train_frames
        while left > 0:
            games.append(self._game("train", len(games), left))
            left -= games[-1].num_frames
        return games

    def _heldout(self, training: TrainingRuns) -> tuple[list[StoredEpisode], list[int], int]:
        """The held-out games, the first row of each usable window in them, and the number of windows refused as leaks."""
        games: list[StoredEpisode] = []
        starts: list[int] = []
        row = refused = rejected = 0
        per_game = self._data.windows_per_episode
        while len(starts) < self._data.num_references:
            left = self._data.num_references - len(starts)
            most = left if per_game is None else min(per_game, left)
            game = self._game("heldout", len(games), most * self._window * (1 if per_game is None else SPREAD))
            if training.holds(game.pairs):
                raise UserError(
                    f"held-out game {len(games)} of the {self._data.policy} policy occurs in training: its games are too much alike; "
                    f"raise data.epsilon, data.random_start_steps or env.max_noops"
                )
            good, bad = training.split_windows(game.pairs, self._window)
            starts += [row + start for start in spread_windows(good, most, (self._data.seed, len(games)))]
            games.append(game)
            row += game.num_frames
            refused += len(bad)
            rejected = 0 if good else rejected + 1
            if rejected == MAX_REJECTED_GAMES:
                raise UserError(self._too_few(games[-rejected:], refused))
        return games, starts, refused

    def _too_few(self, games: list[StoredEpisode], refused: int) -> str:
        steps = np.mean([len(game.pairs) for game in games])
        leaks = f", and {refused} windows were refused because they occur in training (raise data.epsilon)" if refused else ""
        return (
            f"{self._config.game} games of the {self._data.policy} policy last about {steps:.0f} steps; a reference needs {self._window} "
            f"frames (data.reference_context + data.reference_horizon){leaks}: {len(games)} games in a row gave none; "
            f"lower data.reference_horizon, or use another data.policy"
        )

    def _game(self, split: str, index: int, most_frames: int) -> StoredEpisode:
        game = self._cache.get(f"{split}_{index:05d}", lambda: self._play(split, index, most_frames))
        self._frames_done += game.num_frames
        return game

    def _policy(self, rng: np.random.Generator) -> tuple[Policy, Callable[[Frame], None]]:
        """The policy of one game, and a function that shows it each frame."""
        if self._agent is None:
            return make_policy(self._data.policy, self._config.game, rng), lambda frame: None
        watching = WatchingPolicy(self._agent.policy, rng)
        return watching, watching.see

    def _play(self, split: str, index: int, most_frames: int) -> tuple[Episode, bool]:
        """One game, truncated at `most_frames`, and whether it was played to its end."""
        data, context = self._data, self._context
        seeds = np.random.SeedSequence((data.seed, _SPLITS.index(split), index))
        seed = int(seeds.generate_state(1)[0] >> 1)  # a C int for the emulator
        rng = np.random.default_rng(seeds.spawn(1)[0])
        random_start = int(rng.integers(data.random_start_steps + 1))
        policy, show = self._policy(rng)
        play = EpsilonGreedy(policy, data.epsilon, random_start, self._spec.actions, rng)
        total = data.num_train_frames + data.num_references * self._window

        frame, info = self._env.reset(seed=seed)
        frames, actions, rewards, losses = [frame], [], [], []
        rams: list[Any] = [info.get("ram")]
        terminated = truncated = False
        while not (terminated or truncated) and len(frames) != most_frames:
            stop_if_asked(context)
            show(frame)
            action = play(info.get("ram"))
            frame, reward, terminated, truncated, info = self._env.step(action)
            frames.append(frame)
            rams.append(info.get("ram"))
            actions.append(action)
            rewards.append(float(reward))
            losses.append(info.get("life_loss"))
            context.progress(min(self._frames_done + len(frames), total), total, f"{split} game {index}")
        whole = terminated or truncated
        episode = Episode(
            frames=np.stack(frames),
            actions=np.array(actions, self._spec.actions.dtype),
            rewards=np.array(rewards, np.float32) if self._spec.rewards else None,
            terminated=terminated,
            truncated=not terminated,
            life_losses=None if None in losses else np.array(losses, np.bool_),
            ram=None if any(ram is None for ram in rams) else np.stack(rams),
            seed=seed,
        )
        if split == "train" and most_frames == len(frames) + 1:  # the remaining frame would make an episode without a step
            return episode.cut(len(frames) - 1), False
        return episode, whole
