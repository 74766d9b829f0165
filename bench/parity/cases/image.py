"""Cases of the convolutions and batch norm. Ours is (N, H, W, C); torch's layout is made inside `theirs`.

The shapes are small but ragged: each reaches a branch that a power of two would not (a remainder of pixels no window
starts at, a stride past the kernel, a phase without taps, the narrow path of few output channels in each direction).
"""

import torch
import torch.nn.functional as TF

from bench.parity.cases.inputs import Case, F, coin, copied, half, normal, positive, value, whole
from bench.parity.cases.shape import ACTS, KINKED
from core.runtime.distributed import ALONE, Alone


def channels_first(x):
    return x.permute(0, 3, 1, 2)


def channels_last(x):
    return x.permute(0, 2, 3, 1)


def torch_weights(w):
    """Ours has the kernel's axes first, torch last (contiguous, because torch's own gradient insists on it)."""
    return w.permute(3, 2, 0, 1).contiguous()


def _arrays(x, w, biases, maker, scale):
    """Makers of x, w (times `scale`) and as many biases; whole numbers for all but the biases keep off a kink."""
    if maker is whole:
        return whole(*x), whole(*w), *([half(biases)] if biases else [])
    return normal(*x), normal(*w, scale=scale), *([normal(biases)] if biases else [])


def conv(name, x, w, bias=True, act=None, maker=normal, smooth=True, scale=1.0, **options):
    """conv2d: x (N, H, W, Cin), w (KH, KW, Cin, Cout); torch wants (Cout, Cin, KH, KW)."""

    def ours(x, w, b=None):
        return F.conv2d(x, w, b, act=act, **options)

    def theirs(x, w, b=None):
        y = TF.conv2d(channels_first(x), torch_weights(w), b, **options)
        return ACTS[act](channels_last(y))

    make = _arrays(x, w, w[3] if bias else 0, maker, scale)
    return Case(f"conv2d/{name}", ours, theirs, make, smooth=smooth, options={"act": act, **options})


def deconv(name, x, w, bias=True, act=None, maker=normal, smooth=True, scale=1.0, **options):
    """conv_transpose2d: x (N, H, W, Cin), w (KH, KW, Cout, Cin); torch wants (Cin, Cout, KH, KW)."""

    def ours(x, w, b=None):
        return F.conv_transpose2d(x, w, b, act=act, **options)

    def theirs(x, w, b=None):
        return ACTS[act](channels_last(TF.conv_transpose2d(channels_first(x), torch_weights(w), b, **options)))

    make = _arrays(x, w, w[2] if bias else 0, maker, scale)
    return Case(f"conv_transpose2d/{name}", ours, theirs, make, smooth=smooth, options={"act": act, **options})


