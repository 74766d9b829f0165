"""Slips of the pen in the diffusion model, for tests/mutants/mutants.py to mutant: arithmetic, training, samples."""

from tests.mutants.mutant_runner import Mutant


def schedules(old, new):
    return Mutant("models/layers/schedules.py", old, new, "tests/models/layers/test_schedules.py")


def model(old, new, file="models/diffusion.py", tests="tests/models/test_diffusion.py"):
    return Mutant(file, old, new, tests)


DIFFUSION = {
    "cosine-schedule-without-its-offset": schedules(
        "/ timesteps + OFFSET) / (1 + OFFSET) *", "/ timesteps + OFFSET) / 1 *"
    ),
    "linear-schedule-not-scaled": schedules("scale = 1000 / timesteps", "scale = 1"),
    "x0-from-v-sign": schedules("else a * x - s * said", "else a * x + s * said"),
    "v-of-swapped-parts": schedules("else a * noise - s * x0", "else s * noise - a * x0"),
    "ddim-keeps-all-noise-beside-the-new": schedules("max(1 - before - sigma**2, 0.0)", "1 - before"),
    "ddim-variance-of-a-whole-step": schedules(
        "eta * np.sqrt((1 - before) / (1 - alpha) * (1 - alpha / before))", "eta * np.sqrt(1 - alpha / before)"
    ),
    "ancestral-variance-is-beta": schedules("np.sqrt((1 - before) / (1 - alpha) * beta)", "np.sqrt(beta)"),
    "steps-back-end-early": schedules(
        "np.linspace(self.timesteps, 0, steps + 1)", "np.linspace(self.timesteps, 1, steps + 1)"
    ),
    "average-takes-too-much": Mutant(
        "core/reference/optim.py", "a.dtype.type(1 - decay)", "a.dtype.type(decay)", "tests/core/test_nn_optim.py"
    ),
    "average-moves-in-a-step-not-taken": model(
        "parameters, self.config.average, taken)", "parameters, self.config.average)"
    ),
    "samples-of-the-weights-in-training": model("self.model.average(Tensor(x[c])", "self.model.net(Tensor(x[c])"),
    "no-label-kept-back": model("self.xp.where(told, labels, NO_CLASS)", "labels"),
    "times-from-0": model("t = 1 + (random.uniform", "t = (random.uniform"),
    "guidance-from-the-wrong-end": model("without + guidance * (said - without)", "said + guidance * (said - without)"),
    "image-outside-of-its-range": model("return self.xp.clip(x0, -1, 1)", "return x0"),
    "unet-skip-from-the-wrong-level": model(
        "[self.up28(x), x28]",
        "[self.up28(x), self.up28(x)]",
        "models/layers/unet.py",
        "tests/bench/parity/test_whole_models.py -k diffusion",
    ),
    "unet-block-is-not-told": model(
        "+ self.told(vector).reshape(n, 1, 1, -1)",
        "+ 0 * self.told(vector).reshape(n, 1, 1, -1)",
        "models/layers/unet.py",
        "tests/bench/parity/test_whole_models.py -k diffusion",
    ),
}
