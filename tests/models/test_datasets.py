"""Data sets: what the carried files hold, the readers for other files, and one clear line for whatever is wrong."""

import gzip
import struct

import numpy as np
import pytest

from models import datasets
from models.datasets import DataError

IMAGES = np.arange(3 * 784, dtype=np.uint64).reshape(3, 28, 28).astype(np.uint8)
LABELS = np.array([0, 9, 4], np.uint8)


def idx(array, promise=None):
    shape = promise or array.shape
    return bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + array.tobytes()


def idx_folder(folder, packed=()):
    contents = [idx(IMAGES), idx(LABELS), idx(IMAGES[:2]), idx(LABELS[:2])]
    for name, content in zip(datasets.IDX_FILES, contents):
        if name in packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return folder


def npz(path, **changes):
    arrays = {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES[:2], "y_test": LABELS[:2], **changes}
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    return path


def test_carried_images():
    d = datasets.load_images()
    assert d.x_train.shape == (10_000, 28, 28) and d.x_test.shape == (2000, 28, 28)
    assert d.y_train[:5].tolist() == [5, 0, 4, 1, 9] and d.y_test[:5].tolist() == [7, 2, 1, 0, 4]  # MNIST's own order


def test_carried_text():
    t = datasets.load_text()
    assert len(t.train) + len(t.test) == 1_078_012 and len(set(t.train + t.test)) == 78
    assert len(t.test) == pytest.approx(0.1 * 1_078_012, abs=1)


def test_carried_pairs_are_split_without_a_leak():
    p = datasets.load_pairs()
    assert len(p.train) > 3500 and len(p.test) == pytest.approx(len(p.train) / 9, abs=1)
    for side in (0, 1):
        sentences = [pair[side] for pair in p.train + p.test]
        assert len(set(sentences)) == len(sentences)


