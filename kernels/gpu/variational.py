"""Binary cross entropy on logits, the Gaussian KL, and the loss of a VAE, which is their sum.

    bce_with_logits   L = max(x, 0) - x t + log(1 + exp(-|x|)),    dL/dx = sigmoid(x) - t   (one exp serves the value)
    gaussian_kl       L = (mu^2 + exp(logvar) - 1 - logvar) / 2,   dL/dmu = mu,   dL/dlogvar = (exp(logvar) - 1) / 2
    elbo              loss = rec + beta kl, where rec and kl are sums of the first two over the number of images

Shapes      x any shape, n elements; t the same shape, or one number on the device; mu and logvar the same shape.
            elbo: logits and x (N, ...), mu and logvar (N, Z), beta one number on the device. In kernels lv is logvar
Plan        forward: program i reads BLOCK elements of each input and writes their losses, or their sum into parts[i];
            one program sums the parts in order (no atomics). If one program holds all, as it holds a GAN's logits, it
            writes the result itself and there is one launch. backward: program i reads BLOCK elements, writes as many.
            elbo, two launches each way. Forward: the first programs sum pixels, the others latents, then one program
            sums the parts of both. Backward: _bce_backward over the pixels, _kl_backward over the latents
Cost        of n float32 elements: bce 4n bytes (8n with an array of targets), backward 8n (12n); kl 8n, backward 16n:
            memory decides, or for a VAE's few latents the number of launches
Precision   float32 inside, whatever is stored; log1p keeps its digits where the network is sure and right, a series
            those of exp(logvar) - 1 - logvar where the posterior is near the prior
Versions    storing bce's gradient in the forward pass would cost a write that evaluation never reads and a second read
            to scale it by dy: computing it from x again moves less.
Limits      any shape; a grid has fewer than 2^31 programs, of BLOCK elements each
Source      Kingma & Welling 2014, appendix B; the stable bce is torch's
Status      untested on a device: all of it

# why: docs/gpu-programs.md, _bce_forward line by line; docs/kernels/losses.md
# next: kernels/gpu/reparameterize.py
"""

import triton
import triton.language as tl

from core.arrays import array_module, result_dtype
from core.engine import Op
from kernels.gpu.common import add_up, cdiv, contiguous, log1p, sigmoid
from kernels.launch import blocks, launch


@triton.jit
def _bce(x, t):
    return tl.maximum(x, 0.0) - x * t + log1p(tl.exp(-tl.abs(x)))


@triton.jit
def _expm1(x):
    """exp(x) - 1 and exp(x) - 1 - x: near zero, where these cancel, from x^2/2 (1 + x/3 (1 + x/4 (...)))."""
    series = 1.0 + x * (1 / 11)
    for k in tl.static_range(10, 2, -1):
        series = 1.0 + x * series * (1 / k)
    near, rest = tl.abs(x) < 1.0, 0.5 * x * x * series
    e = tl.where(near, x + rest, tl.exp(x) - 1.0)
    return e, tl.where(near, rest, e - x)


@triton.jit
def _kl(mu, lv):
    _, rest = _expm1(lv)
    return 0.5 * (mu * mu + rest)


@triton.jit
def _number(pointer):
    """The number on the device, 0 if there is none."""
    if pointer is None:
        value = 0.0
    else:
        value = tl.load(pointer).to(tl.float32)
    return value


# --- forward and backward of a sum of losses ----------------------------------------


def _losses(kernel, x, other, reduction, **flags):
    """What `kernel` makes of x and other: the loss of each element, their sum or their mean."""
    xp, dtype, reduce = array_module(x), result_dtype(x, other), reduction != "none"
    config = blocks("variational", "sum" if reduce else "each", x.dtype, x.size)
    programs = cdiv(x.size, config["BLOCK"])
    factor = 1 / x.size if reduction == "mean" and x.size else 1.0
    if not x.size:
        return xp.full((), float("nan") if reduction == "mean" else 0.0, dtype) if reduce else xp.empty(x.shape, dtype)
    if not reduce or programs == 1:
        y = xp.empty(() if reduce else x.shape, dtype)
        launch(kernel, (programs,), x, other, y, x.size, factor, REDUCE=reduce, **flags, **config)
        return y
    parts = xp.empty(programs, "float32")
    launch(kernel, (programs,), x, other, parts, x.size, 1.0, REDUCE=True, **flags, **config)
    return add_up(parts, dtype, factor)


# --- binary cross entropy ----------------------------------------


