"""An encoder-decoder Transformer that translates (Vaswani et al. 2017; pre-norm).

The encoder reads the source sentence, every token seeing all others; the decoder writes the target one token at a
time, seeing what it has written and, by cross-attention, the encoder's output. Source, target and output share one
token table. Padding is masked as a key and ignored as a target.

B batch, T tokens, D model width, V vocabulary. # next: models/layers/sampling.py (beam search)
"""

from dataclasses import dataclass

import numpy as np

import core.functional as F
from core import Tensor, check, nn, optim, random
from models import datasets
from models.datasets import DataError, dataset
from models.layers.sampling import beam_search, greedy
from models.layers.transformer import Cache, Stack, initialise, sinusoids
from models.tokenizers import BOS, BPE, EOS, PAD
from models.training.config import Config
from models.training.families import TokenTrainer


@dataclass(frozen=True)
class Seq2SeqConfig(Config):
    vocab: int = 4000
    layers: int = 2  # in the encoder, and as many in the decoder
    d_model: int = 128
    heads: int = 4
    length: int = 40  # tokens in a sentence, its end mark included; longer pairs are left out
    positions: str = "learned"  # or "sinusoidal"
    dropout: float = 0.1
    label_smoothing: float = 0.1
    lr: float = 2e-3
    warmup: int = 200
    beta2: float = 0.98
    weight_decay: float = 0.01
    clip: float = 1.0
    batch: int = 32
    steps: int = 900

    ZERO = ()
    MODEL = ("vocab", "layers", "d_model", "heads", "length", "positions")
    PRESETS = {
        "demo": {},
        "small": {"layers": 3, "d_model": 256, "heads": 8, "lr": 1e-3, "batch": 64, "steps": 3000},
        "paper": {
            "layers": 6,
            "d_model": 512,
            "heads": 8,
            "positions": "sinusoidal",
            "lr": 7e-4,
            "warmup": 4000,
            "batch": 128,
            "steps": 100_000,
        },
    }


