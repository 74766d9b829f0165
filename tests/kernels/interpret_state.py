"""What no case reaches, under the interpreter: `TRITON_INTERPRET=1 python -m tests.kernels.interpret_state`.

State operations (optimisers, clipping, loss scale, running statistics, caches, the step counter), masks and noise that
kernels draw themselves, sums too long for a case, and work cut into several chunks. The oracle is the reference in
float64, the baseline the reference in float32; masks must be the same bits. Prints one line a check, and how far loops
and grids went (tests/kernels/iterations.py) as a last line of JSON; an exception ends it with code 1.
"""

import json
from itertools import product

import numpy as np

import core.functional as F
import kernels.gpu.cross_entropy as gpu_losses
from bench.parity.cases import BY_NAME, CASES
from bench.parity.comparing import comparisons
from bench.parity.rule import Draw, assert_accurate
from core import Generator, Tensor, nn, optim, random
from core.dispatch import choose, on, run_, use
from core.observe import recording
from core.reference import random as reference
from core.table import TABLE, Kernel
from kernels import launch
from kernels.gpu import random as gpu_random
from kernels.gpu.common import add_up
from tests.core.purity import saved_in_vain
from tests.kernels import iterations

RNG = np.random.default_rng(0)
SHAPES = ((3, 5), (7,), (), (2, 3, 4), (0, 3), (70,))


def three(f, *arrays):
    """f's result by kernels in float32, by the reference in float64 and in float32; f gets copies."""
    results = []
    for dtype, mode in ((np.float32, "kernels"), (np.float64, "reference"), (np.float32, "reference")):
        with on("cuda"), use(mode):
            results.append(f(*(a.astype(dtype) if a.dtype.kind == "f" else a.copy() for a in arrays)))
    return results


def agree(label, f, *arrays):
    ours, oracle, theirs = three(f, *arrays)
    for i, (a, o, t) in enumerate(zip(ours, oracle, theirs)):
        assert_accurate(f"{label} {i}", [Draw(np.asarray(a), np.asarray(o, np.float64), np.asarray(t))], np.float32)
    print(label)


def optimiser(make, flags=(None, None, None)):
    """A function that trains parameters of SHAPES and gives them back, with their moments. Where a step's flag is 0 its
    gradients are nan: they must not be looked at."""

    def f(*arrays):
        half = len(arrays) // 2
        parameters = {str(i): nn.Parameter(a) for i, a in enumerate(arrays[:half])}
        o = make(parameters)
        for step, flag in enumerate(flags):
            for i, p in enumerate(parameters.values()):
                p.grad = None if i == 1 and step else arrays[half + i] * (np.nan if flag == 0 else step + 1)
            o.step(flag if flag is None else np.array(flag, np.float32))
        return [p.data for p in parameters.values()] + [m for group in o.moments.values() for m in group.values()]

    return f


def clipped(*grads):
    norm = run_("clip_grad_norm_", list(grads), max_norm=2.0)
    return [np.asarray(norm, grads[0].dtype), *grads]


def averaged(*flags):
    """A function that moves averages towards parameters, both of SHAPES."""

    def f(*arrays):
        averages, parameters = ([Tensor(a) for a in part] for part in (arrays[: len(SHAPES)], arrays[len(SHAPES) :]))
        for flag in flags:
            optim.ema_(averages, parameters, 0.9, flag if flag is None else np.array(flag, np.float32))
        return [a.data for a in averages]

    return f


