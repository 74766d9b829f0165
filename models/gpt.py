"""GPT: a decoder-only Transformer that writes text one token at a time (Radford et al. 2019).

    p(text) = product over t of p(token t | the tokens before it)

Training sees every prefix of a window at once: causal attention lets position t look at positions <= t only. The token
table is also the output matrix (tied weights). Without a tokenizer to train, a token is a character.

B batch, T tokens (at most `context`), D model width, V vocabulary. # next: models/layers/sampling.py
"""

from dataclasses import dataclass

import numpy as np

import core.functional as F
from core import check, nn, optim, random
from models import datasets, tokenizers
from models.datasets import DataError, dataset
from models.evaluation import memorisation
from models.layers.sampling import choose
from models.layers.transformer import Cache, Stack, initialise
from models.training.config import Config
from models.training.families import TokenTrainer


@dataclass(frozen=True)
class GPTConfig(Config):
    tokens: str = "characters"  # or "bpe", trained on the training text
    vocab: int = 0  # rows of the token table; 0: as many as the tokenizer has
    layers: int = 4
    d_model: int = 128
    heads: int = 4
    context: int = 64
    dropout: float = 0.0
    lr: float = 3e-3
    floor: float = 1e-4
    warmup: int = 100
    beta2: float = 0.99
    weight_decay: float = 0.1
    clip: float = 1.0
    batch: int = 16
    steps: int = 1400

    ZERO = ("warmup", "vocab")
    MODEL = ("tokens", "vocab", "layers", "d_model", "heads", "context")
    DATA = {"poems": "poems"}
    PRESETS = {
        "demo": {},
        "small": {"layers": 6, "d_model": 256, "heads": 8, "context": 128, "dropout": 0.1, "lr": 1e-3, "batch": 32},
        "paper": {
            "tokens": "bpe",
            "vocab": 50_257,
            "layers": 12,
            "d_model": 768,
            "heads": 12,
            "context": 1024,
            "dropout": 0.1,
            "lr": 6e-4,
            "floor": 6e-5,
            "warmup": 2000,
            "beta2": 0.95,
            "batch": 8,
            "steps": 100_000,
        },
        "poems": {"layers": 3, "dropout": 0.1, "steps": 1500},  # past its best on held-out poems: recital is measured
    }


