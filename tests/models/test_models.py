"""The models themselves: shapes, sizes, what they must not contain, and that each can learn one batch by heart."""

import numpy as np
import pytest

import core.functional as F
from bench.parity import small_models
from core import Generator, Tensor, nn, no_grad
from models.evaluation.measures import distances
from models.gan import GAN, GANConfig
from models.gpt import GPT, GPTConfig
from models.seq2seq import Seq2SeqConfig, Transformer
from models.tokenizers import BOS, EOS, PAD
from models.vae import VAE, VAEConfig


def parameters(model):
    return sum(p.size for p in model.parameters())


def test_gan_shapes_and_size():
    with Generator(0), no_grad():
        model = GAN(GANConfig.preset("paper"))
        images = model.generator(np.zeros((2, 100), np.float32))
        logits = model.discriminator(images)
    assert images.shape == (2, 28, 28, 1) and logits.shape == (2, 1)
    conv = 25 * 128 * 128
    generator = 100 * 6272 + 2 * 6272 + 3 * (conv + 2 * 128) + 25 * 128
    discriminator = 25 * 128 + 128 + conv + 128 + 6272 + 1
    assert parameters(model.generator) == generator and parameters(model.discriminator) == discriminator


def test_vae_shapes_and_size():
    with Generator(0), no_grad():
        model = VAE(VAEConfig())
        logits, mu, logvar = model(np.zeros((2, 28, 28, 1), np.float32))
    assert logits.shape == (2, 28, 28, 1) and mu.shape == logvar.shape == (2, 20)
    encoder = 9 * 32 + 32 + 9 * 32 * 64 + 64 + 9 * 64 * 64 + 64 + 2 * (1024 * 20 + 20)
    decoder = 20 * 3136 + 3136 + 2 * (16 * 64 * 64 + 64) + 9 * 64 * 32 + 32 + 9 * 32 + 1
    assert parameters(model) == encoder + decoder


def block_size(d, cross=False):
    attention = d * d + d + 2 * d * d + d * d + d  # queries with a bias, keys and values without, output with one
    mlp = 8 * d * d + 5 * d
    return (1 + cross) * attention + mlp + (2 + cross) * 2 * d


def test_gpt_size():
    with Generator(0):
        model = GPT(GPTConfig(), vocab=78)
    assert parameters(model) == (78 + 64) * 128 + 4 * block_size(128) + 2 * 128


def test_seq2seq_size():
    with Generator(0):
        model = Transformer(Seq2SeqConfig())
    stacks = 2 * block_size(128) + 2 * block_size(128, cross=True) + 2 * 2 * 128
    assert parameters(model) == (4000 + 2 * 40) * 128 + stacks


def test_no_bias_before_a_batch_norm_or_on_keys():
    with Generator(0):
        g = GAN(GANConfig()).generator
        block = GPT(GPTConfig(), 10).stack.blocks[0]
    assert all(layer.bias is None for layer in (g.dense, g.up1, g.up2, g.up3, g.out, block.attn.kv))


def test_gan_losses():
    real, fake = np.array([[2.0], [-1.0]]), np.array([[0.5], [-3.0]])

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    d = -np.log(sigmoid(real)).mean() - np.log(1 - sigmoid(fake)).mean()
    for loss in ("non_saturating", "minimax"):
        assert F.discriminator_loss(Tensor(real), Tensor(fake), kind=loss).item() == pytest.approx(d, rel=1e-12)
    assert F.generator_loss(Tensor(fake), kind="non_saturating").item() == pytest.approx(-np.log(sigmoid(fake)).mean())
    assert F.generator_loss(Tensor(fake), kind="minimax").item() == pytest.approx(np.log(1 - sigmoid(fake)).mean())
    hinge = np.maximum(1 - real, 0).mean() + np.maximum(1 + fake, 0).mean()
    assert F.discriminator_loss(Tensor(real), Tensor(fake), kind="hinge").item() == pytest.approx(hinge)
    assert F.generator_loss(Tensor(fake), kind="hinge").item() == pytest.approx(-fake.mean())


@pytest.mark.parametrize("loss", ["minimax", "hinge"])
def test_gan_trains_with_other_losses(loss):
    t = small_models.trainer("gan", loss=loss, feature_matching=1.0)
    assert all(np.isfinite(list(m.values())).all() for m in small_models.run(t, 5))


def test_the_discriminator_stands_still_in_the_generator_step():
    t = small_models.trainer("gan")
    (images,), noise = next(t.batches("train")), np.zeros((8, 100), np.float32)
    before = {n: a.copy() for n, a in t.model.discriminator.state_dict().items()}
    with t.generator, t.model.discriminator.frozen():
        t.generator_step(images, None, noise, t.model.generator(noise))
    assert all(np.array_equal(before[n], a) for n, a in t.model.discriminator.state_dict().items())
    assert all(p.grad is None for p in t.model.discriminator.parameters())
    assert all(p.requires_grad for p in t.model.discriminator.parameters())


def gpt(**changes):
    c = GPTConfig(**{"layers": 2, "d_model": 16, "heads": 2, "context": 9, **changes})
    with Generator(0):
        return GPT(c, 11).eval()


def test_gpt_sees_only_the_past():
    model, ids = gpt(), small_models.generator(0).integers(0, 11, (1, 9))
    with no_grad():
        before = model(ids).numpy().copy()
        changed = ids.copy()
        changed[0, 5] = (ids[0, 5] + 1) % 11
        after = model(changed).numpy()
    assert np.array_equal(before[:, :5], after[:, :5])
    assert (np.abs(before - after)[:, 5:].max(-1) > 0).all()