def loss_scale(arrays):
    """Scale, flag and gradients as the reference has them, over steps of which the third and fourth overflow."""
    seen = []
    for mode in ("kernels", "reference"):
        with on("cuda"), use(mode):
            scale, trace = optim.LossScale(initial=8.0, interval=2), []
            for step in range(6):
                parameters = [nn.Parameter(np.zeros_like(a, np.float32)) for a in arrays]
                for p, a in zip(parameters, arrays):
                    p.grad = a.astype(np.float32)
                if step in (2, 3):
                    parameters[-1].grad[-1, -1] = np.nan if step == 2 else np.inf
                flag = scale.unscale_(parameters)
                trace.append([flag.copy(), *(a.copy() for a in scale.state().values()), *(p.grad for p in parameters)])
            seen.append(trace)
    assert all(np.array_equal(a, b) for one, other in zip(*seen) for a, b in zip(one, other))
    assert [float(t[0]) for t in seen[0]] == [1, 1, 0, 0, 1, 1] and not any(g.any() for g in seen[0][2][3:])
    print("loss scale")


def running(mean, var, m, v):
    run_("running_stats_", mean, var, m, v, momentum=0.3, count=5)
    return mean, var


def running_columns(*moments):
    """The running statistics as columns of one array, where no kernel writes: they are copied, and written back."""
    columns = np.stack(moments, axis=1)
    running(*columns.T[:2], *moments[2:])
    return [columns]


def main():
    iterations.watch()
    arrays = [RNG.standard_normal(s) for s in (*SHAPES, *SHAPES)]
    agree("adam", optimiser(lambda p: optim.Adam(p, 1e-2, weight_decay=0.1)), *arrays)
    agree("adamw", optimiser(lambda p: optim.AdamW(p, 1e-2)), *arrays)
    agree("sgd", optimiser(lambda p: optim.SGD(p, 1e-2, momentum=0.9, nesterov=True, weight_decay=0.1)), *arrays)
    agree("clip_grad_norm", clipped, *arrays[:6], RNG.standard_normal((33, 17)))
    agree("adam, taken or not", optimiser(lambda p: optim.Adam(p, 1e-2), flags=(1, 0, 1)), *arrays)
    agree("sgd, taken or not", optimiser(lambda p: optim.SGD(p, 1e-2, momentum=0.9), flags=(1, 0, 1)), *arrays)
    agree("ema", averaged(None), *arrays)
    agree("ema, taken or not", averaged(1, 0, 1), *arrays)
    loss_scale([*arrays[:6], RNG.standard_normal((33, 17))])
    for how in (running, running_columns):
        agree(how.__name__, how, *(np.abs(RNG.standard_normal((4, 33))) + 0.1))
    cache_and_step()
    drawn_masks()
    noise()
    draws_of_a_part()
    noise_drawn_again()
    long_sums()
    counted()
    targets_out_of_range()
    chunks()
    whole_steps()
    saved()
    print("kernels launched:", " ".join(sorted(launch.COUNT)))
    print(json.dumps(iterations.report()))


def cache_and_step():
    """A cache of either dtype, in C order or not; the step's counter."""
    for dtype, order in product(("float32", "float16"), ("C", "F")):
        buffer, x, step = np.zeros((2, 3, 9, 4), dtype, order), RNG.standard_normal((2, 3, 5, 4)), np.array(7)
        with on("cuda"), use("kernels"):
            run_("cache_", buffer, x.astype(dtype), 3)
            run_("advance_", step)
        assert np.array_equal(buffer[:, :, 3:8], x.astype(dtype)), (dtype, order)
        assert not buffer[:, :, :3].any() and not buffer[:, :, 8:].any() and step == 8
    print("cache and step")


def drawn_masks():
    """Forward and backward drop the same elements, those that the reference drops, even if the step ends between."""
    x, w = RNG.standard_normal((9, 37)), np.ones(37, np.float32)
    ops = {
        "dropout": lambda x: F.dropout(x, 0.3),
        "add_layer_norm": lambda x: (lambda y, r: r + y * 0)(*F.add_layer_norm(x, x.data * 0, w, None, dropout_p=0.3)),
        "add_layer_norm, the sum alone": lambda x: F.add_layer_norm(x, x.data * 0, w, None, dropout_p=0.3)[1],
        "batch_norm": lambda x: F.batch_norm(x, None, None, training=True, dropout_p=0.3),
    }
    for name, f in ops.items():
        kept = []
        for mode in ("kernels", "reference"):
            leaf = Tensor(x.astype(np.float32), requires_grad=True)
            with on("cuda"), use(mode), Generator(5) as generator:
                y = f(leaf)
                generator.advance_()
                y.backward(np.ones(y.shape, np.float32))
            kept.append((y.data != 0, leaf.grad))
        assert np.array_equal(kept[0][0], kept[1][0]) and 0.5 < kept[0][0].mean() < 0.9, name
        assert np.abs(kept[0][1] - kept[1][1]).max() < 1e-5, name
    print("drawn masks")


