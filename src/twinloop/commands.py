"""`fit`, `validate`, `test` and `predict`: Lightning's command line, and what a run leaves."""

import json
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock
from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only
from torch import distributed
from torch.utils.tensorboard.writer import SummaryWriter

from twinloop.comparison.bridge import Flags, build_learner
from twinloop.comparison.diary import Diary, write_diary
from twinloop.comparison.record import Record, Recorder, RecorderCB
from twinloop.comparison.run import learner_callbacks
from twinloop.comparison.trace import HookTrace
from twinloop.data.batches import Batches
from twinloop.data.datamodule import ImageDataModule
from twinloop.data.spec import DataSpec
from twinloop.errors import UserError, told_as_mistake
from twinloop.experiment import files_of, parse
from twinloop.files import written_whole
from twinloop.learner import Callback as LearnerCallback
from twinloop.learner.callbacks import FiniteLossCB, TraceCB
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
from twinloop.runs.folder import latest_run, new_run, only_process, run_of
from twinloop.runs.predictions import write_predictions
from twinloop.runs.stop import Stopped, StopSignals
from twinloop.tasks import Task

FIRST_PROCESS = not getattr(rank_zero_only, "rank", 0)
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
        parser.add_argument(
            "--run", type=Path | None, help="Where to keep the run; unset, a new folder."
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

    def instantiate_classes(self) -> None:
        """Make data, task and Trainer; what they refuse is a mistake in the experiment."""
        with told_as_mistake(f"{files_of(self.config[self.subcommand])}: cannot be made"):
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add what makes a run leave a folder with everything in it."""
        if self.checkpoint:
            checkpoint = read_checkpoint(self.checkpoint)
            check_fits(checkpoint, self.model, self.checkpoint)
            self.model.load_state_dict(checkpoint["state_dict"])
        config = self._get(self.config, "trainer")
        self.short = bool(self.subcommand == "fit" and config.fast_dev_run)
        homemade = self.subcommand == "fit" and self._get(self.config, "loop") == "homemade"
        if homemade:
            self.flags = Flags(vars(self._get(self.config_init, "trainer")))
        if self.subcommand != "fit" or self.short:
            kwargs |= {"logger": False, "enable_progress_bar": False}
            self.trainer_defaults["callbacks"] = [FiniteLoss()] if self.short else []
            return super().instantiate_trainer(**kwargs)

        experiment = self._get(self.config, "experiment")
        recorded = self._get(self.config, "record")
        self.diary = Diary() if recorded != "no" else None
        self.record = Record() if recorded == "all" else None
        asked = self._get(self.config, "run")
        # A run goes on in its own folder.
        if asked:
            self.run = asked
            self.run.mkdir(parents=True, exist_ok=True)
        elif self.checkpoint and run_of(self.checkpoint).parent == self.logs / experiment:
            self.run = run_of(self.checkpoint)
        elif FIRST_PROCESS:
            self.run = new_run(self.logs, experiment, self.datamodule.spec.name)
        else:
            self.run = self.logs / experiment / "version_of_the_first_process"
        if FIRST_PROCESS:
            self.lock = only_process(self.run)
            with written_whole(self.run / "config.yaml") as part:
                self._parser("fit").save(self.config["fit"], part, skip_none=False, overwrite=True)
        if homemade:
            if FIRST_PROCESS:
                self.writer = SummaryWriter(str(self.run))
            return Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)

        # The logger puts the three together again.
        logger = Scalars(self.run.parent, name="", version=self.run.name, default_hp_metric=False)
        if FIRST_PROCESS:
            self.writer = logger.experiment
        callbacks, self.rows = trainer_callbacks(
            self.run,
            self.model,
            self.datamodule,
            self.writer,
            self._settings(),
            self.signals,
            validates=self._validates,
            bar=False if config.enable_progress_bar is False else None,
        )
        if self.diary:
            trace = HookTrace(self.diary.events, self.diary.times)
            callbacks = [trace, *callbacks, *([Recorder(self.record)] if self.record else [])]
        kwargs["enable_progress_bar"] = False  # one of our callbacks is that
        self.trainer_defaults["callbacks"] = callbacks
        kwargs["plugins"] = [*(config.plugins or []), WholeCheckpointIO()]
        return super().instantiate_trainer(logger=logger, **kwargs)

    def fit(self, model: Task, datamodule: ImageDataModule, **_: Any) -> None:
        """Train, then read test once with the best weights, and write the results."""
        try:
            self._fit(model, datamodule)
        except FileNotFoundError as error:
            if self.short or self.run.is_dir():
                raise
            raise UserError(f"the run folder {self.run} is gone; start again") from error
        finally:
            if self.lock:
                self.lock.release()

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
        # Several processes would stop after different steps and wait for each other for ever.
        several = int(os.environ.get("WORLD_SIZE", 1)) > 1
        # Whatever ends the run, TensorBoard's file is whole and its thread has ended.
        with self.writer or nullcontext():
            with (
                nullcontext() if several or self.short else self.signals,
                timing,
                going_on(self.checkpoint),
            ):
                if loop == "homemade":
                    self._fit_homemade()
                else:
                    self.trainer.fit(
                        model, datamodule=datamodule, ckpt_path=self.checkpoint, weights_only=True
                    )
            if self.signals.received:
                path = self.run / "checkpoints" / "last.ckpt"
                raise Stopped(self.signals.received, "after the last epoch", path)
            if distributed.is_initialized():
                distributed.destroy_process_group()
            if self.writer is not None:
                if self.diary:
                    write_diary(self.run, self.diary, self.record)
                results.conclude(
                    self.run,
                    self._get(self.config, "experiment"),
                    loop,
                    model,
                    datamodule,
                    self.rows,
                    self.writer,
                )

    def _fit_homemade(self) -> None:
        """Train by the Learner that `build_learner` makes of the Trainer's flags."""
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            distributed.init_process_group()
            reset_seed()  # as Lightning's ddp does: every process draws the same from here on
        extra: list[LearnerCallback] = [FiniteLossCB(Batches.rows_of)] if self.short else []
        if not self.short:
            extra, self.rows = learner_callbacks(
                self.run,
                self.model,
                self.datamodule,
                self.writer,
                self._settings(),
                self.signals,
                self.flags,
                checkpoint=read_checkpoint(self.checkpoint) if self.checkpoint else None,
                validates=self._validates,
            )
            if self.diary:
                extra.append(TraceCB(self.diary.events, self.diary.times))
            if self.record:
                extra.append(RecorderCB(self.record))
        learn = build_learner(self.model, self.datamodule, self.flags, extra)
        learn.fit(learn.n_epochs, valid=False)

    @property
    def _validates(self) -> bool:
        """Whether there is anything to tell the best epoch by."""
        limit = self._get(self.config, "trainer").limit_val_batches
        return bool(self.datamodule.sizes["val"]) and limit != 0

    def _settings(self) -> dict[str, Any]:
        """Every setting of the run, in plain types."""
        settings: dict[str, Any] = json.loads(
            self._parser("fit").dump(self.config["fit"], format="json")
        )
        return settings

    def validate(self, model: Task, datamodule: ImageDataModule, **_: Any) -> None:
        """Print the metrics of val."""
        self._evaluate("val")

    def test(self, model: Task, datamodule: ImageDataModule, **_: Any) -> None:
        """Print the metrics of test."""
        self._evaluate("test")

    def _evaluate(self, stage: str) -> None:
        print(f"checkpoint: {self.checkpoint}")
        self.model.to(self.trainer.strategy.root_device)
        for name, value in evaluate(self.model, self.datamodule, stage).items():
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
