"""The results of a run: results.json, figures, and a table in the terminal."""

import os
import platform
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import TensorBoardLogger

from twinloop import figures
from twinloop.convolution.chain import layers_of
from twinloop.convolution.summary import multiply_adds
from twinloop.data.datamodule import ImageDataModule
from twinloop.data.protocol import Data
from twinloop.errors import UserError, escape_unprintable, explain
from twinloop.files import as_json, atomic_write
from twinloop.models.autoencoder import Autoencoder
from twinloop.runs import board, report, summary
from twinloop.runs.checkpoint import read_checkpoint
from twinloop.runs.evaluation import evaluate, evaluate_codes
from twinloop.runs.history import History
from twinloop.runs.repository import Repository
from twinloop.runs.run import Run
from twinloop.runs.throughput import MEASURED
from twinloop.tasks import Classification, ImageToImage, Reconstruction, Task

ABOUT_CODES = {
    "pca_mse": "per pixel, PCA with the dimension of the code",
    "linear_probe_accuracy": "logistic regression on the codes",
    "knn_accuracy": "10 nearest codes",
}
PACKAGES = ("twinloop", "torch", "lightning", "torchmetrics", "datasets", "tensorboard", "numpy")


def write_results(
    run: Run,
    experiment: str,
    task: Task,
    data: Data,
    limits: Mapping[str, int | float | None],
    forward_context: Callable[[], AbstractContextManager[Any]],
) -> None:
    """Evaluate the best weights of a finished run on val and test, and write the results.

    The task has these weights afterwards. `limits` has the `limit` of 'val' and of 'test', and
    `forward_context` is as in `evaluate`.
    """
    best, last = run.saver.best_path, run.saver.last_path
    weights = read_checkpoint(best if best.exists() else last)  # no best without validation
    task.load_state_dict(weights["state_dict"])
    val, test = (
        evaluate(task, data, stage, limit=limits[stage], forward_context=forward_context)
        for stage in ("val", "test")
    )
    labels = {name: run.saver.settings.get(name) for name in ("tags", "notes")}
    found = collect(
        {"experiment": experiment, **labels},
        run.repository,
        task=task,
        data=data,
        history=run.history,
        val=val,
        test=test,
    )
    write(found, run.folder / "results.json")
    write_figures(found, task, data, run.folder)
    units = {**task.units, **ABOUT_CODES}
    if run.saver.summary is not None:
        summary.update(run.folder, **_in_summary(found))
        _report(found, units, run.folder)
    board.log_end(run.loggers, task, data, found, int(weights["global_step"]))
    in_tensorboard = any(isinstance(logger, TensorBoardLogger) for logger in run.loggers)
    logs = run.folder.parent.parent if in_tensorboard else None
    show(found, units, run.folder, logs)


def _report(results: Mapping[str, Any], units: Mapping[str, str], folder: Path) -> None:
    """Write the report; a line says why there is none, as the results are more important."""
    try:
        report.write_report(folder, results, summary.read(folder), units)
    except Exception as error:
        reason = explain(error) or f"{type(error).__name__}: {error}".splitlines()[0]
        print(f"report.html is left out: {escape_unprintable(reason)}", flush=True)