def noise():
    step = np.array(3)
    exact, rounded = (reference.normal((5, 41), 11, 2, step, dtype) for dtype in (np.float64, np.float32))
    assert_accurate("normal", [Draw(gpu_random.normal((5, 41), 11, 2, step, np.float32), exact, rounded)], np.float32)
    bits = gpu_random.uniform((5, 41), 11, 2, step, np.float32), reference.uniform((5, 41), 11, 2, step, np.float32)
    assert np.array_equal(*bits)
    print("noise")


def draws_of_a_part():
    """Wherever it begins and however long it is, and whatever was in memory before and behind it."""
    n, step = 300, np.array(3)  # several programs
    whole = reference.keep_mask((n,), 0.3, 11, 2, step)
    for offset in (0, 7, 8, 2**35 + 5):
        for name, more in (("uniform", (np.float32,)), ("normal", (np.float32,)), ("keep_mask", ())):
            arguments = (0.3,) * (name == "keep_mask")
            ours, theirs = (
                getattr(backend, name)((n - 90,), *arguments, 11, 2, step, *more, offset=offset)
                for backend in (gpu_random, reference)
            )
            assert ours.dtype == theirs.dtype, name
            if name == "normal":
                exact = reference.normal((n - 90,), 11, 2, step, np.float64, offset)
                assert_accurate(f"normals from {offset} on", [Draw(ours, exact, theirs)], np.float32)
            else:
                assert np.array_equal(ours, theirs), (name, offset)
        if offset < 90:
            assert np.array_equal(gpu_random.keep_mask((n - 90,), 0.3, 11, 2, step, offset), whole[offset:][: n - 90])
    beside = np.full(n, -1, np.float32)
    gpu_random._drawn(gpu_random.normal_lane, 4, beside[20:-20], 11, 2, step, 7)
    assert (beside[:20] == -1).all() and (beside[-20:] == -1).all() and (beside[20:-20] != -1).all()
    print("draws of a part")


def noise_drawn_again():
    """reparameterize draws what `normal` draws, forward and backward, also if the step ends between, and keeps none of
    it; all by kernels."""
    mu, logvar, dz = RNG.standard_normal((3, 5, 41)).astype("f")
    found = []
    with on("cuda"), use("kernels"), recording() as log:
        with Generator(11):
            given = random.normal(mu.shape)
        for noise in (given, None):
            leaves = [Tensor(x, requires_grad=True) for x in (mu, logvar)]
            with Generator(11) as generator:
                z = F.reparameterize(*leaves, noise=noise)
            generator.advance_()
            z.backward(dz)
            found.append((z.data, *(leaf.grad for leaf in leaves)))
        _, step, key = random.normal_draw(mu.shape, np.float32)
        _, saved = choose("reparameterize", [mu, logvar, None, step], key)[0].forward(mu, logvar, None, step, **key)
    assert all(np.array_equal(one, other) for one, other in zip(*found)) and {b for _, b in log} == {"triton"}, log
    assert all(x is None or x.size == 1 or np.shares_memory(x, logvar) for x in saved)
    agree("reparameterize", lambda m, v, n: [F.reparameterize(m, v, noise=n).data], mu, logvar, given)


