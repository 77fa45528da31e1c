"""The job `import_world_model`: a checkpoint file in the format of the authors' CS:GO model becomes a world model of the store."""

from pathlib import Path

from diamond_bench.errors import UserError
from diamond_bench.jobs.context import JobContext, Result
from diamond_bench.jobs.train_world_model import model_folder
from diamond_bench.spaces import FrameSpec
from diamond_bench.store.files import sha256
from diamond_bench.store.kinds import ImportWorldModel
from diamond_bench.typed import to_plain
from diamond_bench.worlds.cascade.checkpoint import read_cascade


def run(config: ImportWorldModel, context: JobContext) -> Result:
    """Writes models/1/ from the file `config.file`. Sizes of the networks are derived from its tensors and checked.

    Raises UserError if the file is missing, changed since it was planned, or is not such a checkpoint.
    """
    file = Path(config.file)
    if file.is_file() and sha256(file) != config.digest:
        raise UserError(f"{file} has changed since it was planned: run the command again")
    world = read_cascade(file, FrameSpec(config.height, config.width), config.factor)
    context.check_owner()
    folder = model_folder(context.folder, 1.0)
    folder.mkdir(parents=True, exist_ok=True)
    world.save(folder)
    return Result(
        info={
            "source": config.digest,
            "parameters": {name: sum(p.numel() for p in network.parameters()) for name, network in world.networks.items()},
            "actions": world.spec.actions.to_plain(),
            "family": to_plain(world.settings),
        }
    )
