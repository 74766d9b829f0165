"""The mutation tests: wrong lines, put into the real source one at a time; the ordinary suite must fail at each.

    python -m tests.mutants.mutants            every mutant; exit code 1 if one goes unnoticed
    python -m tests.mutants.mutants conv       those with "conv" in their name

A mutant is an edit of one file in a copy of the project, together with the tests that should notice it. The tests run
once without the edit, when they must pass, and once with it, when one must fail. test_harness.py puts wrong operations
into the dispatch table instead, which needs no copy, so that it is part of `make test`; this file shows that the same
holds for the code as it is written. Mutants of GPU kernels (tests/mutants/mutants_gpu.py) meet the interpreter.
"""

import argparse
import sys
import tempfile

from tqdm import tqdm

from tests.mutants.mutant_runner import Mutant, MutantRunner
from tests.mutants.mutants_cpu import CPU
from tests.mutants.mutants_diffusion import DIFFUSION
from tests.mutants.mutants_gpu import KERNELS

# What every operation goes through.
OPS = "tests/bench/parity/test_torch.py tests/bench/parity/test_gradients.py tests/core/test_purity.py"


def op(file, old, new, name):
    """An edit of an operation: its own cases meet it."""
    return Mutant(f"core/reference/{file}", old, new, f"{OPS} -k {name}/")


