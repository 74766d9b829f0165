"""From text to token ids and back: one id per character, or a byte-pair encoding trained on the spot.

Both kinds have `encode`, `decode`, `size`, and `to_json`, which `from_json` reads again.
"""

import json

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from core.arrays import one_line

PAD, BOS, EOS = 0, 1, 2  # the first ids of every BPE
SPECIAL = ["<pad>", "<bos>", "<eos>"]


class Characters:
    """Every character of a text is a token."""

    def __init__(self, symbols):
        self.symbols = list(symbols)
        self.index = {c: i for i, c in enumerate(self.symbols)}

    @classmethod
    def of(cls, text: str):
        return cls(sorted(set(text)))

    @property
    def size(self) -> int:
        return len(self.symbols)

    def encode(self, text: str) -> list:
        """Raises ValueError on a character that the training text does not have."""
        unknown = sorted(set(text) - self.index.keys())
        if unknown:
            raise ValueError(f"text has characters the model does not know: {''.join(unknown)[:20]!r}")
        return [self.index[c] for c in text]

    def decode(self, ids) -> str:
        return "".join(self.symbols[i] for i in ids)

    def to_json(self) -> str:
        return json.dumps({"kind": "characters", "symbols": "".join(self.symbols)})


class BPE:
    """Byte-level byte-pair encoding (Sennrich et al. 2016), by the tokenizers library; knows every character."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    @classmethod
    def of(cls, texts, size: int):
        """Train on an iterable of texts until the vocabulary has `size` tokens (or the texts have no more pairs)."""
        tokenizer = tokenizers.Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer)

    @property
    def size(self) -> int:
        return self.tokenizer.get_vocab_size()

    def encode(self, text: str) -> list:
        return self.tokenizer.encode(text).ids

    def decode(self, ids) -> str:
        return self.tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)

    def to_json(self) -> str:
        return json.dumps({"kind": "bpe", "tokenizer": json.loads(self.tokenizer.to_str())}, ensure_ascii=False)


def from_json(text: str):
    """The tokenizer that `to_json` wrote; raises ValueError where it did not."""
    try:
        saved = json.loads(text)
        if saved["kind"] == "characters":
            return Characters(_symbols(saved["symbols"]))
        return BPE(tokenizers.Tokenizer.from_str(json.dumps(saved["tokenizer"])))
    except Exception as error:  # the tokenizers library raises no other kind
        raise ValueError(f"tokenizer.json: not a tokenizer of ours ({one_line(error)})") from None


def _symbols(text):
    if not isinstance(text, str) or not text or len(set(text)) < len(text):
        raise ValueError("its symbols should be different characters, one or more")
    text.encode("utf-8")  # half a surrogate pair could never be printed
    return text
