"""Slips of the pen in GPU kernels, which the interpreter must meet: `python -m tests.mutants.mutants gpu`. See
tests/mutants/mutants.py.

A rescale dropped, a last block skipped, a partial sum dropped, an offset wrong by one: in each family where there is
such a thing. None shows in a loop that goes round once, so that each is also a test of the cases' lengths.
"""

from tests.mutants.mutant_runner import Mutant


def gpu(file, old, new, op, case=""):
    """An edit of a GPU kernel: the interpreter meets it."""
    case = f" --case {case}" if case else ""
    return Mutant(f"kernels/gpu/{file}", old, new, f"interpret {op} --dtype float32{case}")


KERNELS = {
    "gpu-group-norm-last-pixels-alone": gpu(
        "group_norm.py", "dw_sum += dz * xhat", "dw_sum = dz * xhat", "group_norm", "past"
    ),
    "gpu-group-norm-neighbour-in-the-group": gpu(
        "group_norm.py", "& (lane < WIDTH)[None, :]", "& (lane < BLOCK_W)[None, :]", "group_norm", "past"
    ),
    "gpu-group-norm-mean-of-a-rounded-width": gpu(
        "group_norm.py",
        "mean = tl.sum(tl.sum(total, 0), 1) / n",
        "mean = tl.sum(tl.sum(total, 0), 1) / (P * BLOCK_W)",
        "group_norm",
        "past",
    ),
    "gpu-upsampling-last-place-dropped": gpu(
        "upsample.py", "range(0, SH * SW)", "range(0, SH * SW - 1)", "upsample_nearest"
    ),
    "gpu-timestep-quarter-too-far": gpu(
        "embedding.py", "quarter(rest, (turned - 1) & 3)", "quarter(rest, (turned + 1) & 3)", "timestep_embedding"
    ),
    "gpu-z-loss-without-its-top": gpu(
        "cross_entropy.py", "z_loss * (top + rest) * (top + rest)", "z_loss * rest * rest", "cross_entropy", "z-loss"
    ),
    "gpu-hinge-gradient-at-its-kink": gpu(
        "adversarial.py",
        "tl.where(1.0 + x <= 0.0, 0.0, 1.0)",
        "tl.where(1.0 + x < 0.0, 0.0, 1.0)",
        "discriminator_loss",
    ),
    "gpu-attention-rescale-dropped": gpu(
        "attention.py", "v, y * shrink[:, None], input", "v, y, input", "attention", "past"
    ),
    "gpu-attention-last-block-skipped": gpu(
        "attention.py",
        "hi = tl.minimum(lo + length, Tk)",
        "hi = tl.minimum(lo + length, Tk - 1) // BLOCK_N * BLOCK_N",
        "attention",
        "past",
    ),
    "gpu-attention-causal-tile-short": gpu(
        "attention.py", "first + BLOCK_M + offset)", "first + offset)", "attention", "causal"
    ),
    "gpu-attention-combine-unweighed": gpu(
        "attention.py", "tl.sum(parts * share[:, None], 0)", "tl.sum(parts, 0)", "attention", "many-keys"
    ),
    "gpu-attention-last-split-dropped": gpu(
        "attention.py", "mask=s < splits, other=0.0", "mask=s < splits - 1, other=0.0", "attention", "many-keys"
    ),
    "gpu-attention-last-queries-skipped-in-dk": gpu(
        "attention_backward.py",
        "for start in tl.range(lo, Tq, BLOCK_M,",
        "for start in tl.range(lo, Tq // BLOCK_M * BLOCK_M, BLOCK_M,",
        "attention",
        "past",
    ),
    "gpu-attention-last-keys-skipped-in-dq": gpu(
        "attention_backward.py",
        "for start in tl.range(0, hi, BLOCK_N,",
        "for start in tl.range(0, hi // BLOCK_N * BLOCK_N, BLOCK_N,",
        "attention",
        "past",
    ),
    "gpu-attention-bias-partial-dropped": gpu(
        "attention_backward.py", "tl.range(0, iterations,", "tl.range(1, iterations,", "attention", "past-a-block-bias"
    ),
    "gpu-conv-phase-offset": gpu(
        "conv.py",
        "first = (r + AXIS.padding) // AXIS.gcd",
        "first = (r + 1 + AXIS.padding) // AXIS.gcd",
        "conv_transpose2d",
        "stride-2-gan",
    ),
    "gpu-conv-phase-reads-the-next-pixel": gpu(
        "conv.py",
        "(r + AXIS.padding - AXIS.dilation * first) // AXIS.stride",
        "(r + AXIS.padding - AXIS.dilation * first) // AXIS.stride + 1",
        "conv_transpose2d",
        "ragged-stride-3",
    ),
    "gpu-conv-last-block-skipped": gpu(
        "conv.py",
        "for start in range(0, total, BLOCK_K):",
        "for start in range(0, total // BLOCK_K * BLOCK_K, BLOCK_K):",
        "conv2d",
        "ragged",
    ),
    "gpu-conv-last-pixels-skipped-in-dw": gpu(
        "conv_weight.py",
        "for start in range(s * share, last, BLOCK_Q):",
        "for start in range(s * share, last // BLOCK_Q * BLOCK_Q, BLOCK_Q):",
        "conv2d",
        "ragged",
    ),
    "gpu-conv-partial-dropped": gpu(
        "conv_weight.py",
        "for start in range(0, parts, BLOCK_P):",
        "for start in range(BLOCK_P, parts, BLOCK_P):",
        "conv2d",
        "ragged",
    ),
    "gpu-matmul-partial-dropped": gpu(
        "matmul.py", "for i in range(0, parts):", "for i in range(1, parts):", "matmul", "long-inner"
    ),
    "gpu-matmul-last-block-skipped": gpu(
        "matmul.py",
        "for at in range(start, tl.minimum(start + chunk, K), BLOCK_K):",
        "for at in range(start, tl.minimum(start + chunk, K) // BLOCK_K * BLOCK_K, BLOCK_K):",
        "linear",
        "past",
    ),
    "gpu-matmul-last-group-as-high-as-the-others": gpu(
        "matmul.py", "height = tl.minimum(tiles_m - first, GROUP)", "height = GROUP", "linear", "past"
    ),
    "gpu-linear-last-rows-skipped-in-db": gpu(
        "matmul.py", "stop = tl.minimum(start + strip, rows)", "stop = start + strip // 3 * 2", "linear", "past"
    ),
    "gpu-layer-norm-last-rows-skipped": gpu(
        "layer_norm.py",
        "for group in range(program * ROWS, rows, tl",
        "for group in range(program * ROWS, rows - ROWS, tl",
        "layer_norm",
        "past",
    ),
    "gpu-layer-norm-last-columns-skipped": gpu(
        "layer_norm.py",
        "        for start in range(0, WIDTH, BLOCK):\n            column",
        "        for start in range(0, WIDTH - BLOCK, BLOCK):\n            column",
        "layer_norm",
        "past",
    ),
    "gpu-batch-norm-strips-joined-without-their-distance": gpu(
        "batch_norm.py",
        "tl.sum(squares + count * deviation * deviation, 0)",
        "tl.sum(squares, 0)",
        "batch_norm",
        "past",
    ),
    "gpu-batch-norm-last-rows-skipped": gpu(
        "batch_norm.py",
        "for start in range(program * strip, stop, BLOCK_R):",
        "for start in range(program * strip, stop // BLOCK_R * BLOCK_R, BLOCK_R):",
        "batch_norm",
        "past",
    ),
    "gpu-norm-partial-dropped": gpu(
        "normalise.py",
        "for start in range(0, programs, BLOCK_P):",
        "for start in range(BLOCK_P, programs, BLOCK_P):",
        "batch_norm",
        "past",
    ),
    "gpu-sum-last-share-short": gpu(
        "reductions.py",
        "tl.minimum(n, (share + 1) * SHARE), BLOCK_N):",
        "tl.minimum(n, (share + 1) * SHARE - 1) // BLOCK_N * BLOCK_N, BLOCK_N):",
        "sum",
        "many-rows",
    ),
    "gpu-bce-log1p-lost": gpu(
        "common.py", "tl.log(u) * (e / tl.where(u == 1.0, 1.0, u - 1.0))", "tl.log(u)", "bce_with_logits", "confident"
    ),
    "gpu-draws-of-a-part-begin-at-the-batch-s": Mutant(
        "kernels/gpu/random.py",
        "block = i + (first_high.to(tl.int64) << 32) + first_low.to(tl.uint32).to(tl.int64)",
        "block = i + (first_high.to(tl.int64) << 32)",
        "tests/kernels/test_interpreter.py -k state_operations",
    ),
}