CONV = [
    conv("plain", (2, 5, 6, 3), (3, 3, 3, 4)),
    conv("same", (2, 5, 6, 3), (3, 3, 3, 4), padding=1),
    conv("no-bias", (2, 5, 6, 3), (3, 3, 3, 4), bias=False, padding=1),
    conv("as-many-out-as-in", (2, 4, 5, 3), (2, 2, 3, 3)),
    conv("pointwise", (2, 3, 4, 5), (1, 1, 5, 3)),
    conv("one-channel", (2, 5, 5, 1), (3, 3, 1, 4), padding=1),
    conv("asymmetric-kernel", (2, 6, 5, 2), (2, 3, 2, 3), padding=(1, 2)),
    conv("stride-2-remainder", (2, 6, 7, 3), (3, 3, 3, 4), stride=2),
    conv("stride-2-gan", (1, 7, 7, 3), (5, 5, 3, 4), stride=2, padding=2),
    conv("stride-past-kernel", (2, 8, 9, 3), (2, 2, 3, 4), stride=3),
    conv("stride-past-kernel-1x1", (2, 5, 6, 3), (1, 1, 3, 4), stride=2),
    conv("strides-differ", (2, 6, 7, 2), (3, 2, 2, 3), stride=(1, 3), padding=(2, 0)),
    conv("stride-past-image", (2, 3, 3, 2), (2, 2, 2, 3), stride=7),
    conv("kernel-is-image", (3, 4, 5, 2), (4, 5, 2, 3)),
    conv("kernel-past-image", (2, 2, 3, 2), (4, 4, 2, 3), padding=2),
    conv("padding-past-kernel", (2, 3, 3, 2), (2, 2, 2, 3), padding=3),
    conv("dilation-2", (2, 7, 8, 3), (3, 3, 3, 4), dilation=2),
    conv("dilations-differ", (2, 7, 8, 2), (2, 3, 2, 3), dilation=(1, 3), padding=(1, 2)),
    conv("dilation-and-stride", (2, 9, 8, 2), (3, 2, 2, 3), dilation=(2, 3), stride=(3, 2), padding=1),
    conv("dilation-shares-factor-with-stride", (2, 11, 12, 2), (3, 3, 2, 3), dilation=4, stride=6, padding=5),
    conv("narrow", (2, 5, 6, 8), (3, 3, 8, 2), padding=1),
    conv("narrow-to-one", (2, 4, 5, 4), (3, 2, 4, 1)),
    conv("narrow-stride-2", (2, 6, 7, 8), (3, 3, 8, 2), stride=2, padding=1),
    conv("narrow-dilation", (2, 7, 8, 8), (3, 2, 8, 1), dilation=(2, 3), padding=(1, 2)),
    conv("narrow-dilation-and-stride", (2, 8, 9, 4), (2, 3, 4, 1), dilation=(3, 2), stride=(2, 3), padding=2),
    conv("narrow-padding-past-kernel", (1, 3, 3, 4), (2, 2, 4, 1), padding=3),
    conv("wide", (2, 5, 6, 2), (3, 3, 2, 8), padding=1),  # its input gradient is the narrow path
    conv("wide-stride-2", (2, 6, 5, 1), (4, 3, 1, 4), stride=2, padding=1),
    conv("batch-0", (0, 5, 6, 3), (3, 3, 3, 4), padding=1),
    conv("batch-0-wide", (0, 14, 14, 64), (3, 3, 64, 64), padding=1),  # enough channels for the CPU's Winograd
    conv("one-pixel", (2, 1, 1, 3), (3, 3, 3, 4), padding=1),
    conv("ragged-channels", (2, 9, 11, 17), (3, 3, 17, 19), padding=1),  # past one tile of 16, and not two
    conv("ragged-stride-2", (3, 13, 10, 5), (5, 5, 5, 21), stride=2, padding=2),
    conv("whole-blocks", (2, 5, 6, 16), (3, 2, 16, 5), stride=(2, 1), dilation=(1, 2), padding=1),
    conv("one-row", (2, 1, 13, 3), (1, 4, 3, 5), stride=(1, 2), padding=(0, 1)),
    conv("one-pixel-out", (3, 5, 5, 7), (3, 3, 7, 5), stride=4),
    conv("many-pixels", (4, 20, 20, 2), (3, 3, 2, 3), padding=1),
]

