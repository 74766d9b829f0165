"""Enlarging images."""

from bench.parity.cases.inputs import Case, F, normal


def upsample(name, shape, *scale):
    """`scale` as our function takes it, by default 2."""
    both = scale[0] if scale and isinstance(scale[0], tuple) else (*scale, *scale) or (2, 2)
    return Case(
        f"upsample_nearest/{name}",
        lambda x: F.upsample_nearest(x, *scale),
        lambda x: x.repeat_interleave(both[0], 1).repeat_interleave(both[1], 2),
        (normal(*shape),),
        options={"scale": both},
    )


CASES = [
    upsample("doubled", (2, 3, 4, 5)),
    upsample("pair", (2, 3, 4, 5), (3, 1)),
    upsample("tripled", (1, 2, 5, 17), 3),  # more pixels and channels than a block of 16 holds, none full
    upsample("same-size", (2, 3, 4, 5), 1),
    upsample("large-blocks", (1, 2, 2, 3), (8, 5)),
    upsample("one-pixel", (1, 1, 1, 1), 4),
    upsample("no-images", (0, 3, 3, 2)),
    upsample("no-pixels", (2, 0, 3, 2), (2, 3)),
]
