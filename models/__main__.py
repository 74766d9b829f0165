"""train, sample, evaluate, export: `assay train ...`, or `python -m models train ...` in a checkout."""

import contextlib
import os
import sys
import time
import traceback

import numpy as np

from core.runtime import process_group
from models import MODELS
from models.diffusion import SAMPLERS
from models.training.commands import Parser, positive
from models.training.pictures import as_text, save_samples
from models.training.runs import Run
from models.training.train import ERRORS, Stopped, exit_code, in_words, resume, shown, train_new
from models.training.trainer import PRECISIONS

APART = 5.0  # seconds by which the first rank may come later to an error of its command line
ALIKE = 30.0  # seconds in which the first rank comes to the error that another has, or hears of it


def parser(prog):
    p = Parser(prog=prog, description="Train, sample and evaluate generative models.")
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
    t.add_argument("--accumulate", type=positive, metavar="N", help="parts that a batch is taken in, to save memory")
    t.add_argument("--sync-batch-norm", action="store_true", help="on several ranks: statistics of the whole batch")
    t.add_argument(
        "--timeout",
        type=positive,
        default=int(process_group.TIMEOUT),
        metavar="SECONDS",
        help="on several ranks: how long they wait for each other (default %(default)s)",
    )
    t.set_defaults(run=_train)

    s = commands.add_parser("sample", help="generate from a trained run")
    s.add_argument("run_folder", metavar="RUN", help="a run folder")
    s.add_argument("-n", type=positive, help="how many (default 64 images, 100 of diffusion, 1 text, 5 translations)")
    s.add_argument("--prompt", help="text to continue (gpt) or to translate (seq2seq)")
    s.add_argument(
        "--label", type=int, help="the class of all samples; default: all classes that the model knows, in turn"
    )
    s.add_argument("--traverse", action="store_true", help="a picture of what latents do (gan, vae)")
    s.add_argument("--seed", type=int, help="another seed, other samples; default 0")
    s.add_argument("--guidance", type=float, help="diffusion: 1 as trained, more exaggerates the class; default 2")
    s.add_argument("--sampler", choices=SAMPLERS, help="diffusion: default ddim")
    s.add_argument("--sampler-steps", type=positive, metavar="N", help="diffusion: default 50 for ddim, all for ddpm")
    s.add_argument(
        "--out", help="file to write, .png or .txt; default: images to RUN/samples/sampled.png, texts printed"
    )
    s.set_defaults(run=_sample)

    e = commands.add_parser("evaluate", help="figures of merit of trained runs, beside those of real data")
    e.add_argument("run_folders", metavar="RUN", nargs="+", help="run folders; image models of several are compared")
    e.add_argument("-n", type=positive, help="how many images, texts or sentences (default 2000, 20, 200)")
    e.add_argument("--out", default="runs/comparison", help="folder of the comparison, default runs/comparison")
    e.set_defaults(run=_evaluate)

    x = commands.add_parser("export", help="write ONNX files and PyTorch weights of a trained run")
    x.add_argument("run_folder", metavar="RUN", help="a run folder; the files go to RUN/export")
    x.set_defaults(run=_export)
    return p


FIXED = ("preset", "batch", "seed", "out", "data", "precision", "sync_batch_norm")  # of a run that goes on


def _train(args):
    group = process_group.current(args.device, args.timeout)
    if args.resume:
        given = {o: getattr(args, o) for o in FIXED}
        fixed = [o.replace("_", "-") for o, value in given.items() if value is not None and value is not False]
        if fixed:
            raise ValueError(f"--{fixed[0]} cannot be given with --resume: the run's own settings are used")
        kind = Run.open(args.resume).settings["model"]
        if args.model not in (None, kind):
            raise ValueError(f"{args.resume} holds a {kind} run, not {args.model}")
        options = {"device": args.device, "graph": args.graph, "accumulate": args.accumulate, "group": group}
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
            accumulate=args.accumulate or 1,
            sync_batch_norm=args.sync_batch_norm,
            group=group,
        )
    if getattr(trainer, "left_out", 0):
        most = trainer.config.length - 1
        print(f"{trainer.left_out:,} sentence pairs were left out: a side has more than {most} tokens", file=sys.stderr)
    parameters = sum(p.size for p in trainer.model.parameters())
    print(f"{trainer.kind}: {parameters:,} parameters, step {trainer.steps}, {seconds:.0f} s, in {run.folder}")