DECONV = [
    deconv("plain", (2, 4, 5, 3), (3, 3, 4, 3)),
    deconv("no-bias", (2, 4, 5, 3), (3, 3, 4, 3), bias=False, padding=1),
    deconv("as-many-out-as-in", (2, 4, 5, 3), (2, 2, 3, 3)),
    deconv("pointwise", (2, 3, 4, 5), (1, 1, 3, 5)),
    deconv("pointwise-stride-2", (2, 3, 4, 2), (1, 1, 3, 2), stride=2),
    deconv("stride-2-gan", (2, 4, 3, 3), (5, 5, 4, 3), stride=2, padding=2, output_padding=1),
    deconv("stride-2-vae", (2, 3, 4, 3), (4, 4, 2, 3), stride=2, padding=1),
    deconv("stride-past-kernel", (2, 3, 4, 3), (2, 2, 4, 3), stride=3),
    deconv("stride-past-kernel-output-padding", (2, 3, 3, 2), (2, 1, 3, 2), stride=4, output_padding=(3, 2)),
    deconv("strides-differ", (2, 3, 4, 2), (3, 2, 3, 2), stride=(1, 3), padding=(2, 0), output_padding=(0, 2)),
    deconv("asymmetric-kernel", (2, 4, 3, 2), (2, 5, 3, 2), stride=2, padding=(0, 2), output_padding=(1, 0)),
    deconv("padding-crops", (2, 6, 7, 2), (3, 3, 3, 2), padding=3),
    deconv("padding-leaves-one-pixel", (2, 3, 3, 2), (3, 3, 3, 2), padding=2),
    deconv("dilation-2", (2, 4, 5, 3), (3, 3, 4, 3), dilation=2, padding=1),
    deconv("dilation-output-padding-past-stride", (2, 4, 5, 2), (2, 3, 3, 2), dilation=3, output_padding=2),
    deconv("dilation-4-stride-2-output-padding-3", (2, 3, 4, 2), (3, 2, 3, 2), stride=2, dilation=4, output_padding=3),
    deconv("dilation-and-stride", (2, 4, 3, 2), (3, 2, 3, 2), stride=(3, 2), dilation=(2, 3), padding=1),
    deconv("dilation-shares-factor-with-stride", (2, 3, 3, 2), (3, 3, 3, 2), stride=6, dilation=4, padding=3),
    deconv("narrow", (2, 4, 5, 8), (3, 3, 2, 8), padding=1),
    deconv("narrow-stride-2", (2, 4, 5, 8), (3, 3, 2, 8), stride=2, padding=1, output_padding=1),
    deconv("narrow-dilation", (2, 4, 5, 4), (3, 2, 1, 4), dilation=(2, 3), stride=(1, 2)),
    deconv("wide", (2, 4, 5, 2), (3, 3, 8, 2), padding=1),
    deconv("wide-stride-2", (2, 3, 3, 1), (3, 4, 4, 1), stride=2, padding=1),
    deconv("batch-0", (0, 4, 5, 3), (3, 3, 4, 3), stride=2),
    deconv("batch-0-wide", (0, 14, 14, 64), (5, 5, 64, 64), stride=2, padding=2, output_padding=1),
    deconv("one-pixel", (2, 1, 1, 3), (4, 4, 2, 3), stride=2, padding=1),
    deconv("ragged-channels", (2, 7, 9, 17), (3, 3, 19, 17), padding=1),
    deconv("ragged-stride-2", (3, 6, 5, 21), (5, 5, 18, 21), stride=2, padding=2, output_padding=1),
    deconv("ragged-stride-3", (2, 5, 4, 9), (4, 5, 7, 9), stride=3, padding=(1, 2), output_padding=(2, 0)),
    deconv("whole-blocks", (2, 3, 4, 16), (3, 2, 5, 16), stride=(2, 1), dilation=(1, 2), padding=1),
    deconv("one-row", (2, 1, 9, 3), (1, 4, 5, 3), stride=(1, 2), padding=(0, 1)),
    deconv("many-pixels", (4, 10, 10, 2), (4, 4, 3, 2), stride=2, padding=1),
]


def _conv_acts():
    shapes = (2, 5, 4, 2), (3, 2, 2, 3)
    for act in ACTS:
        yield conv(f"act-{act}", *shapes, act=act, padding=1, smooth=act not in KINKED)
        yield deconv(f"act-{act}", (2, 3, 4, 2), (3, 2, 3, 2), act=act, stride=2, smooth=act not in KINKED)
        if act in KINKED:  # whole numbers keep each result half a unit from the kink
            yield conv(f"act-{act}-smooth", *shapes, act=act, padding=1, maker=whole)
            yield deconv(f"act-{act}-smooth", (2, 3, 4, 2), (3, 2, 3, 2), act=act, stride=2, maker=whole)


# --- batch norm ----------------------------------------


def _torch_norm(x, mean, var, w, b, training, momentum, eps):
    """torch's batch norm with channels last: the channel axis goes second and back."""
    y = TF.batch_norm(x.movedim(-1, 1), mean, var, w, b, training, momentum, eps)
    return y.movedim(1, -1)


class Mirror(Alone):
    """Two ranks that hold the same arrays."""

    size = 2

    def sum_(self, array):
        array *= 2


def _mirrored(x, *args):
    """torch's norm of the batch of both: a half's result, whose gradients are those of one rank."""
    return sum(_torch_norm(torch.cat([x, x]), *args).chunk(2)) / 2