def test_carried_poems_are_held_out_whole():
    """Every character of every poem, in its order, on one side of the split or the other; every tenth on the other."""
    p = datasets.load_text("poems")
    assert isinstance(p, datasets.Poems) and p.source.name == "chinese_poems.tsv"
    rows = [line.split("\t") for line in p.source.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 409
    for text, wanted in ((p.train, [r for i, r in enumerate(rows) if i % 10 != 9]), (p.test, rows[9::10])):
        found = [poem.split("\n") for poem in text.removesuffix("\n\n").split("\n\n")]
        assert [(lines[0], "".join(lines[1:])) for lines in found] == [(f"{r[1]} {r[2]}", r[3]) for r in wanted]
        assert all(line[-1] in "。？！" for lines in found for line in lines[1:]), "a sentence a line"


def test_carried_fashion_by_name_and_any_npz_of_its_form(tmp_path, monkeypatch):
    """A name is what is carried, wherever one stands; a file of that name has a path."""
    d = datasets.load_images("fashion")
    assert d.x_train.shape == (5000, 28, 28) and d.x_test.shape == (1000, 28, 28)
    assert d.y_train[:5].tolist() == [9, 0, 0, 3, 0] and d.y_test[:5].tolist() == [9, 2, 1, 1, 6]  # its official order
    small = {name: getattr(d, name)[:12] for name in ("x_train", "y_train", "x_test", "y_test")}
    monkeypatch.chdir(tmp_path)
    np.savez("mine.npz", **small)
    (tmp_path / "mine.npz").rename("fashion")
    assert len(datasets.load_images("fashion").x_train) == 5000 and len(datasets.load_images("./fashion").x_train) == 12


def test_names_stand_for_one_family(tmp_path):
    for load, name in (
        (datasets.load_images, "poems"),
        (datasets.load_text, "fashion"),
        (datasets.load_pairs, "poems"),
    ):
        with pytest.raises(DataError, match=r"poems|fashion"):
            load(name)


def test_carried_files_are_checked(monkeypatch, tmp_path):
    (tmp_path / "SHA256SUMS").write_text((datasets.FOLDER / "SHA256SUMS").read_text())
    (tmp_path / "shakespeare_small.txt").write_text("changed")
    monkeypatch.setattr(datasets, "FOLDER", tmp_path)
    for name in ("shakespeare_small.txt", "mnist_small.npz"):
        with pytest.raises(DataError, match="missing or changed"):
            datasets.carried(name)


@pytest.mark.parametrize("packed", [(), datasets.IDX_FILES, datasets.IDX_FILES[:1]], ids=["plain", "gzipped", "mixed"])
def test_idx_folder(packed, tmp_path):
    d = datasets.load_images(idx_folder(tmp_path, packed))
    assert np.array_equal(d.x_train, IMAGES) and np.array_equal(d.y_test, LABELS[:2])


def test_npz(tmp_path):
    d = datasets.load_images(npz(tmp_path / "mine é.npz"))
    assert np.array_equal(d.x_train, IMAGES) and np.array_equal(d.y_train, LABELS)


def with_file(name, content):
    def make(folder):
        idx_folder(folder)
        (folder / name).write_bytes(content)
        return folder

    return make


def just(name, content):
    def make(folder):
        (folder / name).write_bytes(content)
        return folder / name

    return make


BAD_IMAGES = {
    "absent": (lambda f: f / "none", "no such file or folder"),
    "empty folder": (lambda f: f, "has no train-images-idx3-ubyte"),
    "truncated": (with_file(datasets.IDX_FILES[0], idx(IMAGES)[:-5]), "promises 2352 bytes, it holds 2347"),
    "too long": (with_file(datasets.IDX_FILES[0], idx(IMAGES) + b"x"), "promises 2352 bytes, it holds 2353"),
    "absurd header": (with_file(datasets.IDX_FILES[0], idx(IMAGES, (2**32 - 1,) * 3)), "promises 7922816"),
    "header cut": (with_file(datasets.IDX_FILES[0], idx(IMAGES)[:9]), "ends within its header"),
    "not idx": (with_file(datasets.IDX_FILES[0], b"hello, world"), "not an IDX file"),
    "empty file": (with_file(datasets.IDX_FILES[0], b""), "not an IDX file"),
    "labels for images": (
        with_file(datasets.IDX_FILES[0], idx(LABELS)),
        r"uint8 \(3,\), should be uint8 \(N, 28, 28\)",
    ),
    "other size": (with_file(datasets.IDX_FILES[0], idx(IMAGES[:, :20])), "should be uint8"),
    "fewer labels": (with_file(datasets.IDX_FILES[1], idx(LABELS[:2])), "should be 3 integers from 0 to 9"),
    "label 10": (with_file(datasets.IDX_FILES[1], idx(LABELS + 1)), "should be 3 integers from 0 to 9"),
    "torn gzip": (with_file(datasets.IDX_FILES[0], gzip.compress(idx(IMAGES))[:-9]), "cannot be read"),
    "npz of nothing": (just("a.npz", b"PK\x05\x06" + bytes(18)), "has no x_train"),
    "not npz": (just("a.npz", b"hello"), "not an .npz"),
    "npz torn": (lambda f: just("b.npz", npz(f / "a.npz").read_bytes()[:900])(f), "not an .npz"),
    "npz float": (lambda f: npz(f / "a.npz", x_train=IMAGES / 255.0), "float64"),
    "npz without labels": (lambda f: npz(f / "a.npz", y_test=None), "has no y_test"),
    "npz with objects": (lambda f: npz(f / "a.npz", y_test=np.array([{}, {}])), "not an .npz"),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_bad_images_give_one_clear_line(case, tmp_path):
    make, words = BAD_IMAGES[case]
    path = make(tmp_path)
    with pytest.raises(DataError, match=words) as caught:
        datasets.load_images(path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_text_is_read_as_utf8(tmp_path):
    (tmp_path / "t").write_bytes("\ufeffa\r\nñ日".encode() * 10)
    t = datasets.load_text(tmp_path / "t")
    assert (t.train + t.test).startswith("a\nñ日") and "\r" not in t.train
    (tmp_path / "z").write_bytes(gzip.compress(b"abc" * 100))
    assert len(datasets.load_text(tmp_path / "z").train) == 270


def test_bad_text(tmp_path):
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    (tmp_path / "empty").write_bytes(b" \n")
    for name, words in (("latin", "not UTF-8 text"), ("empty", "is empty"), ("absent", "cannot be read")):
        with pytest.raises(DataError, match=words):
            datasets.load_text(tmp_path / name)


def test_pairs(tmp_path):
    lines = [f"s{i}\tt{i}" for i in range(20)]
    lines += ["s3\tother", "other\tt4", "", "ref\tnew\tnuevo"]
    (tmp_path / "p.tsv").write_text("\n".join(lines))
    p = datasets.load_pairs(tmp_path / "p.tsv")
    assert len(p.train) == 19 and p.test == [("s9", "t9"), ("s19", "t19")]
    assert ("new", "nuevo") in p.train and not any("other" in pair for pair in p.train + p.test)


@pytest.mark.parametrize(
    ("content", "words"),
    [("a\tb\n", "has 1 different pairs"), ("a\tb\nonly one\n", "line 2 should have"), ("a\t\n", "line 1 should have")],
)
def test_bad_pairs(content, words, tmp_path):
    (tmp_path / "p.tsv").write_text(content)
    with pytest.raises(DataError, match=words):
        datasets.load_pairs(tmp_path / "p.tsv")


def test_order_visits_every_example_once_an_epoch():
    order = datasets.Order(10, 3, seed=4)
    epochs = [np.concatenate([order.next() for _ in range(3)]) for _ in range(3)]
    assert all(len(set(e.tolist())) == 9 for e in epochs)
    assert len({tuple(e) for e in epochs}) == 3, "each epoch has an order of its own"
    other = datasets.Order(10, 3, seed=4)
    other.epoch[...], other.position[...] = 1, 3
    assert np.array_equal(other.next(), epochs[1][3:6])
    with pytest.raises(DataError, match="has 2 examples, should have at least a batch of 3"):
        datasets.Order(2, 3, seed=0)