def with_gradients(f):
    """f's result, which is one number, and the gradients of its floating arguments."""

    def g(*arrays):
        leaves = [Tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
        y = f(*leaves)
        y.backward()
        return [y.data, *(leaf.grad for leaf in leaves if leaf.requires_grad)]

    return g


def long_sums():
    """Losses of enough elements for several iterations of the kernels that add up their parts."""
    z, mu, logvar = (RNG.standard_normal(s) for s in ((200, 5), (3, 13), (3, 13)))
    x, t, targets = RNG.standard_normal((3, 211)), RNG.random((3, 211)), RNG.integers(0, 5, 200)
    agree("elbo", with_gradients(lambda x, mu, logvar: F.elbo(x, t.astype(x.dtype), mu, logvar)), x, mu, logvar)
    agree("gaussian_kl", with_gradients(F.gaussian_kl), mu, logvar)
    agree("reparameterize", with_gradients(lambda m, v: F.reparameterize(m, v, noise=m.data * 2).sum()), mu, logvar)
    agree("cross_entropy", with_gradients(lambda z: F.cross_entropy(z, targets)), z)
    parts = np.abs(RNG.standard_normal(2500)).astype(np.float32)
    found = Draw(add_up(parts, "float32", 0.5), parts.sum(dtype=float) * 0.5, parts.sum() / 2)
    assert_accurate("add_up", [found], np.float32)
    print("long sums")


def whole_steps():
    """Timesteps as a captured step draws them: whole numbers on the device."""
    angles = np.array([[0.0], [37.0], [999.0]]) / [[1.0, 100.0]]  # of dim 4: periods of 1 and 10,000^(1/2)
    for dtype in (np.int32, np.int64):
        with on("cuda"), use("kernels"):
            y = F.timestep_embedding(np.array([0, 37, 999], dtype), 4).data
        assert y.dtype == np.float32 and abs(y - np.hstack([np.cos(angles), np.sin(angles)])).max() < 2e-7, y
    print("whole steps")


def counted():
    """Launches are counted by file and name, where a program ran: an empty grid has none."""
    before = launch.COUNT.copy()
    with on("cuda"), use("kernels"):
        for ids in (np.zeros(0, int), np.zeros(2, int)):
            F.embedding(ids, np.ones((3, 2), np.float32))
    assert launch.COUNT - before == {"embedding._gather": 1}, launch.COUNT
    print("counted")


def targets_out_of_range():
    """They are no class: the row's loss is nan, and nothing outside the logits is read."""
    z, targets = RNG.standard_normal((4, 5)).astype("f"), np.array([0, 5, -1, 4])
    options = {"ignore_index": -100, "label_smoothing": 0.0, "reduction": "none", "z_loss": 0.0}
    with on("cuda"), use("kernels"):
        losses, _ = choose("cross_entropy", [z, targets], options)[0].forward(z, targets, **options)
    assert np.isnan(losses).tolist() == [False, True, True, False], losses
    print("targets out of range")


def chunks():
    """Work that no small case cuts, cut: several chunks of rows, the last one partial."""
    before, gpu_losses.CHUNK = gpu_losses.CHUNK, 20
    try:
        for name in ("mean-ignored-smoothed", "sum-3d"):
            case = BY_NAME[f"linear_cross_entropy/{name}"]
            with on("cuda"), use("kernels"):
                faults = [c.verdict.fault for c in comparisons(case, np.float32, most=8) if c.verdict.fault]
            assert not faults, faults
    finally:
        gpu_losses.CHUNK = before
    print("chunks")


def saved():
    """The first case of each operation, and of one activation for each thing that may be kept for it."""
    first: dict = {}
    for case in CASES:
        usable = all(a.size for a in case.arrays()) and isinstance(TABLE[case.op].kernels["cuda"], Kernel)
        if usable and case.options.get("act") in (None, "relu", "gelu"):
            first.setdefault((case.op, case.options.get("act")), case)
    with on("cuda"), use("kernels"):
        vain = saved_in_vain(first.values())
    assert not vain, vain
    print("nothing is saved in vain")


if __name__ == "__main__":
    main()
