"""Dropout, its mask given."""

from bench.parity.cases.inputs import Case, F, coin, normal


def dropped(name, p, *shape):
    return Case(
        f"dropout/{name}",
        lambda x, mask: F.dropout(x, p, mask=mask),
        lambda x, mask: x * mask / (1 - p) if p < 1 else x * 0,
        (normal(*shape), coin(*shape)),
    )


CASES = [
    dropped("third", 0.3, 5, 7),
    dropped("half", 0.5, 2, 3, 4),
    dropped("p-0-mask-given", 0.0, 4, 3),
    dropped("p-1", 1.0, 4, 3),
    dropped("0d", 0.5),
    dropped("empty", 0.5, 0, 3),
    Case("dropout/p-0", lambda x: F.dropout(x, 0.0) * 1.0, lambda x: x * 1.0, (normal(4),)),
    Case("dropout/not-training", lambda x: F.dropout(x, 0.5, False) * 1.0, lambda x: x * 1.0, (normal(4),)),
]
