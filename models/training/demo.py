"""`assay demo` trains a GAN, a VAE and a GPT in front of you and shows what they make on one page.

Everything goes to runs/demo (or the folder given): a run folder per model, pictures, figures.json and index.html. A
demo that was interrupted continues; one that was finished starts afresh.
"""

import hashlib
import html
import json
import os
import platform
import shutil
import sys
import time
from pathlib import Path

import numpy as np

from models import MODELS
from models.training.commands import Parser
from models.training.pictures import save_grid
from models.training.runs import Run, versions
from models.training.train import ERRORS, exit_code, in_words, resume, train_new

KINDS = ("gan", "vae", "gpt")
PROMPT = "\nKING.\n"


def sources() -> str:
    """A checksum of the code and data that the figures come from."""
    root = Path(__file__).parents[2]
    files = sorted([*root.glob("core/**/*.py"), *root.glob("models/**/*.py"), *root.glob("models/data/*")])
    return hashlib.sha256(b"".join(p.read_bytes() for p in files)).hexdigest()


def train_one(kind, folder):
    """(trainer, seconds) of a finished demo run; continues one with these settings that was not finished.

    Another demo's run is replaced. A folder that the demo did not make is left alone: training in it is refused.
    """
    trainer_type, mark = MODELS[kind], folder / ".demo"
    if mark.exists() and (folder / "config.json").exists():
        run = Run.open(folder)
        begun = run.saved() and run.config() == trainer_type.Config.preset("demo")
        if begun and run.trainer().steps < run.settings["config"]["steps"]:
            _, trainer, seconds = resume(folder)
            return trainer, seconds
        with run.locked():
            shutil.rmtree(folder)
    if not (folder / "config.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        mark.touch()
    _, trainer, seconds = train_new(
        kind, trainer_type, preset="demo", changes={}, seed=0, out=folder, data_path=None, device="cpu"
    )
    return trainer, seconds


def show(kind, trainer, folder):
    """Write what the page shows of one model; what it is called, and the file."""
    if kind == "gpt":
        text = trainer.generate(PROMPT, 700)
        (folder / "sample.txt").write_text(text, encoding="utf-8")
        return [("What it writes, after a king's name", "sample.txt")]
    save_grid(folder / "samples.png", trainer.sample(64))
    shown = [("Samples", "samples.png")]
    if kind == "vae":
        x = trainer.data.x_test[:10]
        save_grid(folder / "reconstructions.png", np.concatenate([x / 255.0, trainer.reconstruct(x)]), columns=10)
        between = trainer.interpolate(x[:5], x[5:], 10)
        save_grid(folder / "interpolations.png", between.reshape(-1, 28, 28), columns=10)
        shown += [("Test images, and their reconstructions", "reconstructions.png")]
        shown += [("From one test image to another", "interpolations.png")]
    return shown


TITLES = {
    "gan": ("A GAN draws digits", "models/gan.py"),
    "vae": ("A VAE draws, repeats and morphs digits", "models/vae.py"),
    "gpt": ("A Transformer writes plays", "models/gpt.py"),
}
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
img { max-width: 100%; image-rendering: pixelated; margin: .3rem 0 } figure { margin: 1rem 0 }
figcaption { color: #555 } pre { background: #f5f5f2; padding: 1rem; overflow-x: auto }
td { padding: .1rem 1rem .1rem 0 } td + td { font-variant-numeric: tabular-nums } h2 { margin-top: 3rem }
"""


def page(results) -> str:
    """index.html: every model's pictures, figures and curves."""
    parts = [f"<!doctype html><html lang=en><meta charset=utf-8><title>Assay: demo</title><style>{STYLE}</style>"]
    parts.append('<meta name=viewport content="width=device-width"><h1>Assay: what three models learned just now</h1>')
    parts.append("<p>Trained on this machine by NumPy code with its own gradients; no framework was used.</p>")
    for kind, r in results["models"].items():
        title, source = TITLES[kind]
        parts.append(f"<h2>{title}</h2><p><code>{source}</code>: {r['parameters']:,} parameters, {r['steps']:,} steps ")
        parts.append(f"of {r['batch']} in {r['seconds']:.0f} s.</p>")
        for caption, name in r["shown"]:
            if name.endswith(".txt"):
                text = html.escape(Path(results["folder"], kind, name).read_text(encoding="utf-8"))
                parts.append(f"<figure><figcaption>{caption}</figcaption><pre>{text}</pre></figure>")
            else:
                parts.append(f'<figure><figcaption>{caption}</figcaption><img src="{kind}/{name}" alt=""></figure>')
        parts.append("<table>" + "".join(f"<tr><td>{k}<td>{_number(v)}" for k, v in r["figures"].items()) + "</table>")
        parts.append(f'<figure><figcaption>Losses</figcaption><img src="{kind}/loss.png" alt="loss curves"></figure>')
    machine = ", ".join(f"{k} {v}" for k, v in results["machine"].items())
    return "\n".join([*parts, f"<p>{html.escape(machine)}</p></html>"])


def _number(value):
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def main(arguments=None) -> int:
    parser = Parser(prog="assay demo", description=__doc__.split("\n")[0])
    parser.add_argument("--out", default="runs/demo", help="where to put it all (default runs/demo)")
    out = Path(parser.parse_args(arguments).out)
    results: dict = {"sources": sources(), "folder": str(out), "models": {}}
    results["machine"] = {"cores": len(os.sched_getaffinity(0)), "machine": platform.machine(), **versions()}
    began = time.perf_counter()
    try:
        for kind in KINDS:
            trainer, seconds = train_one(kind, out / kind)
            figures = trainer.evaluate()
            results["models"][kind] = {
                "parameters": sum(p.size for p in trainer.model.parameters()),
                "steps": trainer.steps,
                "batch": trainer.config.batch,
                "seconds": seconds,
                "figures": figures,
                "shown": show(kind, trainer, out / kind),
            }
            print(f"{kind}: " + ", ".join(f"{k} {_number(v)}" for k, v in figures.items()))
    except KeyboardInterrupt as interrupt:
        return exit_code(interrupt)
    except ERRORS as error:
        print(f"error: {in_words(error)}", file=sys.stderr)
        return 1
    results["seconds"] = time.perf_counter() - began
    (out / "index.html").write_text(page(results), encoding="utf-8")
    (out / "figures.json").write_text(json.dumps(results, indent=2), encoding="utf-8")
    print(f"{results['seconds']:.0f} s; look at {out / 'index.html'}")
    return 0