def _sample(args):
    trainer = _trained(args.run_folder)
    ways = _ways(args, trainer)
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
        samples = trainer.sample(args.n or shown(trainer), seed=args.seed or 0, **options, **ways)
    if args.out or isinstance(samples, np.ndarray):
        columns = trainer.classes if args.label is None else None
        print(save_samples(args.out or f"{args.run_folder}/samples/sampled", samples, columns or None))
    else:
        print(as_text(samples), end="")


def _ways(args, trainer) -> dict:
    """How a diffusion model is to sample, as its `sample` takes it."""
    given = {"guidance": "guidance", "sampler": "sampler", "steps": "sampler_steps"}
    ways = {name: getattr(args, option) for name, option in given.items() if getattr(args, option) is not None}
    if ways and trainer.kind != "diffusion":
        option = given[next(iter(ways))].replace("_", "-")
        raise ValueError(f"--{option} is for diffusion, {args.run_folder} holds a {trainer.kind}")
    return ways


def _traverse(args, trainer):
    if not hasattr(trainer, "traverse"):
        raise ValueError(f"--traverse is for gan and vae, {args.run_folder} holds a {trainer.kind}")
    if args.n or args.label is not None:
        raise ValueError("-n and --label cannot be given with --traverse: its picture has rows and columns of its own")
    images, what = trainer.traverse(args.seed or 0)
    out = args.out or f"{args.run_folder}/samples/traversed"
    print(f"{save_samples(out, images.reshape(-1, *images.shape[2:]), images.shape[1])}: {what}")


def _evaluate(args):
    from models.evaluation.evaluate import evaluate_all

    evaluate_all([_saved(folder) for folder in args.run_folders], args.n, args.out)


def _export(args):
    from models.export.export import export, loading  # the onnx library is large, and nothing else needs it

    trainer = _trained(args.run_folder)
    for path in export(Run.open(args.run_folder), trainer):
        print(path)
    print(f"\nin PyTorch, from a checkout, with torch installed:\n\n{loading(trainer)}")


def _trained(folder):
    return _saved(folder).trainer()


def _saved(folder):
    """A run that has a checkpoint."""
    run = Run.open(folder)
    if not run.saved():
        raise ValueError(f"{folder}: has no checkpoint yet")
    return run


def main(arguments=None, prog="python -m models") -> int:
    (rank, size), errors = process_group.launched(), sys.stderr
    with contextlib.ExitStack() as quiet:
        if rank:  # the first rank speaks for all, unless another has an error that it has not
            silent = quiet.enter_context(open(os.devnull, "w"))
            quiet.enter_context(contextlib.redirect_stdout(silent))
            quiet.enter_context(contextlib.redirect_stderr(silent))
        try:
            args = parser(prog).parse_args(arguments)
        except SystemExit:
            _let_the_first_speak(rank)
            raise
        try:
            if size > 1 and args.run is not _train:
                raise ValueError(f"{args.command} runs in one process, {size} were started")
            args.run(args)
        except Stopped as interrupt:
            return exit_code(interrupt)
        except KeyboardInterrupt as interrupt:  # others do not know of it: they would wait for this rank
            return (
                _fail("interrupted", rank, errors, exit_code(interrupt))
                if process_group.met()
                else exit_code(interrupt)
            )
        except ERRORS as error:
            return _fail(in_words(error), rank, errors)
        except Exception as error:
            if not process_group.met():
                raise
            traceback.print_exc(file=errors)
            return _fail(f"{type(error).__name__}: {in_words(error)}", rank, errors)
    return 0


def _fail(words, rank, errors, code=1) -> int:
    """One line, and the end of all ranks that have met. The first speaks; another does so only if the first has not
    ended them soon after: most errors are the same on all, and it hears of those that are not."""
    line = f"{f'rank {rank}: ' if rank else ''}{words}"
    if rank and process_group.met():
        process_group.current().tell(line, ALIKE)
    if not rank or process_group.met():
        print(f"error: {line}", file=errors, flush=True)
    if process_group.met():
        process_group.current().end(code)
    _let_the_first_speak(rank)
    return code


def _let_the_first_speak(rank):
    """The launcher ends all ranks when one has ended badly: others leave after the first, which has the same error."""
    if rank:
        time.sleep(APART)


if __name__ == "__main__":
    sys.exit(main())