def train(
    name, shape, affine="wb", act=None, p=0.0, x=None, w=None, b=None, stats=True, momentum=0.1, eps=1e-5, smooth=True,
    world=ALONE,
):  # fmt: skip
    """Training: (y, running mean, running variance), the statistics being copies that the operation may move."""
    c = shape[-1]

    def unpack(args):
        args = list(args)
        return [args.pop(0) if want else None for want in ("w" in affine, "b" in affine, p > 0)]

    def ours(x, mean, var, *rest):
        (w, b, mask), options = unpack(rest), {"act": act, "dropout_p": p, "momentum": momentum, "eps": eps}
        options["world"] = world
        if not stats:
            return F.batch_norm(x, None, None, w, b, True, mask=mask, **options)
        mean, var = copied(mean), copied(var)
        return F.batch_norm(x, mean, var, w, b, True, mask=mask, **options), mean, var

    def theirs(x, mean, var, *rest):
        w, b, mask = unpack(rest)
        mean, var = (mean.clone(), var.clone()) if stats else (None, None)
        y = ACTS[act]((_torch_norm if world.size == 1 else _mirrored)(x, mean, var, w, b, True, momentum, eps))
        y = y if mask is None else y * mask / (1 - p)
        return (y, mean, var) if stats else y

    make = [x or normal(*shape), normal(c), positive(c)]
    make += [positive(c)] * ("w" in affine) + [b or normal(c)] * ("b" in affine) + [coin(*shape)] * (p > 0)
    op = "batch_norm" if world.size == 1 else "sync_batch_norm"
    return Case(f"{op}/{name}", ours, theirs, tuple(make), fixed=(1, 2), smooth=smooth)


def evaluate(name, shape, affine="wb", act=None, b=None, smooth=True):
    c = shape[-1]

    def split(rest):
        rest = list(rest)
        return [rest.pop(0) if letter in affine else None for letter in "wb"]

    def ours(x, mean, var, *rest):
        return F.batch_norm(x, mean, var, *split(rest), act=act)

    def theirs(x, mean, var, *rest):
        return ACTS[act](_torch_norm(x, mean, var, *split(rest), False, 0.1, 1e-5))

    make = (
        [normal(*shape), normal(c), positive(c)] + [positive(c)] * ("w" in affine) + [b or normal(c)] * ("b" in affine)
    )
    return Case(f"batch_norm_eval/{name}", ours, theirs, tuple(make), fixed=(1, 2), smooth=smooth)


# |x^| < sqrt(12) with 12 values a channel and weights below 3, so these channels lie wholly on one side of the kink
SIDES = value([15.0, -15.0, 15.0])


def _norms():
    for act in ACTS:
        kinked = act in KINKED
        yield train(f"act-{act}", (2, 3, 2, 3), act=act, smooth=not kinked)
        yield train(f"act-{act}-dropped", (2, 3, 2, 3), act=act, p=0.3, smooth=not kinked)
        yield evaluate(f"act-{act}", (2, 3, 2, 3), act=act, smooth=not kinked)
        if kinked:
            yield train(f"act-{act}-smooth", (2, 3, 2, 3), act=act, b=SIDES)
            yield train(f"act-{act}-dropped-smooth", (2, 3, 2, 3), act=act, b=SIDES, p=0.3)
            yield evaluate(f"act-{act}-smooth", (2, 3, 2, 3), act=act, b=SIDES)
    yield train("no-weight", (6, 3), affine="b")
    yield train("no-bias", (6, 3), affine="w")
    yield train("bare", (6, 3), affine="")
    yield train("no-statistics", (6, 3), stats=False)
    yield train("momentum-and-eps", (5, 2), momentum=0.3, eps=1e-2)
    yield train("two-values", (2, 3), eps=0.5)  # with a small eps the gradient is a small difference of large terms
    yield train("large-mean", (64, 3), x=normal(64, 3, mean=100.0))
    yield train("large-mean-image", (4, 9, 9, 2), x=normal(4, 9, 9, 2, mean=100.0))
    yield train("many-values", (6, 20, 20, 2))
    yield train("past-a-block", (233, 19))  # with tiles of 16: strips of three, the last not full, and two of channels
    for affine in ("wb", "w", "b", ""):
        yield train(f"affine-{affine or 'none'}", (2, 3, 2, 3), affine=affine, world=Mirror())
    yield train("act-leaky_relu-dropped", (2, 3, 2, 3), act="leaky_relu", p=0.3, smooth=False, world=Mirror())
    yield train("large-mean", (64, 3), x=normal(64, 3, mean=100.0), world=Mirror())
    yield evaluate("rows", (6, 3))
    yield evaluate("no-weight", (6, 3), affine="b")
    yield evaluate("bare", (6, 3), affine="")
    yield evaluate("batch-0", (0, 2, 2, 3))


CASES = [*CONV, *DECONV, *_conv_acts(), *_norms()]

assert len({c.name for c in CASES}) == len(CASES)
