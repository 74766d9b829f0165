"""python -m models: train, sample, evaluate."""

import json
import sys
import time

import numpy as np

from core.checkpoint import write_atomically
from core.commands import Parser, positive
from models import MODELS
from models.pictures import as_text, save_samples
from models.runs import Run
from models.train import ERRORS, exit_code, in_words, resume, shown, train_new
from models.trainer import PRECISIONS


def parser():
    p = Parser(prog="python -m models", description="Train, sample and evaluate generative models.")
    commands = p.add_subparsers(dest="command", required=True)

    t = commands.add_parser("train", help="train a model into a run folder, or continue one")
    t.add_argument("model", nargs="?", choices=MODELS, help="which model")
    t.add_argument("--preset", help="demo (default), small (text models), paper; conditional (gan, vae), poems (gpt)")
    t.add_argument("--steps", type=positive, help="steps in all, also with --resume")
    t.add_argument("--batch", type=positive, help="examples a step")
    t.add_argument("--seed", type=int, help="default 0")
    t.add_argument("--out", help="run folder, default runs/MODEL")
    t.add_argument("--resume", metavar="DIR", help="continue the run in DIR")
    t.add_argument(
        "--data",
        help="your data: .npz or a folder of IDX files (images), a text file, a TSV of pairs; or fashion, or poems",
    )
    t.add_argument("--save-every", type=positive, metavar="N", help="steps between checkpoints and samples")
    t.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="default cpu")
    t.add_argument("--precision", choices=PRECISIONS, help="of products: fp32 (default), tf32 (on a GPU), fp16")
    t.add_argument(
        "--no-graph",
        dest="graph",
        action="store_false",
        help="on a GPU: launch the kernels of a step one by one; by default a step is captured in one CUDA graph and "
        "replayed, in the same bits",
    )
    t.add_argument("--detect-anomaly", action="store_true", help="name the operation that first makes a NaN; slower")
    t.set_defaults(run=_train)

    s = commands.add_parser("sample", help="generate from a trained run")
    s.add_argument("run_folder", metavar="RUN", help="a run folder")
    s.add_argument("-n", type=positive, help="how many (default 64 images, 1 text, 5 translations)")
    s.add_argument("--prompt", help="text to continue (gpt) or to translate (seq2seq)")
    s.add_argument(
        "--label", type=int, help="the class of all samples; default: all classes that the model knows, in turn"
    )
    s.add_argument("--traverse", action="store_true", help="a picture of what latents do (gan, vae)")
    s.add_argument("--seed", type=int, help="another seed, other samples; default 0")
    s.add_argument(
        "--out", help="file to write, .png or .txt; default: images to RUN/samples/sampled.png, texts printed"
    )
    s.set_defaults(run=_sample)

    e = commands.add_parser("evaluate", help="figures of merit of a trained run")
    e.add_argument("run_folder", metavar="RUN", help="a run folder")
    e.set_defaults(run=_evaluate)
    return p


def _train(args):
    if args.resume:
        fixed = [o for o in ("preset", "batch", "seed", "out", "data", "precision") if getattr(args, o) is not None]
        if fixed:
            raise ValueError(f"--{fixed[0]} cannot be given with --resume: the run's own settings are used")
        kind = Run.open(args.resume).settings["model"]
        if args.model not in (None, kind):
            raise ValueError(f"{args.resume} holds a {kind} run, not {args.model}")
        options = {"device": args.device, "graph": args.graph}
        run, trainer, seconds = resume(
            args.resume, steps=args.steps, save_every=args.save_every, anomalies=args.detect_anomaly, **options
        )
    else:
        if not args.model:
            raise ValueError(f"name a model ({', '.join(MODELS)}), or a run with --resume")
        changes = {name: getattr(args, name) for name in ("steps", "batch") if getattr(args, name)}
        run, trainer, seconds = train_new(
            args.model,
            MODELS[args.model],
            preset=args.preset or "demo",
            changes=changes,
            seed=args.seed or 0,
            out=args.out or f"runs/{args.model}",
            data_path=args.data,
            device=args.device,
            precision=args.precision or "fp32",
            save_every=args.save_every,
            graph=args.graph,
            anomalies=args.detect_anomaly,
        )
    if getattr(trainer, "left_out", 0):
        most = trainer.config.length - 1
        print(f"{trainer.left_out:,} sentence pairs were left out: a side has more than {most} tokens", file=sys.stderr)
    parameters = sum(p.size for p in trainer.model.parameters())
    print(f"{trainer.kind}: {parameters:,} parameters, step {trainer.steps}, {seconds:.0f} s, in {run.folder}")


def _sample(args):
    trainer = _trained(args.run_folder)
    if args.prompt is not None and trainer.kind not in ("gpt", "seq2seq"):
        raise ValueError(f"--prompt is for gpt and seq2seq, {args.run_folder} holds a {trainer.kind}")
    if args.label is not None and not trainer.classes:
        raise ValueError(f"--label is for models that know classes, {args.run_folder} holds a {trainer.kind} without")
    if args.traverse:
        _traverse(args, trainer)
        return
    if args.prompt is not None and trainer.kind == "seq2seq":
        if args.n or args.seed is not None:
            raise ValueError("-n and --seed cannot be given with seq2seq's --prompt: it has one translation")
        tokens, most = len(trainer.tokenizer.encode(args.prompt)), trainer.config.length - 1
        if tokens > most:
            raise ValueError(f"--prompt has {tokens} tokens, this model reads {most} at most")
        samples: object = [trainer.translate(args.prompt)]
    else:
        options = {name: v for name, v in (("prompt", args.prompt), ("labels", args.label)) if v is not None}
        samples = trainer.sample(args.n or shown(trainer), seed=args.seed or 0, **options)
    if args.out or isinstance(samples, np.ndarray):
        columns = trainer.classes if args.label is None else None
        print(save_samples(args.out or f"{args.run_folder}/samples/sampled", samples, columns or None))
    else:
        print(as_text(samples), end="")


def _traverse(args, trainer):
    if not hasattr(trainer, "traverse"):
        raise ValueError(f"--traverse is for gan and vae, {args.run_folder} holds a {trainer.kind}")
    if args.n or args.label is not None:
        raise ValueError("-n and --label cannot be given with --traverse: its picture has rows and columns of its own")
    images, what = trainer.traverse(args.seed or 0)
    out = args.out or f"{args.run_folder}/samples/traversed"
    print(f"{save_samples(out, images.reshape(-1, *images.shape[2:]), images.shape[1])}: {what}")


def _evaluate(args):
    trainer = _trained(args.run_folder)
    started = time.perf_counter()
    figures = trainer.evaluate()
    for name, value in figures.items():
        print(f"{name:32s} {value:.4f}" if isinstance(value, float) else f"{name:32s} {value}")
    content = json.dumps({"step": trainer.steps, **figures}, indent=2)
    write_atomically(f"{args.run_folder}/evaluation.json", content.encode("utf-8"))
    print(f"step {trainer.steps}, {time.perf_counter() - started:.0f} s")


def _trained(folder):
    run = Run.open(folder)
    if not run.saved():
        raise ValueError(f"{folder}: has no checkpoint yet")
    return run.trainer()


def main(arguments=None) -> int:
    args = parser().parse_args(arguments)
    try:
        args.run(args)
    except KeyboardInterrupt as interrupt:
        return exit_code(interrupt)
    except ERRORS as error:
        print(f"error: {in_words(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