class GPT(nn.Module):
    """ids (B, T) -> hidden states (B, T, D); the logits are hidden @ wte.T."""

    def __init__(self, config, vocab):
        self.config = config
        self.wte = nn.Embedding(vocab, config.d_model, std=0.02)
        self.wpe = nn.Embedding(config.context, config.d_model, std=0.02)
        self.drop = nn.Dropout(config.dropout)
        self.stack = Stack(config.layers, config.d_model, config.heads, config.dropout)
        initialise(self.stack, 2 * config.layers)

    def forward(self, ids, caches=None):
        start = 0 if caches is None else caches[0].length
        x = self.wte(ids) + self.wpe.weight[start : start + ids.shape[1]]  # type: ignore[index]  # (B, T, D) + (T, D)
        return self.stack(self.drop(x), causal=True, caches=caches)

    def loss(self, ids, target, **options):
        """Mean cross entropy in nats a token: ids and target (B, T)."""
        return F.linear_cross_entropy(self(ids), self.wte.weight, target, **options)

    def next_logits(self, ids, caches):
        """Logits (B, V) of the token after ids (B, T), whose keys and values are appended to the caches."""
        h = self(ids, caches)[:, -1]
        return F.linear(h, self.wte.weight).numpy()

    def caches(self, batch):
        c = self.config
        return [Cache(batch, c.heads, c.context, c.d_model // c.heads) for _ in range(c.layers)]


class GPTTrainer(TokenTrainer):
    """Trains GPT; a batch is (ids, targets), int64 (B, T) each, targets one token further on. Loss in nats a token."""

    kind, Config, SHOWN = "gpt", GPTConfig, 1
    load_data = staticmethod(datasets.load_text)
    model: GPT

    def read_data(self, source):
        corpus = dataset(source, datasets.Text, self.load_data)
        if self.config.tokens not in ("characters", "bpe"):
            raise ValueError(f"GPTConfig: tokens is {self.config.tokens!r}, should be 'characters' or 'bpe'")
        if corpus.tokenizer is not None:
            self.tokenizer = corpus.tokenizer
        elif self.config.tokens == "bpe":
            self.tokenizer = tokenizers.BPE.of([corpus.train], self.config.vocab or 4000)
        else:
            self.tokenizer = tokenizers.Characters.of(
                corpus.train + corpus.test
            )  # so that no held-out character is unknown
        self.train_ids = np.array(self.tokenizer.encode(corpus.train))
        self.test_ids = np.array(self.tokenizer.encode(corpus.test))
        if min(len(self.train_ids) // 2, len(self.test_ids)) <= self.config.context:
            raise DataError(f"{corpus.source}: too short for windows of {self.config.context} tokens")
        return corpus

    def examples(self):
        """Windows of T tokens (and one to predict) that start anywhere in the first T places of the text."""
        return len(self.train_ids) // self.config.context - 1

    def build(self):
        c = self.config
        self.vocab = c.vocab or self.tokenizer.size
        self.check_vocab()
        self.model = GPT(c, self.vocab)
        self.optimizers = self.token_optimizers(optim.cosine(c.lr, c.steps, c.warmup, c.floor))
        self.inputs = self.token_inputs(("ids", "targets"), c.context)

    def example(self, index):
        t = self.config.context
        shift = random.permutation(t, self.order.seed, int(self.order.epoch))[0]  # epochs cut the text differently
        windows = self.train_ids[shift + index[:, None] * t + np.arange(t + 1)]  # (B, T + 1)
        return windows[:, :-1], windows[:, 1:]

    def test_batches(self):
        """The held-out text in non-overlapping windows, all of it: full batches, then what is left, by rows of T."""
        t, b, ids = self.config.context, self.config.batch, self.test_ids
        full = (len(ids) - 1) // t
        rows = ids[: full * t].reshape(full, t), ids[1 : full * t + 1].reshape(full, t)
        for i in range(0, full, b):
            yield rows[0][i : i + b], rows[1][i : i + b]
        if full * t < len(ids) - 1:
            yield ids[None, full * t : -1], ids[None, full * t + 1 :]

    def loss(self, ids, targets):
        """Cross entropy in nats, summed over the tokens."""
        return self.model.loss(ids, targets, reduction="sum")

    def train_step(self, ids, targets):
        c, parameters = self.config, self.model.parameters()
        self.model.zero_grad()
        objective = self.objective("loss", parameters)
        for batch in objective.micro_batches(ids, targets):
            losses = objective.on_threads(self.loss, *batch)
            objective.backward(*losses, weight=1 / (c.batch * c.context))  # a mean over the tokens of the whole batch
        taken = objective.unscale_()
        self.losses[0], self.losses[1] = objective.losses[0], optim.clip_grad_norm_(parameters, c.clip)
        for optimizer in self.optimizers.values():
            optimizer.step(taken)

    def generate(self, prompt=None, n: int = 500, *, temperature=0.8, top_k=0, top_p=1.0, seed=0, number=0) -> str:
        """`prompt` (or else how the training text begins) and n more tokens; seed and number choose the draws.

        When the context is full, its later half is read again and the rest forgotten.
        """
        if prompt is None:
            line, end, _ = self.data.train.lstrip()[:40].partition("\n")
            prompt = line + end  # these characters are known, whatever the text is
        if not isinstance(prompt, str):
            check.fail("generate", "prompt", check.shown(prompt), "a text", TypeError)
        ids = self.tokenizer.encode(prompt)
        if not ids:
            raise ValueError("generate: prompt is empty, should have a character or more")
        check.count("generate", "n", n, 0)
        with self.evaluating(seed, number):
            context, caches, new = self.config.context, self.model.caches(1), ids[-self.config.context :]
            for _ in range(n):
                if caches[0].length + len(new) > context:
                    caches, new = self.model.caches(1), ids[-max(context // 2, 1) :]
                logits = self.model.next_logits(self.xp.asarray([new]), caches)[:, : self.tokenizer.size]
                new = choose(logits, temperature, top_k, top_p).tolist()
                ids += new
        return self.tokenizer.decode(ids)

    def sample(self, n: int, seed: int = 0, prompt: str | None = None, **options) -> list:
        """n texts of 500 tokens."""
        check.count("sample", "n", n)
        return [self.generate(prompt, seed=seed, number=i, **options) for i in range(n)]

    def evaluate(self) -> dict:
        """Loss over the whole held-out text, in nats a token and nats a character; of poems, how much is recited."""
        total, count = 0.0, 0
        with self.evaluating():
            for ids, targets in self.batches("test"):
                total += self.model.loss(*(self.xp.asarray(a) for a in (ids, targets)), reduction="sum").item()
                count += targets.size
        characters = len(self.data.test) - len(self.tokenizer.decode(self.test_ids[:1]))  # the first is not predicted
        nats = {"nats_per_token": total / count, "nats_per_character": total / characters}
        return {**nats, **(memorisation.figures(self) if isinstance(self.data, datasets.Poems) else {})}
