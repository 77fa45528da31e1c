"""The job `import_agent`: a checkpoint file in the authors' format becomes an agent of the store."""

from pathlib import Path

from diamond_bench.agent import import_agent, save_agent
from diamond_bench.errors import UserError
from diamond_bench.jobs.context import JobContext, Result
from diamond_bench.store.files import sha256
from diamond_bench.store.kinds import ImportAgent
from diamond_bench.studies.agents import AGENT_FOLDER
from diamond_bench.typed import to_plain


def run(config: ImportAgent, context: JobContext) -> Result:
    """Writes agent/ from the file `config.file`. Sizes are inferred from its tensors and checked. The objective is the paper's EDM with the
    constants of the config, since the file does not contain them. The command says so.

    Raises UserError if the file is missing, changed since it was planned, or is not a checkpoint of this game's agent.
    """
    file = Path(config.file)
    if file.is_file() and sha256(file) != config.digest:
        raise UserError(f"{file} has changed since it was planned: run the command again")
    agent, checkpoint = import_agent(file, config.game, config.frame_size, config.objective)
    if checkpoint.widened_from:
        context.say(f"{file}: tensors stored as {checkpoint.widened_from} were cast to float32")
    context.check_owner()
    save_agent(agent, context.folder / AGENT_FOLDER)
    description = agent.description
    return Result(
        info={
            "game": config.game,
            "source": config.digest,
            "num_actions": description.num_actions,
            "frame_size": description.frame_size,
            "assumed": {"sigma_data": config.sigma_data, "sigma_offset_noise": config.sigma_offset_noise},
            "stored_as": checkpoint.widened_from or "float32",
            "parameters": {name: sum(p.numel() for p in network.parameters()) for name, network in agent.networks.items()},
            "agent": to_plain(description),
        }
    )