class Transformer(nn.Module):
    """source (B, Ts) and decoder input (B, Tt) -> hidden states (B, Tt, D); the logits are hidden @ table.T."""

    def __init__(self, config):
        c = self.config = config
        self.table = nn.Embedding(c.vocab, c.d_model, std=0.02)
        self.source_positions: Tensor
        self.target_positions: Tensor
        if c.positions == "learned":
            self.source_positions = nn.normal((c.length, c.d_model), 0.02)
            self.target_positions = nn.normal((c.length, c.d_model), 0.02)
        elif c.positions == "sinusoidal":
            self.source_positions = self.target_positions = Tensor(
                random.current().xp.asarray(sinusoids(c.length, c.d_model))
            )
        else:
            raise ValueError(f"Seq2SeqConfig: positions is {c.positions!r}, should be 'learned' or 'sinusoidal'")
        self.drop = nn.Dropout(c.dropout)
        self.encoder = Stack(c.layers, c.d_model, c.heads, c.dropout)
        self.decoder = Stack(c.layers, c.d_model, c.heads, c.dropout, cross=True)
        initialise(self.encoder, 2 * c.layers)
        initialise(self.decoder, 3 * c.layers)

    def embed(self, ids, positions, start=0):
        """ids (B, T) at positions `start` and on, rows of `positions` -> (B, T, D)."""
        x = self.table(ids)  # (B, T, D)
        if self.config.positions == "sinusoidal":
            x = x * self.config.d_model**0.5  # as in section 3.4, to be heard beside sines of size 1
        return self.drop(x + positions[start : start + ids.shape[1]])

    def encode(self, source):
        """source (B, Ts) -> (memories, mask): keys and values for each decoder block, and which keys are words."""
        mask = (source != PAD)[:, None, None, :]  # (B, 1, 1, Ts)
        return self.memories(source, mask), mask

    def memories(self, source, mask):
        """Keys and values of the encoder's output for each decoder block; mask (B, 1, 1, Ts)."""
        y = self.encoder(self.embed(source, self.source_positions), mask=mask)  # (B, Ts, D)
        return [block.cross.keys_values(y) for block in self.decoder.blocks]

    def decode(self, ids, memories, mask, caches=None):
        start = 0 if caches is None else caches[0].length
        x = self.embed(ids, self.target_positions, start)
        return self.decoder(x, causal=True, memories=memories, memory_mask=mask, caches=caches)

    def loss(self, source, decoder_input, target, **options):
        """Mean cross entropy in nats a token, padding left out: source (B, Ts), the others (B, Tt)."""
        h = self.decode(decoder_input, *self.encode(source))
        return F.linear_cross_entropy(h, self.table.weight, target, ignore_index=PAD, **options)

    def caches(self, batch):
        c = self.config
        return [Cache(batch, c.heads, c.length, c.d_model // c.heads) for _ in range(c.layers)]


class Seq2SeqTrainer(TokenTrainer):
    """Trains Transformer; a batch is (source, decoder input, target), int64 (B, T) each, padded with PAD."""

    kind, Config, SHOWN = "seq2seq", Seq2SeqConfig, 5
    load_data = staticmethod(datasets.load_pairs)
    model: Transformer

    def read_data(self, source):
        pairs = dataset(source, datasets.Pairs, self.load_data)
        sentences = (sentence for pair in pairs.train for sentence in pair)
        self.tokenizer = pairs.tokenizer or BPE.of(sentences, self.config.vocab)
        self.train_ids, self.test_ids = self._encode(pairs.train), self._encode(pairs.test)
        self.left_out = len(pairs.train) + len(pairs.test) - len(self.train_ids[0]) - len(self.test_ids[0])
        if not len(self.test_ids[0]):
            raise DataError(f"{pairs.source}: no held-out pair has at most {self.config.length - 1} tokens a side")
        return pairs

    def _encode(self, pairs):
        """Sentence pairs -> (source, decoder input, target), (n, T) each: words END, BEGIN words, words END."""
        limit = self.config.length - 1
        ids = [tuple(self.tokenizer.encode(s) for s in pair) for pair in pairs]
        kept = [(s, t) for s, t in ids if max(len(s), len(t)) <= limit]
        rows = ([(*s, EOS) for s, _ in kept], [(BOS, *t) for _, t in kept], [(*t, EOS) for _, t in kept])
        return tuple(np.array([_pad(r, limit + 1) for r in part], np.int64).reshape(-1, limit + 1) for part in rows)

    def examples(self):
        return len(self.train_ids[0])

    def build(self):
        c = self.config
        self.vocab = c.vocab
        self.check_vocab()
        self.model = Transformer(c)
        self.optimizers = self.token_optimizers(optim.inverse_sqrt(c.lr, c.warmup))
        self.inputs = self.token_inputs(("source", "decoder_input", "target"), c.length)

    def example(self, index):
        return tuple(a[index] for a in self.train_ids)

    def test_batches(self):
        for i in range(0, len(self.test_ids[0]), self.config.batch):
            yield tuple(a[i : i + self.config.batch] for a in self.test_ids)

    def loss(self, source, decoder_input, target):
        """Cross entropy in nats, summed over the tokens that are no padding."""
        smoothing = self.config.label_smoothing
        return self.model.loss(source, decoder_input, target, label_smoothing=smoothing, reduction="sum")

    def train_step(self, source, decoder_input, target):
        words = self.xp.asarray((target != PAD).sum())
        self.group.sum_(words)  # each rank has other padding
        parameters = self.model.parameters()
        self.model.zero_grad()
        objective = self.objective("loss", parameters)
        for batch in objective.micro_batches(source, decoder_input, target):
            losses = objective.on_threads(self.loss, *batch)
            objective.backward(*losses, weight=1 / words)  # a mean over the words of the whole batch
        taken = objective.unscale_()
        self.losses[0], self.losses[1] = objective.losses[0], optim.clip_grad_norm_(parameters, self.config.clip)
        for optimizer in self.optimizers.values():
            optimizer.step(taken)

    def translate(self, sentence: str, beams: int = 4) -> str:
        """One sentence, by beam search; beams=1 is greedy. Words beyond the model's length are cut off."""
        check.count("translate", "beams", beams)
        if not isinstance(sentence, str) or not sentence.strip():
            check.fail("translate", "sentence", check.shown(sentence), "a text of a word or more")
        limit = self.config.length - 1
        source = np.array([_pad((*self.tokenizer.encode(sentence)[:limit], EOS), limit + 1)])
        with self.evaluating():
            memories, mask = self.model.encode(self.xp.asarray(np.repeat(source, beams, axis=0)))
            caches = self.model.caches(beams)

            def step(tokens):
                h = self.model.decode(self.xp.asarray(tokens), memories, mask, caches)[:, -1]
                return F.linear(h, self.model.table.weight).numpy()[:, : self.tokenizer.size]

            def reorder(index):
                for cache in caches:
                    cache.reorder(index)

            if beams == 1:
                ids = greedy(step, np.array([BOS]), EOS, limit)[0]
            else:
                ids = beam_search(step, reorder, BOS, EOS, limit, beams)
        return self.tokenizer.decode(ids)

    def sample(self, n: int, seed: int = 0) -> list:
        """n held-out sentences: (source, our translation, the reference)."""
        check.count("sample", "n", n)
        first = seed * n % len(self.data.test)
        chosen = [self.data.test[(first + i) % len(self.data.test)] for i in range(n)]
        return [(source, self.translate(source), target) for source, target in chosen]

    def evaluate(self) -> dict:
        """Held-out loss, nats a token, without smoothing; a unigram model's; and ours when sources are exchanged."""
        source, decoder_input, target = self.test_ids
        count = int((target != PAD).sum())
        return {
            "nats_per_token": self._loss(source, decoder_input, target) / count,
            "nats_per_token_other_sources": self._loss(np.roll(source, 1, axis=0), decoder_input, target) / count,
            "unigram_nats_per_token": self._unigram(),
        }

    def _loss(self, *arrays) -> float:
        """Summed loss of source, decoder input and target, (n, T) each, a batch at a time."""
        total, b = 0.0, self.config.batch
        with self.evaluating():
            for i in range(0, len(arrays[0]), b):
                total += self.model.loss(*(self.xp.asarray(a[i : i + b]) for a in arrays), reduction="sum").item()
        return total

    def _unigram(self) -> float:
        """Held-out loss of the training targets' token frequencies, each counted once more than seen."""
        train, test = (part[2][part[2] != PAD] for part in (self.train_ids, self.test_ids))
        counts = np.bincount(train, minlength=self.tokenizer.size) + 1.0
        return float(-np.log(counts / counts.sum())[test].mean())


def _pad(ids, length):
    return [*ids, *[PAD] * (length - len(ids))]
