"""The share of a rare outcome that an exact denoiser gives, against the noise that sampling starts from.

python tests/benchmarks/rare_object.py FOLDER  # writes rare_object.csv and rare_object.png; a minute on one core

The game is that of tests/appearing.py: an object appears with probability 0.20, or nothing changes.
"""

import csv
import sys
from pathlib import Path

import matplotlib
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from appearing import CHANGE_RMS, LAST, LENGTH, OBJECT, SHARE, expected_share, share_of_objects

from diamond_bench.config import FactoredObjective, KarrasSchedule, OdeSampler

matplotlib.use("Agg")
import matplotlib.pyplot as plt

LEVELS = (0.2, 0.42, 0.7, 1.0, 1.5, 2.0, 3.5, 5.0, 10.0, 20.0)
COORDINATES = {"frame": float((-LAST * OBJECT).sum()) / LENGTH, "change": 0.0}
"""Where the start noise is centred along the object's direction, as seen from the last frame."""
STEPS = (3, 25)
COUNT = 100


def main(folder: Path) -> None:
    """Writes the table and the figure."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for coordinate in COORDINATES:
        objective = FactoredObjective(coordinate=coordinate, sigma_offset_noise=0.0, quantization="round", sigma_data="measured")
        for steps in STEPS:
            for level in LEVELS:
                schedule = KarrasSchedule(sigma_max=level, sigma_min=0.02)
                sampler = OdeSampler(num_steps=steps, start_noise="sigma_max", quantize="final", quantization="round", schedule=schedule)
                rows.append((coordinate, steps, level, share_of_objects(objective, sampler, COUNT)))
                print(*rows[-1], flush=True)
    with (folder / "rare_object.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("coordinate", "denoising_steps", "sigma_max", "share"), *rows])
    figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
    fine = np.geomspace(LEVELS[0], LEVELS[-1], 200)
    for colour, (coordinate, offset) in zip(("C0", "C1"), COORDINATES.items(), strict=True):
        axes.plot(fine, [expected_share(float(level), offset) for level in fine], colour, label=f"{coordinate}, exact solver")
        for marker, steps in zip("ox", STEPS, strict=True):
            found = [(level, share) for at, n, level, share in rows if (at, n) == (coordinate, steps)]
            axes.plot(*zip(*found, strict=True), colour + marker, label=f"{coordinate}, Euler, n = {steps}")
    axes.axhline(SHARE, color="black", linestyle=":", label="true share")
    axes.set(xscale="log", xlabel="sigma_max of sampling", ylabel="share of frames with the object")
    axes.set_xticks(LEVELS[:2] + LEVELS[3:4] + LEVELS[5:6] + LEVELS[7:], labels=["0.2", "0.42", "1", "2", "5", "10", "20"])
    axes.minorticks_off()
    axes.set_title(f"RMS of changes per pixel: {CHANGE_RMS:.3f}", fontsize="medium")
    axes.legend(fontsize="x-small")
    figure.savefig(folder / "rare_object.png", dpi=150)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
