"""`fit`, `validate`, `test` and `predict`: Lightning's command line, and what a run leaves."""

import json
import math
import shutil
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock
from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins import CheckpointIO
from torch import distributed
from torch.utils.tensorboard.writer import SummaryWriter

from twinloop.comparison.bridge import build_learner, check_task
from twinloop.comparison.diary import Diary, write_diary
from twinloop.comparison.flags import Flags, callbacks_of, check_callbacks, check_flags, check_run
from twinloop.comparison.record import Record, Recorder, RecorderCB
from twinloop.comparison.run import learner_callbacks
from twinloop.comparison.trace import HookTrace
from twinloop.data.batches import Batches
from twinloop.data.datamodule import ImageDataModule
from twinloop.data.spec import DataSpec
from twinloop.errors import UserError, told_as_mistake
from twinloop.experiment import files_of, parse, read_experiment
from twinloop.learner import Callback as LearnerCallback
from twinloop.learner.callbacks import FiniteLossCB, TraceCB
from twinloop.processes import is_first, join, world_size
from twinloop.runs import results
from twinloop.runs.callbacks import FiniteLoss, Scalars, trainer_callbacks
from twinloop.runs.checkpoint import (
    WholeCheckpointIO,
    check_fits,
    going_on,
    read_checkpoint,
    spec_of,
)
from twinloop.runs.evaluation import evaluate
from twinloop.runs.folder import check_unused, latest_run, new_run, only_process, run_of
from twinloop.runs.history import History
from twinloop.runs.last_batch import check_last_batch
from twinloop.runs.predictions import write_predictions
from twinloop.runs.saver import Saver
from twinloop.runs.settings import check_data, check_settings, check_split, load_weights
from twinloop.runs.stop import Stopped, StopSignals
from twinloop.tasks import Task

