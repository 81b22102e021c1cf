"""Every option that is not a value of an axis, and its expected result in the two loops."""

from typing import Any

from twinloop.comparison.matrix import (
    Expected,
    Settings,
    With,
    callback,
    grouped,
    scheduler,
    trainer,
)

OPTIMIZER, SCHEDULE = "model.init_args.optimizer", "model.init_args.schedule"


def _torch_schedule(name: str, more: Settings, **init_args: Any) -> Settings:
    given = {"scheduler": scheduler(name, **init_args)} | more
    return {SCHEDULE: {"class_path": "twinloop.tasks.TorchSchedule", "init_args": given}}


LOGGERS = "lightning.pytorch.loggers"
CSV = {"class_path": f"{LOGGERS}.CSVLogger", "init_args": {"save_dir": "."}}
OPTIONS: dict[str, dict[Expected, list[Any]]] = {
    "trainer.accelerator": {"same": ["auto"], "refused": ["tpu", "nothing"]},
    "trainer.strategy": {
        "same": ["ddp"],
        "refused": ["fsdp", "nothing"],
        "homemade refuses": ["single_device"],
    },
    "trainer.devices": {"same": [1, "1"], "refused": [0], "not in one process": [2]},
    "trainer.num_nodes": {"not in one process": [2]},
    "trainer.precision": {
        "same": ["32", 64, "bf16", "auto"],
        "refused": ["16-mixed", "nothing", "transformer-engine"],
    },
    "trainer.logger": {
        "same": [
            False,
            [],
            True,
            CSV,
            [CSV, {**CSV, "class_path": f"{LOGGERS}.TensorBoardLogger"}],
        ],
        "refused": ["nothing"],
    },
    "trainer.default_root_dir": {"refused": ["memory://runs"]},
    "trainer.max_epochs": {"same": [1], "refused": [0, -2]},
    "trainer.min_epochs": {"homemade refuses": [2]},
    "trainer.max_steps": {"refused": [0, -2]},
    "trainer.min_steps": {"homemade refuses": [5]},
    "trainer.max_time": {"homemade refuses": ["00:00:01:00"]},
    "trainer.limit_train_batches": {"same": [100, 1.0, 3.0], "refused": [0, 0.0, 0.001, 1.5, -1]},
    "trainer.limit_val_batches": {"same": [100, 0.0, 1.0], "refused": [1.5, -1, 0.001]},
    "trainer.limit_test_batches": {"same": [1, 0.5], "refused": [1.5, -1]},
    "trainer.limit_predict_batches": {"homemade refuses": [1]},
    "trainer.overfit_batches": {"same": [2], "refused": [2.0, 1.5, -1]},
    "trainer.fast_dev_run": {"refused": [-1], "same": [With(2, {"trainer.val_check_interval": 4})]},
    "trainer.val_check_interval": {
        "same": [1, 6, 3.0, 1.0, 0.01],
        "refused": [1000, 1.5, 0, -1, With(0.5, {"trainer.check_val_every_n_epoch": None})],
        "homemade refuses": ["00:00:00:05"],
    },
    "trainer.check_val_every_n_epoch": {"same": [3, None], "refused": [0, -1]},
    "trainer.num_sanity_val_steps": {"homemade refuses": [2, -1]},
    "trainer.log_every_n_steps": {"same": [1, 10, 0], "refused": [-1]},
    "trainer.enable_checkpointing": {"same": [True], "refused": [False]},
    "trainer.enable_progress_bar": {"same": [True]},
    "trainer.enable_model_summary": {"homemade refuses": [True]},
    "trainer.accumulate_grad_batches": {"same": [100], "refused": [0, -1]},
    "trainer.gradient_clip_val": {"same": [0, 0.0, 1], "refused": [-1.0]},
    "trainer.gradient_clip_algorithm": {
        "same": ["norm", "value", With("norm", {"trainer.gradient_clip_val": 0.1})],
        "refused": ["nothing"],
    },
    "trainer.deterministic": {"same": [False]},
    "trainer.benchmark": {"homemade refuses": [True, False]},
    "trainer.inference_mode": {"same": [False]},
    "trainer.use_distributed_sampler": {"homemade refuses": [False]},
    "trainer.profiler": {"homemade refuses": ["simple"]},
    "trainer.barebones": {"refused": [True]},
    "trainer.plugins": {"homemade refuses": [[]]},
    "trainer.sync_batchnorm": {"homemade refuses": [True]},
    "trainer.reload_dataloaders_every_n_epochs": {"homemade refuses": [1]},
    "trainer.enable_autolog_hparams": {"homemade refuses": [False]},
    "trainer.model_registry": {"homemade refuses": ["name"]},
    "data.batch_size": {"same": [1078, 97], "refused": [0, -1]},
    "data.val_size": {"same": [1, 0.5], "refused": [-1, 5000]},
    "data.seed": {"refused": [3]},  # set by seed_everything
    "data.split_seed": {"same": [3], "refused": [-1]},
    "data.name": {"same": ["default"]},
    "data.channels": {"same": [3], "refused": [2]},
    "data.background": {"same": ["black"], "refused": ["no colour"]},
    "data.skip_unreadable": {"same": [True]},
    "data.image_column": {"same": ["image"], "refused": ["nothing"]},
    "data.label_column": {"same": ["label"], "refused": ["nothing"]},
    "data.target": {"same": ["class"], "refused": ["numbers", "nothing"]},
    "data.revision": {"same": ["main"]},
    "data.cache_dir": {"same": ["RUN-cache"]},
    "data.images": {"same": ["RUN"]},
    "seed_everything": {"same": [2, True, False], "refused": [-1]},
    "seeds": {"same": [1], "refused": [0]},
    "record": {"same": ["no", "times"]},
    "tags": {"same": [["a tag"]]},
    "notes": {"same": ["a note"]},
    # Lightning prints more about a stop; the training is the same.
    "trainer.callbacks": {
        "homemade refuses": [
            callback("EarlyStopping", monitor="val/loss", **{name: True})["trainer.callbacks"]
            for name in ("verbose", "log_rank_zero_only")
        ],
    },
    OPTIMIZER: {"homemade refuses": [{"class_path": "torch.optim.LBFGS"}]},
    "weights": {"refused": ["nothing.ckpt"]},
    "ckpt_path": {"refused": ["last", "nothing.ckpt"]},
}
"""The values of each key by expected result; the axes have further values of some keys."""

