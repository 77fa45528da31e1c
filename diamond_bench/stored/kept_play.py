"""Real play of a stored agent that has none of its own: its policy plays once, and the store keeps the steps."""

import shutil
from collections.abc import Callable
from dataclasses import replace

from diamond_bench.data.replay import Replay
from diamond_bench.data.replay_file import DamagedReplay
from diamond_bench.envs import games
from diamond_bench.store.artifacts import PLAYED, Store
from diamond_bench.store.files import digest, refusal, require_folders, unfinished_folder
from diamond_bench.store.jobspec import JobRef
from diamond_bench.stored.imagination import PLAY_SEED, START_STEPS, How, RealPlay, agent_play
from diamond_bench.stored.models import load_agent
from diamond_bench.studies.agents import trained_with
from diamond_bench.worlds.recordings import RecordedReplay


def kept_play(store: Store, agent: JobRef, how: How, say: Callable[[str], None]) -> RealPlay:
    """START_STEPS real steps of an agent's policy, from the store, or played now and kept there if it can be written.

    The steps are kept under a name that follows from the agent, their number and the seed. `say` gets a line before the policy plays, and
    the reason if the steps cannot be kept.
    """
    game, _, env = trained_with(store, agent)
    folder = store.root / PLAYED / digest([str(agent), START_STEPS, PLAY_SEED])[:16]
    require_folders(store.root, folder)
    if folder.exists():
        try:
            replay = Replay.load(folder, START_STEPS, START_STEPS, env.frame_size, how.device)
            return RealPlay(replay, RecordedReplay(game, env, PLAY_SEED, replay), games.actions(game))
        except DamagedReplay as error:
            say(f"removed: {error}")
            shutil.rmtree(folder)
    say(f"{agent}: its policy plays {START_STEPS:,} real steps to start from")
    loaded = load_agent(store, agent, how.device, how.precision)
    play = agent_play(store, agent, loaded, replace(how, start_steps=START_STEPS))
    assert isinstance(play.episodes, Replay)
    try:
        with unfinished_folder(folder) as temporary:
            play.episodes.save(temporary)
            temporary.rename(folder)
    except OSError as error:
        if not folder.exists():  # otherwise another process kept the same steps meanwhile
            say(f"these steps are not kept: {refusal(error) if isinstance(error, PermissionError) else error}")
    return play
