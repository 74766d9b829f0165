"""How much of what a language model writes stands in its training text, word for word.

A small text is soon known by heart, and samples then look better than the model is. What writers who have not seen the
training text share with it anyway, the held-out text tells: a share says nothing without that one beside it. A model
that seldom recites by itself may still do so when it is given a beginning that it has seen.
"""

N = 5  # characters: a line of the shorter metre
TEXTS, LENGTH = 10, 200  # what is written to be evaluated
CONTINUED = 20  # characters after a beginning


def grams(text: str, n: int) -> list:
    """Every n consecutive characters of a line, of all lines, with repetitions."""
    return [line[i : i + n] for line in text.splitlines() for i in range(len(line) - n + 1)]


def lines(text: str) -> list:
    return [line for line in text.splitlines() if line.strip()]


def share(pieces: list, known: list) -> float:
    """The share of `pieces` that are among the known; 0 of none."""
    found = set(known)
    return sum(piece in found for piece in pieces) / max(len(pieces), 1)


def figures(trainer) -> dict:
    """Of what a GPT writes, and of its held-out poems: the shares of grams and of whole lines in the training poems.

    written                              by itself, after an empty line; a last line that the end has cut is left out
    continued_known, continued_held_out  the likeliest, after the first two lines of training and of held-out poems"""
    train, test = trainer.data.train, trainer.data.test
    written = [trainer.generate("\n", LENGTH, number=i)[1:].rpartition("\n")[0] for i in range(TEXTS)]
    texts = {
        "written": "\n".join(written),
        "held_out": test,
        "continued_known": continued(trainer, train),
        "continued_held_out": continued(trainer, test),
    }
    shares = {f"{name}_{N}_characters": share(grams(text, N), grams(train, N)) for name, text in texts.items()}
    return shares | {f"{name}_lines": share(lines(texts[name]), lines(train)) for name in ("written", "held_out")}


def continued(trainer, poems: str) -> str:
    """What the model holds likeliest after the first two lines of the first TEXTS poems, without these."""
    beginnings = ["\n".join(poem.split("\n")[:2]) + "\n" for poem in poems.strip().split("\n\n")[:TEXTS]]
    return "\n".join(trainer.generate(b, CONTINUED, temperature=0)[len(b) :] for b in beginnings)
