"""Evaluation of trained runs: figures of merit with intervals, and beside each what real held-out data scores.

`assay evaluate RUN ...` comes here. docs/evaluation.md says what each figure means, and what it does not.
# next: models/evaluation/images.py, then frechet.py and neighbours.py; texts.py, translations.py; bounds.py for a VAE
"""

from models import MODELS
from models.evaluation import compare, images, texts
from models.evaluation.report import table, write
from models.training.families import ImageTrainer
from models.training.runs import Run


def evaluate(run: Run, n: int | None = None) -> tuple:
    """(Report, samples) of a run with a checkpoint, in its folder as well; samples None but of an image model.

    n: how many images, texts or sentences; None: 2,000, 20, 200.
    """
    trainer, samples = run.trainer(), None
    if isinstance(trainer, ImageTrainer):
        report, samples = images.evaluate(run, trainer, n)
    elif trainer.kind == "gpt":
        report = texts.evaluate(run, trainer, n)
    else:
        from models.evaluation import translations  # here alone sacrebleu is needed

        report = translations.evaluate(run, trainer, n)
    write(report, run.folder)
    return report, samples


def evaluate_all(runs: list, n: int | None, out) -> None:
    """Evaluate runs one after the other, print their tables; image models of several are compared in folder `out`."""
    drawn = [run for run in runs if issubclass(MODELS[run.settings["model"]], ImageTrainer)]
    if len(drawn) > 1:
        compare.check_comparable(drawn)
    found = []
    for run in runs:
        report, samples = evaluate(run, n)
        print(f"{table(report)}\n{run.folder}/evaluation.html, step {report.step}\n")
        if samples is not None:
            found.append((report, samples))
    if len(found) > 1:
        reports, samples = zip(*found)
        held_out = drawn[0].trainer().data.x_test / 255.0
        compare.write(out, reports, samples, held_out)
        print(f"{out}/comparison.png")