def count_operations(task: Task) -> int | None:
    """The FLOPs of one image forward, two for each multiply-add of convolutions and linear layers.

    None of a network that does not take one image alone.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            layers = layers_of(task.network, task.spec.image_shape)
    except Exception:  # of any type, from the network
        return None
    return 2 * sum(map(multiply_adds, layers))


def collect(
    labels: Mapping[str, Any],
    repository: Repository,
    *,
    task: Task,
    data: Data,
    history: History,
    val: dict[str, float],
    test: dict[str, Any],
) -> dict[str, Any]:
    """The content of results.json, in plain types; `labels` are the user's words for the run.

    `val` and `test` are the metrics of the best checkpoint, whose weights `task` has.
    """
    seconds = [row["seconds"] for row in history.rows]
    return {
        **labels,
        "loop": history.loops[-1],
        "trained_by": history.loops,
        "weights": history.weights,
        "dataset": _dataset(task, data),
        "seed": data.seed,
        "parameters": sum(weight.numel() for weight in task.network.parameters()),
        "flops": count_operations(task),
        "epochs": len(history.rows),
        "seconds": {"total": sum(seconds), "per_epoch": seconds},
        "device": str(task.device),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version()} | {p: version(p) for p in PACKAGES},
        "commit": repository.commit,
        "uncommitted_changes": repository.changed,
        "measured": {
            name.removeprefix(MEASURED): x for name, x in history.throughput.measured().items()
        },
        "val": val,
        "test": test | (_test_details(task, data) if test else {}),
        "history": history.rows,
    }


def _dataset(task: Task, data: Data) -> dict[str, Any]:
    return {
        "name": task.spec.name,
        "fingerprint": task.spec.fingerprint,
        "test_split": data.facts.test_split,
        "sizes": data.sizes,
        "notes": list(data.facts.notes),
    }


def _in_summary(results: Mapping[str, Any]) -> dict[str, Any]:
    """The results that the list of all runs has."""
    scalars = {
        stage: {name: value for name, value in results[stage].items() if isinstance(value, float)}
        for stage in ("val", "test")
    }
    total = results["seconds"]["total"]
    return {"seconds": total, "epochs": results["epochs"], "commit": results["commit"], **scalars}


def _test_details(task: Task, data: Data) -> dict[str, Any]:
    """The results on test besides the scalar metrics: of codes, and by class."""
    details: dict[str, Any] = {}
    compares = isinstance(task.network, Autoencoder) and not isinstance(task, ImageToImage)
    if compares and isinstance(data, ImageDataModule):
        details |= evaluate_codes(task.network, data)
    elif compares:
        print("PCA, probes and the projector are left out: they need an ImageDataModule")
    if isinstance(task, Classification):
        # A class without images in test has no accuracy.
        counts = task.last_metrics["test/confusion"].sum(1).tolist()
        shares = task.last_metrics["test/class_accuracy"].tolist()
        by_class = [share if count else None for share, count in zip(shares, counts, strict=True)]
        details["class_accuracy"] = dict(zip(task.spec.class_names, by_class, strict=True))
    return details


def write_figures(results: dict[str, Any], task: Task, data: Data, folder: Path) -> None:
    """Write curves by epoch; reconstructions of an autoencoder; a classifier's confusion matrix."""
    name = f"{results['experiment']} on {task.spec.name}"
    if results["history"]:
        figures.save(figures.curves(results["history"], name), folder / "curves.png")
    if isinstance(task, Reconstruction) and results["test"]:
        title = f"{name}: test MSE {results['test']['mse']:.4f}"
        rows = board.reconstructed(task, data, 10)
        figures.save(figures.reconstructions(rows, title), folder / "reconstructions.png")
    if isinstance(task, Classification) and results["test"]:
        title = f"{name}: test accuracy {results['test']['accuracy']:.1%}"
        matrix = task.last_metrics["test/confusion"]
        figure = figures.confusion(matrix, task.spec.class_names, title)
        figures.save(figure, folder / "confusion.png")


def write(results: dict[str, Any], path: Path) -> None:
    """Write results.json atomically.

    Raises:
        UserError: it cannot be written.
    """
    try:
        with atomic_write(path) as part:
            part.write_text(as_json(results))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def show(
    results: dict[str, Any], units: Mapping[str, str], folder: Path, logs: Path | None
) -> None:
    """Print a table of the results, with the units of metrics, and the next commands."""
    from rich.console import Console
    from rich.table import Table

    sizes = results["dataset"]["sizes"]
    title = f"{results['experiment']} on {results['dataset']['name']} ({results['loop']})"
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_row("data", ", ".join(f"{size:,} {name}" for name, size in sizes.items()))
    table.add_row("parameters", f"{results['parameters']:,}")
    table.add_row("epochs", f"{results['epochs']} in {results['seconds']['total']:.0f} s")
    for stage in ("val", "test"):
        for name, value in results[stage].items():
            if isinstance(value, float):
                unit = f"  ({units[name]})" if name in units else ""
                table.add_row(f"{stage} {name}", f"{value:.4f}{unit}")
    # Names may have brackets and colons.
    console = Console(soft_wrap=not os.isatty(1), markup=False, emoji=False)
    console.print(table)
    console.print(f"figures and results.json: {folder}", highlight=False)
    if logs:
        console.print(f"in TensorBoard: tensorboard --logdir {logs}", highlight=False)
