"""Every option that is not a value of an axis, and its expected result in the two loops."""

from typing import Any

from twinloop.comparison.matrix import Option, Settings, callback, trainer

OPTIONS: dict[str, list[Option]] = {
    "trainer.accelerator": [Option("auto"), Option("tpu", "refused"), Option("nothing", "refused")],
    "trainer.strategy": [
        *(Option("ddp"), Option("fsdp", "refused"), Option("nothing", "refused")),
        Option("single_device", "homemade refuses"),
    ],
    "trainer.devices": [
        *(Option(1), Option("1"), Option(0, "refused")),
        Option(2, "not in one process"),
    ],
    "trainer.num_nodes": [Option(2, "not in one process")],
    "trainer.precision": [
        *(Option("32"), Option(64), Option("bf16")),
        *(Option("16-mixed", "refused"), Option("nothing", "refused")),
        Option("transformer-engine", "refused"),
    ],
    "trainer.logger": [Option(False, "refused"), Option([], "refused")],
    "trainer.max_epochs": [Option(1), Option(0, "refused"), Option(-2, "refused")],
    "trainer.min_epochs": [Option(2, "homemade refuses")],
    "trainer.max_steps": [Option(0, "refused"), Option(-2, "refused")],
    "trainer.min_steps": [Option(5, "homemade refuses")],
    "trainer.max_time": [Option("00:00:01:00", "homemade refuses")],
    "trainer.limit_train_batches": [
        *(Option(100), Option(1.0), Option(0, "refused"), Option(0.0, "refused")),
        *(Option(0.001, "refused"), Option(1.5, "refused"), Option(-1, "refused")),
    ],
    "trainer.limit_val_batches": [
        *(Option(100), Option(0.0), Option(1.5, "refused"), Option(-1, "refused")),
        Option(0.001, "refused"),
    ],
    "trainer.limit_test_batches": [
        *(Option(1), Option(0.5), Option(1.5, "refused"), Option(-1, "refused"))
    ],
    "trainer.limit_predict_batches": [Option(1, "homemade refuses")],
    "trainer.overfit_batches": [Option(2), Option(1.5, "refused"), Option(-1, "refused")],
    "trainer.fast_dev_run": [
        *(Option(-1, "refused"), Option(2, "same", (("trainer.val_check_interval", 4),)))
    ],
    "trainer.val_check_interval": [
        *(Option(1), Option(6), Option(1.0), Option(0.01)),
        *(Option(1000, "refused"), Option(1.5, "refused")),
        *(Option(0, "refused"), Option(-1, "refused")),
        Option("00:00:00:05", "homemade refuses"),
        Option(0.5, "refused", (("trainer.check_val_every_n_epoch", None),)),
    ],
    "trainer.check_val_every_n_epoch": [
        *(Option(3), Option(None), Option(0, "refused"), Option(-1, "refused"))
    ],
    "trainer.num_sanity_val_steps": [Option(2, "homemade refuses"), Option(-1, "homemade refuses")],
    "trainer.log_every_n_steps": [Option(1), Option(10), Option(0), Option(-1, "refused")],
    "trainer.enable_checkpointing": [Option(True), Option(False, "refused")],
    "trainer.enable_progress_bar": [Option(True)],
    "trainer.enable_model_summary": [Option(True, "homemade refuses")],
    "trainer.accumulate_grad_batches": [Option(100), Option(0, "refused"), Option(-1, "refused")],
    "trainer.gradient_clip_val": [Option(0), Option(0.0), Option(1), Option(-1.0, "refused")],
    "trainer.gradient_clip_algorithm": [
        *(Option("norm"), Option("value")),
        Option("norm", context=(("trainer.gradient_clip_val", 0.1),)),
        Option("nothing", "refused"),
    ],
    "trainer.deterministic": [Option(False)],
    "trainer.benchmark": [Option(True, "homemade refuses"), Option(False, "homemade refuses")],
    "trainer.inference_mode": [Option(False)],
    "trainer.use_distributed_sampler": [Option(False, "homemade refuses")],
    "trainer.profiler": [Option("simple", "homemade refuses")],
    "trainer.barebones": [Option(True, "refused")],
    "trainer.plugins": [Option([], "homemade refuses")],
    "trainer.sync_batchnorm": [Option(True, "homemade refuses")],
    "trainer.reload_dataloaders_every_n_epochs": [Option(1, "homemade refuses")],
    "trainer.enable_autolog_hparams": [Option(False, "homemade refuses")],
    "trainer.model_registry": [Option("name", "homemade refuses")],
    "data.batch_size": [Option(1078), Option(97), Option(0, "refused"), Option(-1, "refused")],
    "data.val_size": [Option(1), Option(0.5), Option(-1, "refused"), Option(5000, "refused")],
    "data.seed": [Option(3, "refused")],  # set by seed_everything
    "data.image_column": [Option("image"), Option("nothing", "refused")],
    "data.label_column": [Option("label"), Option("nothing", "refused")],
    "data.revision": [Option("main")],
    "data.cache_dir": [Option("RUN-cache")],
    "data.images": [Option("RUN")],
    "seed_everything": [Option(2), Option(True), Option(False), Option(-1, "refused")],
    "record": [Option("no"), Option("times")],
    # Lightning prints more about a stop; the training is the same.
    "trainer.callbacks": [
        Option(
            callback("EarlyStopping", monitor="val/loss", **{name: True})["trainer.callbacks"],
            "homemade refuses",
        )
        for name in ("verbose", "log_rank_zero_only")
    ],
    "weights": [Option("nothing.ckpt", "refused")],
    "ckpt_path": [Option("last", "refused"), Option("nothing.ckpt", "refused")],
}
"""By key of an experiment file; the axes have further values of some keys."""

IMPOSSIBLE: dict[str, Settings] = {
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
    "a learning-rate finder": callback("LearningRateFinder"),
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
    "LambdaCallback": {},
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
REFUSED = ("LearningRateFinder", "StochasticWeightAveraging")
"""Callbacks that both loops refuse: see `IMPOSSIBLE`."""
BASES = ("BaseFinetuning", "BasePredictionWriter", "Callback", "Checkpoint", "ProgressBar")
"""Base classes among Lightning's callbacks."""
