"""Training curves that lie on each other: 200 steps of a model on the real data, beside PyTorch's.

The oracle is the counterpart in float64; every step of every run uses the batch, the noise and the dropout masks that
ours used. Rounding errors grow along a trajectory, for torch as for us, so what is asked is that ours parts from the
oracle no faster than torch parts from itself: at every step

    largest |loss(ours) - loss(oracle)| so far  <=  max(3 times the same of the worst of five float32 runs of torch,
                                                       8 eps loss)

(bench/parity/torch_runs.py has the five). A GAN is chaotic: once a float32 run of torch is more than 1 % from the
oracle, no comparison means anything, and `until` says from which step. At the demo's learning rate that is step 11, so
the GAN runs with the source's recipe (Adam, 1e-4; dropout). `python -m bench.parity.trajectories` runs them all.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from bench.parity.whole_models import Together
from models import MODELS
from models.training.progress import progress

STEPS, TIMES, PARTED = 200, 3.0, 0.01
SETTINGS: dict[str, dict] = {  # what differs from the preset "demo"
    "gan": {"lr": 1e-4, "beta1": 0.9, "dropout": 0.3},
    "diffusion": {"batch": 16},  # seven runs of 64 would take over half an hour
}
LOSSES = {"gan": ("d_loss", "g_loss"), "vae": ("loss",), "gpt": ("loss",), "seq2seq": ("loss",), "diffusion": ("loss",)}
FOLDER = Path(__file__).parents[1] / "results"
FILE = FOLDER / "trajectories.json"


@dataclass(frozen=True)
class Trajectory:
    """One loss of one model, step by step."""

    kind: str
    loss: str
    ours: list
    oracle: list
    runs: dict  # name of the torch run -> losses

    def parting(self, losses):
        """The largest distance from the oracle so far, at every step."""
        return np.maximum.accumulate(np.abs(np.array(losses, np.float64) - self.oracle))

    def torch_parting(self):
        """The same of whichever torch run is worst so far."""
        return np.max([self.parting(losses) for losses in self.runs.values()], axis=0)

    def allowed(self):
        floor = 8 * np.finfo(np.float32).eps * np.abs(self.oracle)
        return np.maximum(TIMES * self.torch_parting(), floor)

    @property
    def until(self) -> int:
        """The number of steps before a run of torch is more than PARTED from the oracle: those that are tested."""
        gone = np.flatnonzero(self.torch_parting() > PARTED * np.abs(self.oracle))
        return int(gone[0]) if len(gone) else len(self.oracle)

    @property
    def worst(self) -> float:
        """The largest part of what is allowed that ours used, up to `until`: it passes at 1 or less."""
        return float((self.parting(self.ours) / self.allowed())[: self.until].max())

    def relative(self, losses) -> float:
        """The largest distance from the oracle up to `until`, relative to the loss there."""
        return float((np.abs(np.array(losses) - self.oracle) / np.abs(self.oracle))[: self.until].max())


def trajectories(kind, steps=STEPS) -> list[Trajectory]:
    """The losses of `steps` training steps on the carried data, by all seven runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # the runs set their own
    try:
        trainer = MODELS[kind]
        together = Together(trainer(trainer.Config.preset("demo", **SETTINGS.get(kind, {}))))
        record = [together.step() for _ in progress(range(steps), kind, unit="step")]
    finally:
        torch.set_num_threads(before)
    names = [run.name for run in together.runs]
    return [
        Trajectory(
            kind,
            loss,
            [ours[loss] for ours, _, _ in record],
            [oracle[loss] for _, oracle, _ in record],
            {name: [theirs[i][loss] for _, _, theirs in record] for i, name in enumerate(names)},
        )
        for loss in LOSSES[kind]
    ]


def save(found: list[Trajectory]):
    """Put these in place of the recorded ones of the same models."""
    kinds = {t.kind for t in found}
    kept = [t for t in load() if t.kind not in kinds] if FILE.exists() else []
    every = sorted([*kept, *found], key=lambda t: (list(LOSSES).index(t.kind), t.loss))
    FOLDER.mkdir(parents=True, exist_ok=True)
    FILE.write_text(json.dumps([asdict(t) for t in every], indent=None, separators=(",", ":")) + "\n")


def load() -> list[Trajectory]:
    return [Trajectory(**t) for t in json.loads(FILE.read_text())]


def summary(t: Trajectory) -> str:
    runs = [t.relative(losses) for losses in t.runs.values()]
    return (
        f"{t.kind} {t.loss}: {t.until} of {len(t.oracle)} steps tested; ours {t.relative(t.ours):.1e} from the oracle "
        f"at most, torch's runs {min(runs):.1e} to {max(runs):.1e}; {t.worst:.2f} of what is allowed"
    )


def main():
    parser = argparse.ArgumentParser(prog="python -m bench.parity.trajectories", description=__doc__.split("\n")[0])
    parser.add_argument("kinds", nargs="*", metavar="MODEL", help=f"of {', '.join(LOSSES)}; all unless given")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"default {STEPS}")
    args = parser.parse_args()
    unknown = set(args.kinds) - set(LOSSES)
    if unknown or args.steps < 1:
        parser.error(f"no model {', '.join(unknown)}" if unknown else "--steps should be at least 1")
    for kind in args.kinds or LOSSES:
        found = trajectories(kind, args.steps)
        print(*map(summary, found), sep="\n")
        if args.steps == STEPS:  # shorter ones are for trying
            save(found)


if __name__ == "__main__":
    main()
