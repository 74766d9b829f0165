"""Philox against published answers and a scalar of our own; what dropout, uniforms and normals make of its words."""

import math

import numpy as np
import pytest
from scipy import stats

import core.functional as F
from core import Generator, Tensor, manual_seed, random
from core.reference import random as reference

M32 = 0xFFFFFFFF

# Random123's kat_vectors for philox4x32 with 10 rounds: counter, key, result
KNOWN = {
    "zeros": ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    "ones": ((M32,) * 4, (M32,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    "pi": (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
}


def scalar_philox(counter, key):
    """Philox-4x32-10 on Python integers, as the paper's figure has it (Salmon et al. 2011)."""
    (a, b, c, d), (k, q) = counter, key
    for _ in range(10):
        left, right = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (right >> 32) ^ b ^ k, right & M32, (left >> 32) ^ d ^ q, left & M32
        k, q = (k + 0x9E3779B9) & M32, (q + 0xBB67AE85) & M32
    return a, b, c, d


def words_of(block, seed, draw, step):
    """The four words of one block, by the layout in the design: (block low, block high, draw, step)."""
    return scalar_philox((block & M32, block >> 32, draw, step), (seed & M32, seed >> 32))


def core_words(block, seed, draw, step):
    found = reference.philox(np.array([block], np.uint64), seed, draw, np.array(step, np.int64))
    return tuple(int(w) for w in found[:, 0])


@pytest.mark.parametrize("counter, key, answer", KNOWN.values(), ids=KNOWN.keys())
def test_known_answers(counter, key, answer):
    assert scalar_philox(counter, key) == answer
    block, seed = counter[0] | counter[1] << 32, key[0] | key[1] << 32
    assert core_words(block, seed, counter[2], counter[3]) == answer


def test_random_counters_against_the_scalar(rng):
    for _ in range(200):
        block, seed = (int(v) for v in rng.integers(0, 2**64, 2, np.uint64))
        draw, step = (int(v) for v in rng.integers(0, 2**32, 2))
        assert core_words(block, seed, draw, step) == words_of(block, seed, draw, step)


def test_words_are_the_blocks_in_order_across_chunks():
    """words works CHUNK blocks at a time; the seam must not show."""
    n, step = 4 * (reference.CHUNK + 2) + 3, np.array(5)
    found = reference.words(n, 77, 2, step)
    assert found.shape == (n,) and found.dtype == np.uint32
    for block in (0, 1, reference.CHUNK - 1, reference.CHUNK, reference.CHUNK + 1):
        assert tuple(found[4 * block : 4 * block + 4]) == words_of(block, 77, 2, 5)
    assert tuple(found[-3:]) == words_of(reference.CHUNK + 2, 77, 2, 5)[:3]


# --- dropout ----------------------------------------


def layout_mask(n, p, seed, draw, step):
    """Element i uses 16-bit lane i mod 8 of block i // 8, the low half of each word first."""
    kept = []
    for i in range(n):
        word = words_of(i // 8, seed, draw, step)[i % 8 // 2]
        lane = word >> 16 if i % 2 else word & 0xFFFF
        kept.append(lane >= round(65536 * p))
    return np.array(kept)


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.99])
def test_dropout_mask_layout(p):
    generator = Generator(2**63 + 12345)
    x = np.ones((3, 7, 5), np.float32)  # 105 elements: no whole number of blocks
    for step in (0, 1):
        with generator:
            first, second = F.dropout(x, p).data, F.dropout(x, p).data
        generator.advance_()
        for draw, y in ((0, first), (1, second)):
            assert np.array_equal(y != 0, layout_mask(105, p, 2**63 + 12345, draw, step).reshape(x.shape))


def test_dropout_keeps_and_scales_exactly():
    x = np.linspace(1, 2, 1000, dtype=np.float32)
    with Generator(3):
        y = F.dropout(x, 0.3).data
    kept = y != 0
    assert y.dtype == np.float32 and np.array_equal(y[kept], (x * np.float32(1 / 0.7))[kept])


@pytest.mark.parametrize("p", [0.0001, 0.1, 0.3, 0.5, 0.9])
def test_drop_rate(p):
    """Within five standard deviations of p rounded to a multiple of 1/65536."""
    n, rate = 1 << 18, round(65536 * p) / 65536
    with Generator(11):
        dropped = np.mean(F.dropout(np.ones(n, np.float32), p).data == 0)
    assert abs(dropped - rate) < 5 * math.sqrt(rate * (1 - rate) / n)


def test_drop_all_and_drop_nothing():
    x = np.ones(100, np.float32)
    assert not F.dropout(x, 1.0).data.any()
    assert np.array_equal(F.dropout(x, 0.0).data, x) and np.array_equal(F.dropout(x, 0.9, training=False).data, x)


def test_gradient_uses_the_mask_of_the_forward_pass():
    x = Tensor(np.ones(1000, np.float32), requires_grad=True)
    y = F.dropout(x, 0.4)
    y.backward(np.ones(1000))
    assert np.array_equal(x.grad, y.data)


def test_an_image_is_dropped_by_its_place_in_the_whole_batch():
    """Element numbers count through the whole batch, so a batch shown in two shapes is dropped alike."""
    with Generator(5):
        flat = F.dropout(np.ones(240, np.float32), 0.5).data
    with Generator(5):
        images = F.dropout(np.ones((2, 5, 4, 6), np.float32), 0.5).data
    assert np.array_equal(flat, images.ravel())


# --- uniforms and normals ----------------------------------------


def test_uniform_layout():
    with Generator(9) as g:
        g.advance_()
        u = random.uniform((5, 3))
    expected = [(words_of(i // 4, 9, 0, 1)[i % 4] >> 8) / 2**24 for i in range(15)]
    assert u.dtype == np.float32 and np.array_equal(u.ravel(), expected)


def layout_normals(n, seed, draw, step):
    """Box-Muller on the upper 24 bits of words (0, 1) and (2, 3); the radius from (0, 1], cosine before sine."""
    z = []
    for block in range(-(-n // 4)):
        words = [w >> 8 for w in words_of(block, seed, draw, step)]
        for a, b in (words[:2], words[2:]):
            radius, angle = math.sqrt(-2 * math.log((a + 1) / 2**24)), 2 * math.pi * b / 2**24
            z += [radius * math.cos(angle), radius * math.sin(angle)]
    return np.array(z[:n])


def test_normal_layout():
    with Generator(2**40 + 1) as g:
        g.advance_(), g.advance_(), g.next()
        z = random.normal((7, 3), np.float64)
    np.testing.assert_allclose(z.ravel(), layout_normals(21, 2**40 + 1, 1, 2), rtol=0, atol=1e-14)


@pytest.mark.usefixtures("reference")
def test_float32_normals_are_the_float64_ones_rounded():
    with Generator(1):
        wide = random.normal((1000,), np.float64)
    with Generator(1):
        narrow = random.normal((1000,))
    assert narrow.dtype == np.float32 and np.array_equal(narrow, wide.astype(np.float32))


def test_distributions():
    """Kolmogorov-Smirnov, and no correlation between neighbours or between draws. The seed is fixed: no flicker."""
    n = 1 << 17
    with Generator(4):
        z, u, other = random.normal((n,), np.float64), random.uniform((n,), np.float64), random.normal((n,), np.float64)
    assert stats.kstest(z, "norm").pvalue > 1e-3 and stats.kstest(u, "uniform").pvalue > 1e-3
    assert u.min() >= 0 and u.max() < 1
    for a, b in ((z[:-1], z[1:]), (z[:-2], z[2:]), (z**2, np.roll(z, 1) ** 2), (z, other), (z, u)):
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / math.sqrt(n)


def test_empty_and_0d_shapes():
    with Generator(0):
        assert random.normal((0, 3)).shape == (0, 3) and random.uniform(()).shape == ()
        assert F.dropout(np.ones((2, 0), np.float32)).shape == (2, 0)


# --- generators ----------------------------------------


def test_draws_and_steps():
    g = Generator(6)
    address = g.step
    assert [g.next()["draw"] for _ in range(3)] == [0, 1, 2] and g.step == 0
    g.advance_()
    assert g.next()["draw"] == 0 and g.step == 1 and g.step is address and g.step.shape == ()


def test_every_part_of_the_key_matters():
    def draw(seed=0, steps=0, draws=0):
        g = Generator(seed)
        for _ in range(steps):
            g.advance_()
        for _ in range(draws):
            g.next()
        with g:
            return random.uniform((8,)).tobytes()

    settings = [{}, {"seed": 1}, {"seed": 2**32}, {"steps": 1}, {"draws": 1}]
    assert len({draw(**s) for s in settings}) == len(settings)
    assert draw(seed=5, steps=2, draws=3) == draw(seed=5, steps=2, draws=3)


def test_manual_seed_restarts_the_default_generator():
    manual_seed(42)
    first = random.normal((4,)), random.normal((4,))
    manual_seed(42)
    again = random.normal((4,)), random.normal((4,))
    assert np.array_equal(first, again) and not np.array_equal(first[0], first[1])


def test_with_generator_nests_and_ends():
    outer, inner = Generator(1), Generator(2)
    with outer:
        with inner, inner:
            random.uniform((1,))
        assert (outer.draw, inner.draw) == (0, 1)
        random.uniform((1,))
    random.uniform((1,))
    assert (outer.draw, inner.draw) == (1, 1)


def test_nothing_is_drawn_where_nothing_is_random():
    x, ones = np.ones((2, 3), np.float32), np.ones(3, np.float32)
    with Generator(0) as g:
        F.dropout(x, 0.0), F.dropout(x, 0.5, training=False), F.dropout(x, 0.5, mask=x > 0)
        F.batch_norm(x, ones, ones, dropout_p=0.5)
        F.add_layer_norm(x, x, None, None)
        F.reparameterize(x, x, noise=x)
        assert g.draw == 0


def test_record_yields_the_draws_in_order_and_changes_none():
    def step():
        x = Tensor(np.linspace(-1, 1, 24, dtype=np.float32).reshape(4, 6))
        a = F.dropout(x, 0.5)
        b = F.batch_norm(x, None, None, training=True, dropout_p=0.3)
        c, _ = F.add_layer_norm(x, x, None, None, dropout_p=0.2)
        return x, (a, b, c, F.reparameterize(x, x))

    with Generator(8):
        _, plain = step()
    with Generator(8), random.record() as draws:
        x, recorded = step()
    assert [d.dtype.kind for d in draws] == ["b", "b", "b", "f"] and all(d.shape == x.shape for d in draws)
    for y, z in zip(plain, recorded):
        assert np.array_equal(y.data, z.data)
    again = (
        F.dropout(x, 0.5, mask=draws[0]),
        F.batch_norm(x, None, None, training=True, dropout_p=0.3, mask=draws[1]),
        F.add_layer_norm(x, x, None, None, dropout_p=0.2, mask=draws[2])[0],
        F.reparameterize(x, x, noise=draws[3]),
    )
    for y, z in zip(plain, again):
        assert np.array_equal(y.data, z.data)
    for number, (p, mask) in enumerate(zip((0.5, 0.3, 0.2), draws)):
        assert np.array_equal(mask.ravel(), layout_mask(24, p, 8, number, 0))


# --- permutations ----------------------------------------


@pytest.mark.parametrize("n", [0, 1, 2, 1000])
def test_a_permutation_holds_every_number_once(n):
    assert np.array_equal(np.sort(random.permutation(n, 3, 0)), np.arange(n))


def test_permutations_depend_on_seed_and_epoch_alone():
    orders = [random.permutation(1000, seed, epoch) for seed, epoch in ((1, 0), (1, 1), (2, 0))]
    assert len({o.tobytes() for o in orders}) == 3
    random.normal((3,))
    assert np.array_equal(random.permutation(1000, 1, 0), orders[0])


def test_permutations_are_even():
    """Over 3,000 epochs each of the 6 orders of three is as likely: chi-square with 5 degrees of freedom."""
    orders = [tuple(random.permutation(3, 0, epoch)) for epoch in range(3000)]
    counts = [orders.count(o) for o in set(orders)]
    assert len(counts) == 6 and stats.chisquare(counts).pvalue > 1e-3
