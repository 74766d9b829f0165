"""Wrong lines in the CPU kernels: a partial tile, a last row, a second block, a second thread, a sign, a factor."""

from tests.mutants.mutant_runner import Mutant

ATTENTION = "tests/kernels/test_cpu_attention.py"  # several tiles of keys, and fewer heads than threads


def kernel(file, old, new, ops):
    """An edit of a kernel: the cases of these operations meet it."""
    return Mutant(f"kernels/cpu/{file}", old, new, f"tests/kernels/test_cpu_kernels.py -k {ops}/")


CPU = {
    "cpu-layer-norm-last-rows-of-a-group-lost": kernel(
        "layer_norm.py", "% GROUP == 0 or row + 1 == stop:", "% GROUP == 0:", "layer_norm"
    ),
    "cpu-add-layer-norm-forgets-the-residual-s-gradient": kernel(
        "layer_norm.py", "y[i] += other[i]", "y[i] += f32(0) * other[i]", "add_layer_norm"
    ),
    "cpu-softmax-last-block-of-a-row-lost": kernel(
        "softmax.py",
        "n, total_ = x.shape[1], 0.0\n    for first in range(0, n, BLOCK)",
        "n, total_ = x.shape[1], 0.0\n    for first in range(0, min(n, BLOCK), BLOCK)",
        "softmax",
    ),
    "cpu-attention-sum-not-shrunk": Mutant(
        "kernels/cpu/attention.py",
        "total[r] = total[r] * shrink + added",
        "total[r] = total[r] + added",
        ATTENTION,
    ),
    "cpu-attention-last-query-misses-its-own-key": Mutant(
        "kernels/cpu/attention_backward.py",
        "i + r + 1 + offset - j)), width)",
        "i + r + offset - j)), width)",
        ATTENTION,
    ),
    "cpu-attention-bias-gradient-of-a-second-tile-in-the-first": Mutant(
        "kernels/cpu/attention_backward.py",
        "+ i * dbias_step[2] + j * dbias_step[3]",
        "+ i * dbias_step[2]",
        ATTENTION,
    ),
    "cpu-attention-a-second-piece-of-the-keys-forgotten": Mutant(
        "kernels/cpu/attention_backward.py",
        "dq = dq[0] if splits == 1 else dq.sum(0)",
        "dq = dq[0]",
        ATTENTION,
    ),
    "cpu-batch-norm-gradient-without-the-mean": kernel(
        "batch_norm.py", "(dz[c] - level[c] - (part", "(dz[c] - (part", "batch_norm"
    ),
    "cpu-batch-norm-first-repeat-of-a-chunk-alone": kernel(
        "batch_norm.py", "sums.reshape(2, k, C).sum(axis=1) / R", "sums.reshape(2, k, C)[:, 0] / R", "batch_norm"
    ),
    "cpu-group-norm-repeats-of-a-chunk-dropped": kernel(
        "group_norm.py", "    fold(sums, C)\n    for g", "    for g", "group_norm"
    ),
    "cpu-conv-taps-of-a-border-shifted": kernel(
        "direct.py", "(packed + s * len(col.taps) + group[0])", "(packed + s * len(inside_w) + group[0])", "conv2d"
    ),
    "cpu-conv-weight-gradient-last-row-of-a-tile-lost": kernel(
        "direct_backward.py", "if count > 7:", "if count > 8:", "conv2d"
    ),
    "cpu-narrow-conv-misses-the-first-column": kernel(
        "narrow.py", "if w >= 0 and w < width", "if w > 0 and w < width", "conv2d"
    ),
    "cpu-narrow-transposed-conv-divides-with-a-remainder": kernel(
        "narrow.py", "if q >= 0 and q % sw == 0 and q", "if q >= 0 and q", "conv_transpose2d"
    ),
    "cpu-winograd-sign": Mutant(
        "kernels/cpu/winograd.py",
        "store(v, o + 2 * step, add_product(d2, minus, d1))",
        "store(v, o + 2 * step, add_product(d2, one, d1))",
        "tests/kernels/test_cpu_kernels.py -k winograd",
    ),
    "cpu-winograd-weight-gradient-of-one-thread": Mutant(
        "kernels/cpu/winograd.py",
        "zip(parts, sum(sums[1:], sums[0]))",
        "zip(parts, sums[0])",
        "tests/kernels/test_cpu_kernels.py -k winograd",
    ),
    "cpu-embedding-last-word-of-several-lost": kernel(
        "embedding.py", "for i in places[first:end]", "for i in places[first : end - 1]", "embedding"
    ),
    "cpu-upsampling-gradient-of-one-row": kernel(
        "upsample.py",
        "for i in range(row * down, (row + 1) * down):\n                for k",
        "for i in range(row * down, row * down + 1):\n                for k",
        "upsample_nearest",
    ),
    "cpu-linear-loss-weight-gradient-of-one-thread": kernel(
        "cross_entropy.py", "for part in parts[1:]", "for part in parts[2:]", "linear_cross_entropy"
    ),
    "cpu-linear-ragged-depth-lost": kernel(
        "matmul.py",
        "for k in range(0, b.shape[1], ROWS)",
        "for k in range(0, b.shape[1] - b.shape[1] % ROWS, ROWS)",
        "linear",
    ),
    "cpu-linear-bias-gradient-before-the-activation": kernel(
        "activations.py", "db[k] += dz[i, k]", "db[k] += dy[i, k]", "linear"
    ),
    "cpu-divergence-series": kernel("variational.py", "v * s * f32(1 / 4)", "v * s * f32(1 / 5)", "gaussian_kl"),
    "cpu-gelu-tanh-slope": kernel("pointwise.py", "f32(3 * TANH_GELU[1])", "f32(2 * TANH_GELU[1])", "gelu_tanh"),
    "cpu-noise-scaled-by-twice-its-slope": kernel(
        "reparameterize.py", "f32(0.5) * dz[i] * exp", "dz[i] * exp", "reparameterize"
    ),
    "cpu-exponential-constant": kernel("lanes.py", "1.6666665459e-1", "1.6666e-1", "softmax"),
    "cpu-masks-of-swapped-words": Mutant(
        "kernels/cpu/random.py", "= c | (d << HALF)", "= d | (c << HALF)", "tests/kernels/test_cpu_random.py"
    ),
    "cpu-draws-of-a-part-begin-with-its-block": Mutant(
        "kernels/cpu/random.py", "return y[skip : skip + n]", "return y[:n]", "tests/kernels/test_cpu_random.py"
    ),
    "cpu-adam-second-moment-with-the-first-s-weight": Mutant(
        "kernels/cpu/optim.py", "slope * slope * new2", "slope * slope * new1", "tests/kernels/test_cpu_state.py"
    ),
    "cpu-overflow-downwards-unnoticed": Mutant(
        "kernels/cpu/optim.py", "if abs(g[i]) < f32(np.inf) else 1", "if g[i] < f32(np.inf) else 1",
        "tests/kernels/test_cpu_state.py",
    ),
}  # fmt: skip
