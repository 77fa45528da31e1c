"""Writes the starts of a dataset's held-out play, from which anyone can imagine frames that `diamond-bench score` measures."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diamond_bench.config import RunConfig
from diamond_bench.data.references import one_step_windows, reference_windows
from diamond_bench.data.static import load_info, load_split
from diamond_bench.errors import UserError
from diamond_bench.evaluation.given import Starts, content_digest, starts_of
from diamond_bench.metrics.header import Play
from diamond_bench.store.artifacts import Store
from diamond_bench.store.files import temporary_name
from diamond_bench.store.jobspec import JobRef
from diamond_bench.stored.models import require_whole
from diamond_bench.studies.score import MANIFEST, manifest_of

STARTS = "starts"
"""The folder of the starts within the prepared folder."""


def write_starts(store: Store, dataset: JobRef, config: RunConfig, scale: str, out: Path) -> list[str]:
    """Writes the starts of a finished dataset to the new folder `out`, which appears whole or not at all. Returns the kinds of play.

    The folder has a README.md, the manifest, and for each kind of play starts/<kind>.npz with `context` (n, c, h, w, 3) uint8 and `actions`
    (n, c - 1 + T, ...). The true frames are not in it. Raises UserError.
    """
    require_whole(store, dataset)
    folder, settings = store.folder(dataset), config.evaluation
    described = load_info(folder)
    layout, heldout = described.content["heldout"], load_split(folder, "heldout")
    window = (layout["reference_context"], layout["reference_horizon"])
    num = max(settings.num_trajectories, settings.num_sample_starts)
    references = reference_windows(heldout, num, *window, seed=settings.seed, starts=layout["reference_starts"])
    every = reference_windows(heldout, len(layout["reference_starts"]), *window, settings.seed, starts=layout["reference_starts"])
    one_step = one_step_windows(every, settings.num_one_step, settings.seed)
    actions = described.spec.actions
    found = starts_of(settings, references, one_step, actions)
    shapes = {kind: starts.shape() for kind, starts in found.items()}
    manifest = manifest_of(config, scale, content_digest(found), actions, shapes)
    temporary = temporary_name(out)
    try:
        (temporary / STARTS).mkdir(parents=True)
        for kind, starts in found.items():
            np.savez_compressed(temporary / STARTS / f"{kind}.npz", **_arrays(starts))  # type: ignore[arg-type]
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        (temporary / "README.md").write_text(_readme(config.game, shapes, window[0]))
        temporary.rename(out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return list(found)


def _arrays(starts: Starts) -> dict[str, NDArray[Any]]:
    plays = [starts.play(row) for row in range(starts.count)]
    context = [play.frames[0, : play.context].permute(0, 2, 3, 1).cpu().numpy() for play in plays]
    return {"context": np.stack(context), "actions": np.stack([play.actions[0, :-1].cpu().numpy() for play in plays])}


_MEANINGS: Mapping[Play, str] = {
    "rollouts": "one future of each start; needed",
    "samples": "several futures of each start, for the metrics of random futures",
    "one_step": "the next frame after true frames",
    "altered": "one future of each start under random actions, for the metrics of control",
}


def _readme(game: str, shapes: Mapping[Play, tuple[int, ...]], context: int) -> str:
    rows = "\n".join(f"| `{kind}.npy` | `starts/{kind}.npz` | {shape} | {_MEANINGS[kind]} |" for kind, shape in shapes.items())
    return _README.format(game=game, context=context, before=context - 1, rows=rows)


_README = """# Starts of {game}, to imagine from

Each file of `starts/` has two arrays. `context` holds the {context} true frames of each start, oldest first, as uint8
(n, {context}, h, w, 3) in RGB. `actions` holds the actions. Action i is taken after frame i. So the first {before} lie within
the context, and action {before} (counted from 0) leads to the first frame to imagine. `manifest.json` names the actions.

Write your frames into this folder, or into another one together with a copy of `manifest.json`:

| Your file | Its starts | Shape, uint8 from 0 to 255 | Content |
| --- | --- | --- | --- |
{rows}

`rollouts` is needed. Each further file allows more metrics. In place of `rollouts.npy` you may write `rollouts.npz` or
`rollouts.hdf5` with an array `frames`, or a folder `rollouts` with one video per future (`0000.mkv`, `0001.mkv`, ...). A
lossless codec such as ffv1 keeps the frames as they are. The other kinds have the same formats. This script, run in
this folder, is a complete answer. It repeats the last frame of each context:

```python
import json

import numpy as np

for kind, shape in json.load(open("manifest.json"))["plays"].items():
    starts = np.load(f"starts/{{kind}}.npz")
    last = starts["context"][:, -1]  # (n, h, w, 3)
    frames = np.empty(shape, np.uint8)
    frames[:] = last.reshape(len(last), *[1] * (len(shape) - 4), *last.shape[1:])
    np.save(f"{{kind}}.npy", frames)
```

Then score the folder:

```text
diamond-bench score FOLDER
```

The score makes the true frames again, because the manifest holds all settings and seeds of the dataset.
"""