@triton.jit
def _bce_forward(x_ptr, t_ptr, y_ptr, n, factor, CONSTANT: tl.constexpr, REDUCE: tl.constexpr, BLOCK: tl.constexpr):
    """y[i] = the loss of element i; with REDUCE, y[program] = factor * the sum of its block."""
    program = tl.program_id(0).to(tl.int64)
    o = program * BLOCK + tl.arange(0, BLOCK)
    inside = o < n
    x = tl.load(x_ptr + o, mask=inside, other=0.0).to(tl.float32)
    if CONSTANT:
        t = tl.load(t_ptr).to(tl.float32)
    else:
        t = tl.load(t_ptr + o, mask=inside, other=0.0).to(tl.float32)
    loss = _bce(x, t)
    if REDUCE:
        # What is masked reads as 0, and bce(0, 0) = log 2 is a loss.
        tl.store(y_ptr + program, tl.sum(tl.where(inside, loss, 0.0), 0) * factor)
    else:
        tl.store(y_ptr + o, loss, mask=inside)


@triton.jit
def _bce_backward(
    x_ptr, t_ptr, dy_ptr, dy2_ptr, dx_ptr, n, factor, CONSTANT: tl.constexpr, REDUCED: tl.constexpr, BLOCK: tl.constexpr
):
    """dx[i] = (sigmoid(x[i]) - t[i]) * factor * dy; of a loss that was REDUCED, dy is one number, dy + dy2."""
    o = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = o < n
    x = tl.load(x_ptr + o, mask=inside, other=0.0).to(tl.float32)
    if CONSTANT:
        t = tl.load(t_ptr).to(tl.float32)
    else:
        t = tl.load(t_ptr + o, mask=inside, other=0.0).to(tl.float32)
    if REDUCED:
        dy = _number(dy_ptr) + _number(dy2_ptr)
    else:
        dy = tl.load(dy_ptr + o, mask=inside, other=0.0).to(tl.float32)
    tl.store(dx_ptr + o, (sigmoid(x) - t) * (dy * factor), mask=inside)


def _bce_with_logits(x, target, *, reduction):
    x, target = contiguous(x), contiguous(target)
    return _losses(_bce_forward, x, target, reduction, CONSTANT=_constant(x, target)), (x, target)


def _bce_with_logits_backward(saved, dy, needs_input_grad, *, reduction):
    (x, target), dy = saved, contiguous(dy)
    dx = array_module(x).empty_like(x)
    config = blocks("variational", "each", x.dtype)
    factor = 1 / x.size if reduction == "mean" and x.size else 1.0
    flags = {"CONSTANT": _constant(x, target), "REDUCED": reduction != "none"}
    grid = (cdiv(x.size, config["BLOCK"]),)
    launch(_bce_backward, grid, x, target, dy, None, dx, x.size, factor, **flags, **config)
    return dx, None


def _constant(x, target):
    return target.ndim == 0 and x.ndim > 0


bce_with_logits = Op("bce_with_logits", _bce_with_logits, _bce_with_logits_backward, backend="triton")


# --- the Gaussian KL ----------------------------------------


@triton.jit
def _kl_forward(mu_ptr, lv_ptr, y_ptr, n, factor, REDUCE: tl.constexpr, BLOCK: tl.constexpr):
    """y[i] = the KL of element i; with REDUCE, y[program] = factor * the sum of its block."""
    program = tl.program_id(0).to(tl.int64)
    o = program * BLOCK + tl.arange(0, BLOCK)
    inside = o < n
    mu = tl.load(mu_ptr + o, mask=inside, other=0.0).to(tl.float32)
    lv = tl.load(lv_ptr + o, mask=inside, other=0.0).to(tl.float32)
    if REDUCE:
        tl.store(y_ptr + program, tl.sum(_kl(mu, lv), 0) * factor)  # where masked, mu = lv = 0: no KL
    else:
        tl.store(y_ptr + o, _kl(mu, lv), mask=inside)


@triton.jit
def _kl_backward(
    mu_ptr, lv_ptr, dy_ptr, beta_ptr, dy2_ptr, dmu_ptr, dlv_ptr, n, factor, REDUCED: tl.constexpr, BLOCK: tl.constexpr
):
    """dmu = mu * factor * dy, dlv = (exp(lv) - 1) / 2 * factor * dy; if REDUCED, dy is one number, dy * beta + dy2."""
    o = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = o < n
    mu = tl.load(mu_ptr + o, mask=inside, other=0.0).to(tl.float32)
    lv = tl.load(lv_ptr + o, mask=inside, other=0.0).to(tl.float32)
    if not REDUCED:
        dy = tl.load(dy_ptr + o, mask=inside, other=0.0).to(tl.float32)
    elif beta_ptr is None:
        dy = _number(dy_ptr)
    else:
        dy = _number(dy_ptr) * _number(beta_ptr) + _number(dy2_ptr)
    e, _ = _expm1(lv)
    tl.store(dmu_ptr + o, mu * (dy * factor), mask=inside)
    tl.store(dlv_ptr + o, 0.5 * e * (dy * factor), mask=inside)


def _gaussian_kl(mu, logvar, *, reduction):
    mu, logvar = contiguous(mu), contiguous(logvar)
    return _losses(_kl_forward, mu, logvar, reduction), (mu, logvar)