def test_gpt_cache_gives_what_the_whole_prefix_gives():
    model, ids = gpt(), small_models.generator(1).integers(0, 11, (2, 9))
    with Generator(0), no_grad():
        whole = F.linear(model(ids), model.wte.weight).numpy()
        caches = model.caches(2)
        parts = [model.next_logits(ids[:, a:b], caches) for a, b in ((0, 4), (4, 5), (5, 8), (8, 9))]
    for part, last in zip(parts, (3, 4, 7, 8)):
        assert np.abs(part - whole[:, last]).max() < 1e-6 * np.abs(whole).max()


def transformer(**changes):
    c = Seq2SeqConfig(**{"vocab": 13, "layers": 2, "d_model": 16, "heads": 2, "length": 8, **changes})
    with Generator(0):
        return Transformer(c).eval()


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_seq2seq_ignores_padding(positions):
    model = transformer(positions=positions)
    source = np.array([[3, 4, EOS, PAD, PAD, PAD, PAD, PAD]])
    target_in, target = np.array([[BOS, 5, 6, 7]]), np.array([[5, 6, 7, EOS]])
    with no_grad():
        padded = model.loss(source, target_in, target).item()
        bare = model.loss(source[:, :3], target_in, target).item()
        longer = model.loss(
            source, np.pad(target_in, ((0, 0), (0, 2))), np.pad(target, ((0, 0), (0, 2)), constant_values=PAD)
        ).item()
    assert padded == pytest.approx(bare, rel=1e-5) and padded == pytest.approx(longer, rel=1e-5)


def test_seq2seq_cache_gives_what_the_whole_prefix_gives():
    model, rng = transformer(), small_models.generator(2)
    source, ids = rng.integers(3, 13, (2, 6)), rng.integers(3, 13, (2, 5))
    with Generator(0), no_grad():
        memories, mask = model.encode(source)
        whole = model.decode(ids, memories, mask).numpy()
        caches = model.caches(2)
        steps = [model.decode(ids[:, i : i + 1], memories, mask, caches).numpy()[:, 0] for i in range(5)]
    assert np.abs(np.stack(steps, 1) - whole).max() < 1e-5 * np.abs(whole).max()


# --- learning one batch by heart ----------------------------------------


def repeat(t, steps):
    """Train on one and the same batch; the losses."""
    batch = next(t.batches("train"))
    return batch, [t.step(batch) for _ in range(steps)]


@pytest.mark.full
def test_vae_learns_one_batch():
    t = small_models.trainer("vae", dropout=0.0, beta=0.0, lr=2e-3, steps=250)
    (x,), losses = repeat(t, 250)
    entropy = -(x * np.log(np.maximum(x, 1e-9)) + (1 - x) * np.log(np.maximum(1 - x, 1e-9))).sum() / len(x)
    first, last = losses[0]["reconstruction"], losses[-1]["reconstruction"]
    assert last - entropy < 0.1 * (first - entropy), "no decoder can do better than the images' own entropy"


def test_gpt_learns_one_batch():
    t = small_models.trainer("gpt", d_model=64, dropout=0.0, warmup=10, steps=150)
    _, losses = repeat(t, 150)
    assert losses[0]["loss"] > 3 and losses[-1]["loss"] < 0.05


@pytest.mark.full
def test_seq2seq_learns_one_batch():
    t = small_models.trainer("seq2seq", d_model=64, dropout=0.0, label_smoothing=0.0, warmup=10, lr=5e-3)
    _, losses = repeat(t, 150)
    assert losses[0]["loss"] > 5 and losses[-1]["loss"] < 0.05


@pytest.mark.full
def test_gan_learns_one_batch():
    """Shown eight images only, the generator draws them: its samples come much closer to them than other digits."""
    t = small_models.trainer("gan", channels=16, dropout=0.0, lr=2e-3, floor=2e-3)
    (x,), _ = repeat(t, 600)
    known = (x[..., 0] + 1) / 2
    others = t.data.x_test / 255.0
    ours = np.median(distances(t.sample(64), known).min(1))
    assert ours < 0.5 * np.median(distances(others, known).min(1))


@pytest.mark.parametrize("kind", ["vae", "gpt", "seq2seq"])
def test_training_lowers_the_loss(kind):
    changes = {} if kind == "vae" else {"warmup": 5}
    losses = [m["loss"] for m in small_models.run(small_models.trainer(kind, **changes), 40)]
    assert np.mean(losses[-5:]) < 0.95 * np.mean(losses[:5])


def test_each_side_of_the_gan_can_beat_the_other_while_it_stands_still():
    t = small_models.trainer("gan", dropout=0.0)
    noise = np.zeros((8, 100), np.float32) + np.linspace(-1, 1, 8, dtype=np.float32)[:, None]
    (images,), d, g = next(t.batches("train")), [], []
    for _ in range(30):
        t.discriminator_step(images, None, noise)
        d.append(t.losses[0].item())
    for _ in range(30):
        with t.model.discriminator.frozen():
            t.generator_step(images, None, noise, t.model.generator(noise))
        g.append(t.losses[1].item())
    assert d[-1] < 0.2 * d[0] and g[-1] < 0.2 * g[0]


def test_module_has_no_forward():
    with pytest.raises(TypeError, match="Module has no forward"):
        nn.Module()(1)