MUTANTS = {
    # a gradient times 1.001, of the wrong sign, transposed, zero
    "mul-gradient-times-1.001": op("pointwise.py", "dy, z, x, y: dy * y,", "dy, z, x, y: 1.001 * dy * y,", "mul"),
    "sub-gradient-sign": op("pointwise.py", "dy, z, x, y: -dy)", "dy, z, x, y: dy)", "sub"),
    "gelu-gradient-times-1.001": op("pointwise.py", "derivative += cdf", "derivative += 1.001 * cdf", "gelu"),
    "linear-weight-gradient-transposed": op(
        "matmul.py",
        "dw = dy.T @ x.reshape(rows, x.shape[-1])",
        "dw = (x.reshape(rows, x.shape[-1]).T @ dy).reshape(w.shape)",
        "linear",
    ),
    "matmul-gradient-not-transposed": op(
        "matmul.py",
        "unbroadcast(dy @ b.swapaxes(-1, -2)",
        "unbroadcast(dy @ (b if b.shape[-1] == b.shape[-2] else b.swapaxes(-1, -2))",
        "matmul",
    ),
    "conv-weight-gradient-channels-swapped": op(
        "conv.py", "return dw.reshape(*taps, a, b)\n", "return dw.reshape(*taps, b, a).swapaxes(2, 3)\n", "conv2d"
    ),
    "conv-narrow-weight-gradient-not-reversed": op("conv.py", "[::-1, ::-1].transpose", ".transpose", "conv2d"),
    "conv-bias-gradient-zero": op(
        "conv.py",
        "(x, dy, w.shape[:2], stride, dilation, padding) if needs_input_grad[1] else None\n"
        "    return dx, dw, total(dy, (0, 1, 2))",
        "(x, dy, w.shape[:2], stride, dilation, padding) if needs_input_grad[1] else None\n"
        "    return dx, dw, 0 * total(dy, (0, 1, 2))",
        "conv2d",
    ),
    "norm-bias-gradient-zero": op(
        "normalise.py", "db = total(dy, leading)", "db = 0 * total(dy, leading)", "layer_norm"
    ),
    "group-norm-gradient-by-channels": op(
        "group_norm.py",
        "_grouped(xhat, num_groups), rstd, (1, 3))",
        "_grouped(xhat, num_groups), rstd, (1,))",
        "group_norm",
    ),
    "group-norm-activation-forgotten-in-backward": op(
        "group_norm.py", "xhat, w, activate_backward(act, activated, dy), needs", "xhat, w, dy, needs", "group_norm"
    ),
    "upsampling-gradient-of-one-copy": op(
        "upsample.py", "total(blocks, (2, 4))", "blocks[:, :, 0, :, 0].copy()", "upsample_nearest"
    ),
    "timestep-sines-first": op(
        "embedding.py", "concatenate([cos, sin]", "concatenate([sin, cos]", "timestep_embedding"
    ),
    # off by one in the last block
    "conv-last-image-dropped": op(
        "conv.py",
        "slice(i, min(i + step, n)) for i in range(0, n, step)",
        "slice(i, min(i + step, n)) for i in range(0, max(n - 1, 1), step)",
        "conv2d",
    ),
    "linear-cross-entropy-last-rows-dropped": op(
        "cross_entropy.py", "for i in range(0, n, step)]", "for i in range(0, n - 1, step)]", "linear_cross_entropy"
    ),
    "conv-phase-one-pixel-short": op(
        "conv.py", "pixels + offsets[-1] - size_in", "pixels - 1 + offsets[-1] - size_in", "conv_transpose2d"
    ),
    "causal-offset-one-too-far": op("attention.py", "causal_offset, dtype", "causal_offset + 1, dtype", "attention"),
    "causal-offset-one-too-near": op("attention.py", "causal_offset, dtype", "causal_offset - 1, dtype", "attention"),
    # nan and overflow
    "attention-all-masked-is-nan": op("attention.py", "xp.where(top == -xp.inf, 0, top)", "top", "attention"),
    "softmax-without-its-maximum": op("softmax.py", "exp(x - x.max(axis, keepdims=True))", "exp(x)", "softmax"),
    "sigmoid-overflows": op("pointwise.py", "e = xp.exp(-abs(x))", "e = xp.exp(abs(x))", "sigmoid"),
    "bce-overflows": op(
        "variational.py", "xp.log1p(xp.exp(-abs(x)))", "xp.log1p(xp.exp(abs(x))) - abs(x)", "bce_with_logits"
    ),
    "variance-by-difference-of-squares": op(
        "normalise.py",
        "var = mean_over(centred * centred, axes)",
        "var = mean_over(x * x, axes) - mean * mean",
        "layer_norm",
    ),
    # writing in place
    "softmax-writes-to-its-input": op(
        "softmax.py",
        "y = array_module(x).exp(x - x.max(axis, keepdims=True))",
        "y = array_module(x).exp(x - x.max(axis, keepdims=True), out=x if x.size else None)",
        "softmax",
    ),
    "dropout-writes-to-dy": op(
        "random.py",
        "dx = dy if mask is None else dy * (mask * _scale(dy, p))",
        "dx = dy if mask is None else array_module(dy).multiply(dy, mask * _scale(dy, p), out=dy)",
        "dropout",
    ),
    "tanh-gradient-written-over-the-result": op(
        "pointwise.py", "(1 - y) * (1 + y)", "1 - xp.multiply(y, y, out=y if y.ndim else None)", "tanh"
    ),
    # a mask or an option dropped
    "attention-mask-dropped": op(
        "attention.py", "if mask is not None:", "if mask is not None and causal:", "attention"
    ),
    "attention-bias-not-reduced": op(
        "attention.py",
        "unbroadcast(ds, bias_shape)",
        "(ds[:1] if bias_shape[0] == 1 and len(bias_shape) == 4 else unbroadcast(ds, bias_shape))",
        "attention",
    ),
    "attention-scale-forgotten-in-dq": op("attention.py", "dq = (ds @ k) * scale", "dq = ds @ k", "attention"),
    "dropout-mask-dropped-in-backward": op(
        "random.py", "dy * (mask * _scale(dy, p))", "dy * (True * _scale(dy, p))", "dropout"
    ),
    "ignored-targets-counted-in-the-mean": op(
        "cross_entropy.py",
        "losses, lse = _rows(flat, t, label_smoothing, ignore_index, z_loss)\n    count = (t != ignore_index).sum()",
        "losses, lse = _rows(flat, t, label_smoothing, ignore_index, z_loss)\n    count = (t == t).sum()",
        "cross_entropy",
    ),
    "ignored-targets-have-a-gradient": op(
        "cross_entropy.py", "xp.where(kept, scale, 0)[:, None]", "scale", "cross_entropy"
    ),
    "smoothing-forgotten-in-backward": op(
        "cross_entropy.py", "d -= smoothing / logits.shape[1]", "pass", "cross_entropy"
    ),
    "z-loss-gradient-halved": op(
        "cross_entropy.py", "1 + 2 * z_loss * lse.sum", "1 + z_loss * lse.sum", "cross_entropy"
    ),
    "dilation-forgotten-in-narrow-conv": op("conv.py", "top, left = i * dilation[0],", "top, left = i,", "conv2d"),
    "leaky-slope-forgotten-in-backward": op(
        "pointwise.py", "(1 - positive) * negative_slope", "(1 - positive)", "relu"
    ),
    "relu-gradient-at-zero": op("pointwise.py", "xp.where(y <= 0, 0, dy)", "xp.where(y < 0, 0, dy)", "relu"),
    "maximum-gradient-to-the-loser": op("pointwise.py", "_share(xp, dy, x, y, ~(x < y))", "dy", "maximum"),
    "embedding-keeps-one-of-repeated-rows": op(
        "embedding.py",
        "xp.add.reduceat(rows[order], starts, axis=0, dtype=xp.float64)",
        "rows[order][starts]",
        "embedding",
    ),
    "discriminator-real-gradient-halved": op(
        "adversarial.py", "_gradient(real, dy, term, -1)", "_gradient(real, dy / 2, term, -1)", "discriminator_loss"
    ),
    "hinge-gradient-at-its-kink": op(
        "adversarial.py", "xp.where(1 + x <= 0, 0, 1)", "xp.where(1 + x < 0, 0, 1)", "discriminator_loss"
    ),
    "minimax-generator-sign": op("adversarial.py", '("softplus", 1, -1)', '("softplus", 1, 1)', "generator_loss"),
    "elbo-beta-forgotten-in-backward": op("variational.py", "(dloss * beta + dkl) / n", "(dloss + dkl) / n", "elbo"),
    "long-sums-in-float32": Mutant(
        "core/arrays.py", "dtype=np.float64 if wide else x.dtype", "dtype=x.dtype", f"{OPS} -k sum/"
    ),
    # state, optimisers, models
    "running-variance-biased": Mutant(
        "core/reference/batch_norm.py",
        "var * (count / (count - 1))",
        "var",
        "tests/bench/parity/test_torch.py tests/bench/parity/test_whole_models.py",
    ),
    "adam-eps-inside-the-root": Mutant(
        "core/reference/optim.py",
        "(xp.sqrt(v) / root + dtype(eps))",
        "(xp.sqrt(v + dtype(eps)) / root)",
        "tests/core/test_nn_optim.py tests/bench/parity/test_whole_models.py",
    ),
    "adam-bias-correction-late": Mutant(
        "core/reference/optim.py",
        "rate = (lr / (1 - b1**step))",
        "rate = (lr / (1 - b1 ** (step + 1)))",
        "tests/core/test_nn_optim.py tests/bench/parity/test_whole_models.py",
    ),
    "weight-decay-coupled": Mutant(
        "core/reference/optim.py",
        "if weight_decay and decoupled:",
        "if weight_decay and not decoupled:",
        "tests/core/test_nn_optim.py tests/bench/parity/test_whole_models.py",
    ),
    "discriminator-sees-its-targets-swapped": Mutant(
        "models/gan.py",
        "F.discriminator_loss(d(Tensor(real), y), d(fake.detach(), y)",
        "F.discriminator_loss(d(fake.detach(), y), d(Tensor(real), y)",
        "tests/bench/parity/test_whole_models.py -k gan",
    ),
    "generator-trains-through-a-detached-image": Mutant(
        "models/gan.py",
        "features = d.features(fake)",
        "features = d.features(fake.detach())",
        "tests/bench/parity/test_whole_models.py -k gan",
    ),
    "projection-without-a-gradient-to-the-image": Mutant(
        "models/gan.py",
        "(self.labels(labels) * features)",
        "(self.labels(labels) * features.detach())",
        "tests/bench/parity/test_whole_models.py -k conditional",
    ),
    "labels-of-other-images": Mutant(
        "models/training/families.py",
        "self.data.y_train[index]",
        "self.data.y_train[index[::-1]]",
        "tests/models/test_conditional.py -k stay",
    ),
    "reparameterisation-by-variance": Mutant(
        "core/reference/reparameterize.py",
        "std = array_module(mu).exp(0.5 * logvar)",
        "std = array_module(mu).exp(logvar)",
        f"{OPS} tests/bench/parity/test_whole_models.py -k reparameterize/",
    ),
    "reparameterize-draws-other-noise-backward": Mutant(
        "core/reference/reparameterize.py",
        "_noise(dz, noise, step, seed, draw)",
        "_noise(dz, noise, step, seed, draw + 1)",
        "tests/core/test_reparameterize.py",
    ),
    "float64-normals-by-a-float32-kernel": Mutant(
        "core/table.py",
        'np.dtype(attrs["dtype"]) if "dtype" in attrs else dtype',
        "dtype",
        "tests/core/test_dispatch.py",
    ),
    "tf32-by-default": Mutant(
        "core/dispatch.py", '("tf32", default=False)', '("tf32", default=True)', "tests/kernels/test_launch.py"
    ),
    "cross-attention-sees-padding": Mutant(
        "models/layers/transformer.py",
        "self.cross(h, memory, mask=memory_mask)",
        "self.cross(h, memory)",
        "tests/models/test_models.py tests/bench/parity/test_whole_models.py -k seq2seq",
    ),
    "gpt-sees-the-future": Mutant(
        "models/gpt.py",
        "self.stack(self.drop(x), causal=True, caches=caches)",
        "self.stack(self.drop(x), caches=caches)",
        "tests/models/test_models.py tests/bench/parity/test_whole_models.py -k gpt",
    ),
    "decoder-positions-of-the-encoder": Mutant(
        "models/seq2seq.py",
        "self.embed(ids, self.target_positions, start)",
        "self.embed(ids, self.source_positions, start)",
        "tests/bench/parity/test_whole_models.py -k seq2seq",
    ),
    "weights-to-torch-not-flipped-in-channels": Mutant(
        "core/interop.py",
        "array.transpose(3, 2, 0, 1) if",
        "array.transpose(2, 3, 0, 1) if",
        "tests/core/test_nn_optim.py tests/bench/parity/test_whole_models.py",
    ),
    **CPU,
    **DIFFUSION,
    **KERNELS,
}


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.mutants.mutants", description=__doc__.split("\n")[0])
    parser.add_argument("name", nargs="?", default="", help="only mutants whose name holds this")
    chosen = {name: mutant for name, mutant in MUTANTS.items() if parser.parse_args().name in name}
    if not chosen:
        parser.error("no mutant has that in its name")
    unnoticed = []
    with tempfile.TemporaryDirectory() as folder:
        runner = MutantRunner(folder)
        for name, mutant in tqdm(chosen.items(), unit="mutant"):
            caught = runner.catches(mutant)
            tqdm.write(f"{name}: {caught or 'NOT CAUGHT'}")
            unnoticed += [] if caught else [name]
    print(f"{len(chosen) - len(unnoticed)} of {len(chosen)} mutants caught")
    sys.exit(1 if unnoticed else 0)


if __name__ == "__main__":
    main()