IMPOSSIBLE: dict[str, Settings] = {
    "a group without parameters": grouped(names="nothing"),
    "a group whose optimiser has no weight_decay": grouped(
        weight_decay=0.1, optimizer={"class_path": "torch.optim.Rprop"}
    ),
    "ReduceLROnPlateau without a metric": {SCHEDULE: scheduler("ReduceLROnPlateau")},
    "ReduceLROnPlateau on an unknown metric": _torch_schedule(
        "ReduceLROnPlateau", {"monitor": "val/nothing"}
    ),
    "ReduceLROnPlateau every 2 epochs, with val every 3": trainer(check_val_every_n_epoch=3)
    | _torch_schedule("ReduceLROnPlateau", {"monitor": "val/loss", "frequency": 2}),
    "ReduceLROnPlateau by step": _torch_schedule(
        "ReduceLROnPlateau", {"monitor": "val/loss", "interval": "step"}
    ),
    "StepLR on a metric": _torch_schedule("StepLR", {"monitor": "val/loss"}, step_size=1),
    "StepLR every 0 epochs": _torch_schedule("StepLR", {"frequency": 0}, step_size=1),
    "OneCycleLR that ends before the run": _torch_schedule(
        "OneCycleLR", {"interval": "step"}, max_lr=0.1, total_steps=17
    ),
    "plateau without val": {
        "model.init_args.schedule": {"class_path": "twinloop.tasks.Plateau"},
        "trainer.limit_val_batches": 0,
    },
    "plateau with val every 2 epochs": {
        "model.init_args.schedule": {"class_path": "twinloop.tasks.Plateau"},
        "trainer.check_val_every_n_epoch": 2,
    },
    "OneCycle without an end": {
        "model.init_args.schedule": {"class_path": "twinloop.tasks.OneCycle"},
        "trainer.max_epochs": -1,
    },
    "cosine in steps": {
        "model.init_args.schedule": {"class_path": "twinloop.tasks.Cosine"},
        **trainer(max_epochs=-1, max_steps=8),
    },
    "early stopping on an unknown metric": callback("EarlyStopping", monitor="val/nothing"),
    "early stopping on a metric of test": callback("EarlyStopping", monitor="test/loss"),
    "early stopping without val": trainer(limit_val_batches=0)
    | callback("EarlyStopping", monitor="val/loss"),
    "early stopping in an invalid mode": callback("EarlyStopping", monitor="val/loss", mode="best"),
    "stochastic weight averaging": callback("StochasticWeightAveraging", swa_lrs=0.1, device="cpu"),
    "weight averaging with an unknown option": callback(
        "EMAWeightAveraging", decay=0.9, nothing=True
    ),
    "two averages": {
        "trainer.callbacks": 2 * callback("EMAWeightAveraging", decay=0.9)["trainer.callbacks"]
    },
    "two equal early stoppings": {
        "trainer.callbacks": 2 * callback("EarlyStopping", monitor="val/loss")["trainer.callbacks"]
    },
}
"""Combinations that are refused by both loops."""

UNTRANSLATED: dict[str, dict[str, Any]] = {
    "BackboneFinetuning": {},
    "BatchSizeFinder": {},
    "DeviceStatsMonitor": {},
    "GradientAccumulationScheduler": {"scheduling": {0: 2}},
    "LambdaCallback": {"on_fit_end": "builtins.print"},
    "LearningRateFinder": {},
    "LearningRateMonitor": {"logging_interval": "step"},
    "ModelCheckpoint": {},
    "ModelPruning": {"pruning_fn": "l1_unstructured"},
    "ModelSummary": {},
    "OnExceptionCheckpoint": {"dirpath": "RUN"},
    "RichModelSummary": {},
    "RichProgressBar": {},
    "SpikeDetection": {},
    "ThroughputMonitor": {"batch_size_fn": "builtins.len"},
    "Timer": {"interval": "step"},
    "TQDMProgressBar": {},
    "WeightAveraging": {},
}
"""Lightning's callbacks without a homemade counterpart, and their required arguments."""
REFUSED = ("StochasticWeightAveraging",)
"""Callbacks that both loops refuse: see `IMPOSSIBLE`."""
BASES = ("BaseFinetuning", "BasePredictionWriter", "Callback", "Checkpoint", "ProgressBar")
"""Base classes among Lightning's callbacks."""
