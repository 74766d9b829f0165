"""Both convolutions, on images (N, H, W, C), against torch's with channels first."""

import torch.nn.functional as TF

from bench.parity.cases.inputs import ACTS, KINKED, Case, F, half, normal, whole


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


CASES = [*CONV, *DECONV, *_conv_acts()]
