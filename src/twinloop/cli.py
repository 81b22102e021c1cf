"""The command line: `python -m twinloop fit|validate|test|predict --config experiments/X.yaml`."""

import errno
import json
import logging
import re
import sys
import threading
import traceback
import warnings
from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger

from twinloop.data.datamodule import ImageDataModule
from twinloop.data.spec import DataSpec
from twinloop.errors import UserError
from twinloop.runs import board, results
from twinloop.runs.callbacks import Board, History, Lines, RandomState
from twinloop.runs.checkpoint import WholeCheckpointIO, check_fits, read_checkpoint, spec_of
from twinloop.runs.folder import latest_run, new_run, run_of
from twinloop.runs.predictions import write_predictions
from twinloop.tasks import Task

OUT_OF_REACH = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG)
"""No room, or no right to write: nothing that a traceback would explain."""
KEYWORDS = ("last", "best")
"""Checkpoints of the latest run that `--ckpt_path` knows by name."""

STAND_IN = """
************************************************************************
*  NOT FASHION-MNIST: the Hub does not answer and its cache is empty.  *
*  This run uses scikit-learn's small handwritten digits instead.      *
*  For the real data: make ... DATA=FOLDER, or try again with network. *
************************************************************************
"""


class TwinloopCLI(LightningCLI):
    """Lightning's command line, with a run folder and results for every fit."""

    model: Task
    datamodule: ImageDataModule

    def __init__(self, args: list[str]) -> None:
        self.checkpoint: Path | None = None
        # Mistakes are ours to report, and an option must be spelled out.
        strict: dict[str, Any] = {"exit_on_error": False, "allow_abbrev": False}
        super().__init__(
            Task,
            ImageDataModule,
            args=args,
            subclass_mode_model=True,
            save_config_callback=SaveConfigCallback,
            save_config_kwargs={"overwrite": True},
            seed_everything_default=42,
            auto_configure_optimizers=False,
            trainer_defaults={
                "num_sanity_val_steps": 0,
                "enable_model_summary": False,
                "log_every_n_steps": 10,
            },
            parser_kwargs=strict | dict.fromkeys(self.subcommands(), strict),
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The experiment's name, and what the parts learn from each other."""
        parser.add_argument(
            "--experiment", type=str, required=True, help="Runs are kept under this name."
        )
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)
        parser.link_arguments(
            "data", "model.init_args.spec", compute_fn=self._spec, apply_on="instantiate"
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's four, without `weights_only`: no checkpoint is ever unpickled."""
        ours = {"model", "datamodule", "weights_only", "verbose", "return_predictions"}
        return {
            "fit": ours | {"train_dataloaders", "val_dataloaders"},
            "validate": ours | {"dataloaders"},
            "test": ours | {"dataloaders"},
            "predict": ours | {"dataloaders"},
        }

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse `args` without Lightning's warning that `sys.argv` has them too."""
        self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """Lightning would take hyperparameters from the checkpoint; ours brings only weights."""

    def _spec(self, data: ImageDataModule) -> DataSpec:
        """The data set's facts; those of the checkpoint for a person's own pictures."""
        if data.is_stand_in:
            print(STAND_IN, flush=True)
        self.logs = (
            Path(self._get(self.config, "trainer").default_root_dir or ".") / "lightning_logs"
        )
        asked = self._get(self.config, "ckpt_path")
        if asked is None and self.subcommand != "fit":
            asked = "best"
        if asked in KEYWORDS:
            run = latest_run(self.logs, self._get(self.config, "experiment"), data.spec.name)
            asked = run / "checkpoints" / f"{asked}.ckpt"
        self.checkpoint = Path(asked) if asked is not None else None
        if self.subcommand == "predict" and self.checkpoint:
            data.spec = spec_of(read_checkpoint(self.checkpoint))
        return data.spec

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add what makes a run leave a folder with everything in it."""
        if self.checkpoint:
            checkpoint = read_checkpoint(self.checkpoint)
            check_fits(checkpoint, self.model, self.checkpoint)
            self.model.load_state_dict(checkpoint["state_dict"])
        config = self._get(self.config, "trainer")
        terminal = sys.stdout.isatty()
        if not terminal or self.subcommand != "fit":
            kwargs.setdefault("enable_progress_bar", False)
        if self.subcommand != "fit":
            kwargs["logger"] = False
            self.save_config_callback = None
            return super().instantiate_trainer(**kwargs)
        if config.fast_dev_run:
            return super().instantiate_trainer(**kwargs)

        experiment = self._get(self.config, "experiment")
        # A run goes on in its own folder.
        if self.checkpoint and run_of(self.checkpoint).parent == self.logs / experiment:
            self.run = run_of(self.checkpoint)
        else:
            self.run = new_run(self.logs, experiment, self.datamodule.spec.name)
        self.logger = TensorBoardLogger(
            self.logs, experiment, version=self.run.name, default_hp_metric=False
        )
        self.history = History()
        self.saver = ModelCheckpoint(
            self.run / "checkpoints",
            filename="best",
            monitor=self.model.monitor,
            mode=self.model.mode,
            enable_version_counter=False,
        )
        # A saver with `save_last` would leave out every epoch that is not the best so far.
        latest = ModelCheckpoint(
            self.run / "checkpoints", filename="last", enable_version_counter=False
        )
        settings = json.loads(self._parser("fit").dump(self.config["fit"], format="json"))
        self.trainer_defaults["callbacks"] = [
            RandomState(),
            self.history,
            LearningRateMonitor(logging_interval="step"),
            RichProgressBar() if terminal else Lines(self.history),
            Board(self.logger.experiment, self.datamodule, settings),
            self.saver,
            latest,
        ]
        kwargs["plugins"] = [*(config.plugins or []), WholeCheckpointIO()]
        return super().instantiate_trainer(logger=self.logger, **kwargs)

    def fit(self, model: Task, datamodule: ImageDataModule, **_: Any) -> None:
        """Train, then read test once with the best weights, and write the results."""
        sizes = ", ".join(f"{size:,} {name}" for name, size in datamodule.sizes.items())
        experiment = self._get(self.config, "experiment")
        print(f"{experiment} on {model.spec.name}: {sizes}", flush=True)
        self.trainer.fit(model, datamodule=datamodule, ckpt_path=self.checkpoint, weights_only=True)
        if self._get(self.config, "trainer").fast_dev_run or self.trainer.interrupted:
            return
        best = Path(self.saver.best_model_path)
        weights = read_checkpoint(best)
        model.load_state_dict(weights["state_dict"])
        quiet = Trainer(
            accelerator=self.trainer.accelerator,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            inference_mode=False,
        )
        val = _metrics(quiet.validate(model, datamodule=datamodule, verbose=False))
        test = _metrics(quiet.test(model, datamodule=datamodule, verbose=False))
        found = results.collect(
            experiment=self.run.parent.name,
            loop="lightning",
            task=model,
            data=datamodule,
            history=self.history.rows,
            val=val,
            test=test,
        )
        results.write(found, self.run / "results.json")
        results.write_figures(found, model, datamodule, self.run)
        step = int(weights["global_step"])
        board.log_end(self.logger.experiment, model, datamodule, found, step)
        results.show(found, self.run, self.logs)

    def validate(self, model: Task, datamodule: ImageDataModule, **_: Any) -> None:
        """Print the metrics of val."""
        self._evaluate(self.trainer.validate)

    def test(self, model: Task, datamodule: ImageDataModule, **_: Any) -> None:
        """Print the metrics of test."""
        self._evaluate(self.trainer.test)

    def _evaluate(self, evaluate: Any) -> None:
        print(f"checkpoint: {self.checkpoint}")
        metrics = evaluate(self.model, datamodule=self.datamodule, verbose=False)
        for name, value in metrics[0].items():
            print(f"{name}  {value:.4f}")

    def predict(self, model: Task, datamodule: ImageDataModule, **_: Any) -> None:
        """Write what the model makes of a person's own pictures."""
        assert self.checkpoint is not None
        outputs: Any = self.trainer.predict(model, datamodule=datamodule)
        assert datamodule.images is not None
        folder = run_of(self.checkpoint) / "predictions" / datamodule.images.resolve().name
        images = datamodule.pictures.float() / 255
        write_predictions(
            model,
            images,
            torch.cat([part.float() for part in outputs]),
            datamodule.paths,
            datamodule.images,
            folder,
        )
        print(f"{len(images)} pictures, with {self.checkpoint}")
        print(f"overview.png, predictions.csv and predictions.npz: {folder}")


def _metrics(logged: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Lightning's `{"test/mse": ...}` of one loader, without the stage."""
    return {name.partition("/")[2]: value for name, value in logged[0].items()}


def main(args: list[str]) -> int:
    """Run a command; a person's mistake ends in one line, and with `--debug` in a traceback.

    Returns:
        The exit status: 0, or 2 for a mistake in the command, a file, or the data.
    """
    debug = "--debug" in args
    args = [arg for arg in args if arg != "--debug"]
    _quiet()
    threading.excepthook = _report_thread
    try:
        TwinloopCLI(args)
    except Exception as error:
        message = _explain(error)
        if message is None or debug:
            traceback.print_exc()
        print("error:", message or repr(error), file=sys.stderr)
        return 2 if message else 1
    return 0


def _explain(error: BaseException | None) -> str | None:
    """What a person did wrong, where an error in the chain of causes is of that kind."""
    while error is not None:
        if isinstance(error, UserError):
            return str(error)
        if isinstance(error, ArgumentError):
            return _shorten(error.message or str(error))
        if isinstance(error, OSError) and error.errno in OUT_OF_REACH:
            where = error.filename or "the run folder"
            return f"cannot write {where}: {error.strerror}; mend that, then go on (RESUME=1)"
        error = error.__cause__
    return None


def _shorten(message: str) -> str:
    """The parser's message in one line, with only the first of the types that did not fit."""
    line = " ".join(message.split())
    line = re.sub(
        r"Does not validate against any of the Union subtypes Subtypes: .*?Errors: - ", "", line
    )
    line = re.sub(r" - Expected a .*?(?= Given value: )", ";", line)
    line = re.sub(r"[.;]? (Given value|Got value): (Namespace|NestedArg)\(.*", "", line)
    line = re.sub(r"<class '(?:builtins\.)?([\w.]+)'>", r"\1", line)
    line = re.sub(r"(Given|Got) value: ", "got ", line)
    return line.replace("Parser key ", "").removesuffix(";")


def _report_thread(failed: threading.ExceptHookArgs) -> None:
    """Leave a full disk to the main thread, which TensorBoard's tells at the next write."""
    if not (isinstance(failed.exc_value, OSError) and failed.exc_value.errno in OUT_OF_REACH):
        threading.__excepthook__(failed)


def _quiet() -> None:
    """Silence what libraries say to everyone: tips, advertisements, and advice that is not ours."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Lightning asks torch in a way that torch is about to drop.
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated")
    # The metrics of an epoch are logged however few its batches are.
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval")
    # A run goes on in its own folder.
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    # Batches are gathered whole from mapped memory: worker processes would only slow them down.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