FIRST_PROCESS = is_first()
"""Whether this is the process that prints and writes, where several train together."""
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
        self.signals = StopSignals()
        self.lock: FileLock | None = None  # the first process of a fit has it
        self.writer: SummaryWriter | None = None  # the first process has one
        self.made = False  # whether the run's folder was made for this run
        self.diary: Diary | None = None
        self.record: Record | None = None
        # Mistakes are ours to report, and an option must be spelled out.
        strict: dict[str, Any] = {"exit_on_error": False, "allow_abbrev": False}
        super().__init__(
            Task,
            ImageDataModule,
            args=args,
            subclass_mode_model=True,
            save_config_callback=None,
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
        parser.add_argument(
            "--loop",
            type=Literal["lightning", "homemade"],
            default="lightning",
            help="Who trains: Lightning's Trainer or the homemade Learner, to the same weights.",
        )
        parser.add_argument(
            "--compile",
            type=Literal["no", "default", "reduce-overhead", "max-autotune"],
            default="no",
            help="Let torch.compile make kernels for the network, in this mode.",
        )
        # torchrun would take --run for one of its own options.
        parser.add_argument(
            *("--run_folder", "--run"),
            type=Path | None,
            help="Where to keep the run; unset, a new folder, and a resumed run's own.",
        )
        parser.add_argument(
            "--weights",
            type=Path | None,
            help="Begin a new run with the weights of this checkpoint, or the best of this run, "
            "as far as they fit.",
        )
        parser.add_argument(
            "--record",
            type=Literal["no", "times", "all"],
            default="no",
            help="Keep when everything was, or that and every number, for a comparison.",
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
        self.config = parse(parser, args)
        self._check_seed()

    def _check_seed(self) -> None:
        """Refuse a seed that would not be used.

        Raises:
            UserError: names the key.
        """
        config = self.config[self.config.subcommand]
        for file in config.config or ():
            data = read_experiment(Path(str(file))).get("data")
            if isinstance(data, dict) and data.get("seed") not in (None, config.seed_everything):
                raise UserError(f"{file}: data.seed is set by seed_everything; set that instead")

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
        run = None
        if asked is None and self.subcommand != "fit":
            asked, run = "best", self._run_of_config()
        if asked in KEYWORDS:
            run = run or latest_run(self.logs, self._get(self.config, "experiment"), data.spec)
            asked = _best_of(run) if asked == "best" else run / "checkpoints" / "last.ckpt"
        self.checkpoint = Path(asked) if asked is not None else None
        if self.subcommand == "predict" and self.checkpoint:
            data.spec = spec_of(read_checkpoint(self.checkpoint))
        return data.spec

    def _run_of_config(self) -> Path | None:
        """The run whose own config.yaml was given as the experiment."""
        folders = [Path(str(file)).parent for file in self._get(self.config, "config") or ()]
        return next((folder for folder in folders if (folder / "checkpoints").is_dir()), None)

    def instantiate_classes(self) -> None:
        """Make data, task and Trainer; what they refuse is a mistake in the experiment."""
        with told_as_mistake(f"{files_of(self.config[self.subcommand])}: cannot be made"):
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add what makes a run leave a folder with everything in it."""
        checkpoint = read_checkpoint(self.checkpoint) if self.checkpoint else None
        if checkpoint and self.checkpoint:
            if self.subcommand == "fit":
                check_data(checkpoint, self.model.spec, self.checkpoint)
                check_settings(checkpoint, self._settings, self.checkpoint)
            check_fits(checkpoint, self.model, self.checkpoint)
            self.model.load_state_dict(checkpoint["state_dict"])
        given = vars(self._get(self.config_init, "trainer"))
        quiet = {"logger": False, "enable_progress_bar": False}
        if self.subcommand != "fit":
            if given["precision"] is None and checkpoint:
                kwargs["precision"] = _settings_of(checkpoint, "precision")
            return super().instantiate_trainer(**kwargs, **quiet)
        self.short = bool(given["fast_dev_run"])
        self.homemade = self._get(self.config, "loop") == "homemade"
        # A bar of the user's own takes the place of ours, and Lightning would add one of its own.
        own_bar = any(isinstance(callback, ProgressBar) for callback in callbacks_of(given))
        if own_bar:
            del quiet["enable_progress_bar"]
        check_flags(given)
        if self.homemade:
            check_callbacks(given)
        # For the homemade loop it trains nothing: what it refuses is refused for both loops.
        savers = any(isinstance(callback, Checkpoint) for callback in callbacks_of(given))
        trainer = super().instantiate_trainer(enable_checkpointing=savers, **quiet)
        # Lightning's own launcher starts the other processes later.
        self._check(given, checkpoint, max(trainer.world_size, world_size()))
        if self.short:
            if not self.homemade:
                trainer.callbacks.append(FiniteLoss())  # type: ignore[attr-defined]
            return trainer
        self._open_run()
        weights = self._get(self.config, "weights")
        self.history = History(self._get(self.config, "loop"), str(weights) if weights else None)
        self.saver = Saver(
            self.run,
            self.model.monitor if self._validates else None,
            self.model.mode,
            self._settings,
            self._config_text(),
        )
        recorded = self._get(self.config, "record")
        self.diary = Diary() if recorded != "no" else None
        self.record = Record() if recorded == "all" else None
        self.bar = False if own_bar or given["enable_progress_bar"] is False else None
        if self.homemade:
            if FIRST_PROCESS:
                self.writer = SummaryWriter(str(self.run))
            return trainer

        if not self.datamodule.sizes["val"]:
            kwargs["limit_val_batches"] = 0
        if not own_bar:
            kwargs["enable_progress_bar"] = False
        # The logger puts the three together again.
        logger = Scalars(self.run.parent, name="", version=self.run.name, default_hp_metric=False)
        if FIRST_PROCESS:
            self.writer = logger.experiment
        callbacks = trainer_callbacks(
            self.saver, self.history, self.datamodule, self.writer, self.signals, bar=self.bar
        )
        if self.diary:
            trace = HookTrace(self.diary.events, self.diary.times)
            callbacks = [trace, *callbacks, *([Recorder(self.record)] if self.record else [])]
        self.trainer_defaults["callbacks"] = callbacks
        plugins = given["plugins"] or []
        plugins = list(plugins) if isinstance(plugins, list | tuple) else [plugins]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins.append(WholeCheckpointIO())
        kwargs["plugins"] = plugins
        return super().instantiate_trainer(logger=logger, **kwargs)

    def _check(
        self, given: dict[str, Any], checkpoint: dict[str, Any] | None, processes: int
    ) -> None:
        """Refuse what cannot be, in either loop by the same words, before anything is made.

        Raises:
            UserError: a flag, the task, or what has changed since the checkpoint.
        """
        if self.homemade:
            self.flags = Flags.of(given)
            check_task(self.model)
        check_run(given, self.model, self.datamodule, processes)
        steps = given["max_steps"] * given["accumulate_grad_batches"]
        check_last_batch(
            self.model,
            self.datamodule,
            limit=given["overfit_batches"] or given["limit_train_batches"],
            max_batches=int(given["fast_dev_run"]) or (math.inf if steps < 0 else steps),
            processes=processes,
        )
        weights = self._get(self.config, "weights")
        if weights and checkpoint:
            raise UserError("--weights begins a new run and --ckpt_path resumes one; pass one")
        if weights:
            path = _best_of(weights) if weights.is_dir() else weights
            line = load_weights(self.model, read_checkpoint(path), path)
            if FIRST_PROCESS:
                print(line, flush=True)

    def _open_run(self) -> None:
        """Make or find the run's folder, and lock it; a run is resumed in its own."""
        asked = self._get(self.config, "run_folder")
        own = self.checkpoint is not None and self.checkpoint.parent.name == "checkpoints"
        resumed = run_of(self.checkpoint) if self.checkpoint and own else None
        experiment = self._get(self.config, "experiment")
        if asked:
            if resumed is None or resumed.resolve() != asked.resolve():
                check_unused(asked)
            self.made = not asked.exists()
            self.run = asked
            self.run.mkdir(parents=True, exist_ok=True)
        elif resumed:
            self.run = resumed
        elif FIRST_PROCESS:
            self.run = new_run(self.logs, experiment, self.datamodule.spec.name)
            self.made = True
        else:
            self.run = self.logs / experiment / "version_of_the_first_process"
        if FIRST_PROCESS:
            self.lock = only_process(self.run)

    def fit(self, model: Task, datamodule: ImageDataModule, **_: Any) -> None:
        """Train, then read test once with the best weights, and write the results."""
        try:
            self._fit(model, datamodule)
        except FileNotFoundError as error:
            if self.short or self.run.is_dir():
                raise
            raise UserError(f"the run folder {self.run} is gone; start again") from error
        finally:
            self._leave()

    def _leave(self) -> None:
        """Release the run's folder, and remove one that was made for a run that never began."""
        if self.lock:
            self.lock.release()
        if self.made and FIRST_PROCESS and not (self.run / "config.yaml").exists():
            shutil.rmtree(self.run, ignore_errors=True)

    def _fit(self, model: Task, datamodule: ImageDataModule) -> None:
        loop = self._get(self.config, "loop")
        sizes = ", ".join(f"{size:,} {name}" for name, size in datamodule.sizes.items())
        if FIRST_PROCESS:
            experiment = self._get(self.config, "experiment")
            print(f"{experiment} on {model.spec.name}, {loop} loop: {sizes}", flush=True)
        mode = self._get(self.config, "compile")
        if mode != "no":
            model.compile(mode=mode)
        timing = self.diary.timing(model.network) if self.diary else nullcontext()
        # Whatever ends the run, TensorBoard's file is whole and its thread has ended.
        with self.writer or nullcontext():
            with nullcontext() if self.short else self.signals, timing, going_on(self.checkpoint):
                if self.homemade:
                    self._fit_homemade()
                else:
                    # With max_steps Lightning takes every checkpoint for one of an epoch's middle.
                    self.trainer.fit_loop._iteration_based_training = lambda: False  # type: ignore[method-assign]
                    self.trainer.fit(
                        model, datamodule=datamodule, ckpt_path=self.checkpoint, weights_only=True
                    )
            if self.signals.received:
                raise Stopped(self.signals.received, "after the last epoch", self.saver.last_path)
            if distributed.is_initialized():
                distributed.destroy_process_group()
            if self.writer is not None:
                if not self.saver.last_path.exists():
                    raise UserError(
                        f"{self.checkpoint}: nothing is left to train up to trainer.max_epochs or "
                        "max_steps; raise them, or measure the checkpoint with `test`"
                    )
                if self.diary:
                    write_diary(self.run, self.diary, self.record)
                results.conclude(
                    self.run,
                    self._get(self.config, "experiment"),
                    model,
                    datamodule,
                    self.history,
                    self.writer,
                    self._how(),
                )

    def _fit_homemade(self) -> None:
        """Train by the Learner that `build_learner` makes of the Trainer's flags."""
        join(self.flags.device)
        if world_size() > 1 or self.flags["strategy"] == "ddp":
            reset_seed()  # as Lightning's ddp does: every process draws the same from here on
        extra: list[LearnerCallback] = [FiniteLossCB(Batches.rows_of)] if self.short else []
        if not self.short:
            extra = learner_callbacks(
                self.saver,
                self.history,
                self.model,
                self.datamodule,
                self.writer,
                self.signals,
                self.flags,
                checkpoint=read_checkpoint(self.checkpoint) if self.checkpoint else None,
                bar=self.bar,
            )
            if self.diary:
                extra.append(TraceCB(self.diary.events, self.diary.times))
            if self.record:
                extra.append(RecorderCB(self.record))
        learn = build_learner(self.model, self.datamodule, self.flags, extra)
        try:
            learn.fit(learn.n_epochs, valid=False)
        finally:
            self.model.trainer = None

    @property
    def _validates(self) -> bool:
        """Whether there is anything to tell the best epoch by."""
        config = self._get(self.config, "trainer")
        limit = config.overfit_batches or config.limit_val_batches
        return bool(self.datamodule.sizes["val"]) and limit != 0

    @cached_property
    def _settings(self) -> dict[str, Any]:
        """Every setting of the run, in plain types."""
        settings: dict[str, Any] = json.loads(
            self._parser("fit").dump(self.config["fit"], format="json")
        )
        return settings

    def _config_text(self) -> str:
        """The experiment as YAML; given again it is a new run, in a folder of its own."""
        config = self.config["fit"].clone()
        config.run_folder = config.ckpt_path = None
        return str(self._parser("fit").dump(config, skip_none=False))

    def _how(self) -> dict[str, Any]:
        """How val and test are evaluated: on how many batches, in which precision."""
        config = self._get(self.config, "trainer")
        return {
            "limits": {"val": config.limit_val_batches, "test": config.limit_test_batches},
            "forward_context": self.trainer.precision_plugin.forward_context,
        }

    def validate(self, model: Task, datamodule: ImageDataModule, **_: Any) -> None:
        """Print the metrics of val."""
        self._evaluate("val")

    def test(self, model: Task, datamodule: ImageDataModule, **_: Any) -> None:
        """Print the metrics of test."""
        self._evaluate("test")

    def _evaluate(self, stage: str) -> None:
        print(f"checkpoint: {self.checkpoint}")
        assert self.checkpoint is not None
        if stage == "val":
            check_split(read_checkpoint(self.checkpoint), self.datamodule, self.checkpoint)
        self.model.to(self.trainer.strategy.root_device)
        self.trainer.precision_plugin.convert_module(self.model)
        how = self._how()
        limit = how["limits"][stage]
        context = how["forward_context"]
        found = evaluate(self.model, self.datamodule, stage, limit=limit, forward_context=context)
        for name, value in found.items():
            print(f"{stage}/{name}  {value:.4f}")

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


def _settings_of(checkpoint: dict[str, Any], flag: str) -> Any:
    """A flag of the Trainer with which a checkpoint was trained; None where it is not known."""
    return (checkpoint.get("settings") or {}).get("trainer", {}).get(flag)


def _best_of(run: Path) -> Path:
    """The best checkpoint of a run, or its last one where nothing was validated."""
    best = run / "checkpoints" / "best.ckpt"
    return best if best.is_file() else best.with_name("last.ckpt")
