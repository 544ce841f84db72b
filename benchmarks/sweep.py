"""The sweep's medians beside the published scores, and what the checkpoints are worth: `python benchmarks/sweep.py`."""

from __future__ import annotations

from course_lib import checkpoints
from course_lib.experiments.factor_vae import PUBLISHED, sweep_medians
from course_lib.experiments.pretraining import read_sweep
from course_lib.files import data_folder

NUMBERS = {
    "reconstruction (nats)": ".1f",
    "total correlation (nats)": ".2f",
    "MIG": ".3f",
    "DCI disentanglement": ".3f",
    "FactorVAE score": ".3f",
    "active latents": ".0f",
}


def main() -> None:
    show("sprites")
    for method, score in PUBLISHED.items():
        print(f"published, {method}, 64×64, 300,000 steps: FactorVAE score {score}")
    show("scenes")
    for names in (checkpoints.VAES, checkpoints.SCENES):
        print(f"\n{checkpoints.table(names=names)}")


def show(kind: str) -> None:
    print(f"{kind:<31}{'weight':>7}{'runs':>6}" + "".join(f"{name:>26}" for name in NUMBERS))
    for row in sweep_medians(read_sweep(data_folder() / "sweeps" / f"{kind}.csv")):
        values = "".join(f"{row[name]:>26{number}}" for name, number in NUMBERS.items())
        print(f"{row['method']:<31}{row['weight']:>7g}{row['runs']:>6}{values}")


if __name__ == "__main__":
    main()