def _gaussian_kl_backward(saved, dy, needs_input_grad, *, reduction):
    (mu, logvar), dy = saved, contiguous(dy)
    factor = 1 / mu.size if reduction == "mean" and mu.size else 1.0
    return _kl_gradients(mu, logvar, dy, None, None, factor, reduction != "none")


def _kl_gradients(mu, logvar, dy, beta, dy2, factor, reduced):
    dmu, dlogvar = array_module(mu).empty_like(mu), array_module(mu).empty_like(logvar)
    config = blocks("variational", "each", mu.dtype)
    arrays = (mu, logvar, dy, beta, dy2, dmu, dlogvar)
    launch(_kl_backward, (cdiv(mu.size, config["BLOCK"]),), *arrays, mu.size, factor, REDUCED=reduced, **config)
    return dmu, dlogvar


gaussian_kl = Op("gaussian_kl", _gaussian_kl, _gaussian_kl_backward, backend="triton")


# --- the loss of a VAE ----------------------------------------


@triton.jit
def _elbo_parts(logits_ptr, x_ptr, mu_ptr, lv_ptr, parts_ptr, pixels, latents, first, BLOCK: tl.constexpr):
    """parts[program] = the summed loss of its pixels; from program `first` on, the summed KL of its latents."""
    program = tl.program_id(0).to(tl.int64)
    if program < first:
        o = program * BLOCK + tl.arange(0, BLOCK)
        logits = tl.load(logits_ptr + o, mask=o < pixels, other=0.0).to(tl.float32)
        x = tl.load(x_ptr + o, mask=o < pixels, other=0.0).to(tl.float32)
        part = tl.sum(tl.where(o < pixels, _bce(logits, x), 0.0), 0)  # where masked, bce(0, 0) = log 2
    else:
        o = (program - first) * BLOCK + tl.arange(0, BLOCK)
        mu = tl.load(mu_ptr + o, mask=o < latents, other=0.0).to(tl.float32)
        lv = tl.load(lv_ptr + o, mask=o < latents, other=0.0).to(tl.float32)
        part = tl.sum(_kl(mu, lv), 0)  # where masked, mu = lv = 0: no KL
    tl.store(parts_ptr + program, part)


@triton.jit
def _elbo_total(parts_ptr, beta_ptr, loss_ptr, rec_ptr, kl_ptr, first, parts, factor, BLOCK: tl.constexpr):
    """rec and kl = factor * the sums of the parts before and from `first`; one program, in a fixed order."""
    rec, kl = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    for start in range(0, parts, BLOCK):
        o = start + tl.arange(0, BLOCK)
        part = tl.load(parts_ptr + o, mask=o < parts, other=0.0)
        rec += tl.where(o < first, part, 0.0)
        kl += tl.where(o < first, 0.0, part)
    rec, kl = tl.sum(rec, 0) * factor, tl.sum(kl, 0) * factor
    tl.store(rec_ptr, rec)
    tl.store(kl_ptr, kl)
    tl.store(loss_ptr, rec + tl.load(beta_ptr).to(tl.float32) * kl)


def _elbo(logits, x, mu, logvar, beta):
    logits, x, mu, logvar = (contiguous(v) for v in (logits, x, mu, logvar))
    xp, dtype = array_module(logits), result_dtype(logits, x, mu, logvar)
    config, total = (blocks("variational", name, logits.dtype, logits.size) for name in ("elbo", "total"))
    first = cdiv(logits.size, config["BLOCK"])
    programs = first + cdiv(mu.size, config["BLOCK"])
    parts = xp.empty(programs, "float32")
    launch(_elbo_parts, (programs,), logits, x, mu, logvar, parts, logits.size, mu.size, first, **config)
    loss, rec, kl = (xp.empty((), dtype) for _ in range(3))
    launch(_elbo_total, (1,), parts, beta, loss, rec, kl, first, programs, _per_image(logits), **total)
    return (loss, rec, kl), (logits, x, mu, logvar, beta)


def _elbo_backward(saved, dys, needs_input_grad):
    logits, x, mu, logvar, beta = saved
    dloss, drec, dkl = dys
    dlogits, dmu, dlogvar = None, None, None
    if needs_input_grad[0]:
        dlogits = array_module(logits).empty_like(logits)
        config = blocks("variational", "each", logits.dtype)
        grid, arrays = (cdiv(logits.size, config["BLOCK"]),), (logits, x, dloss, drec, dlogits)
        launch(_bce_backward, grid, *arrays, logits.size, _per_image(logits), CONSTANT=False, REDUCED=True, **config)
    if needs_input_grad[2] or needs_input_grad[3]:
        dmu, dlogvar = _kl_gradients(mu, logvar, dloss, beta, dkl, _per_image(logits), True)
    return dlogits, None, dmu, dlogvar, None


def _per_image(logits):
    return 1 / len(logits) if len(logits) else float("nan")


elbo = Op("elbo", _elbo, _elbo_backward, backend="triton")
