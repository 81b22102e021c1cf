"""The settings of the proof of parity: the values of every axis, as an experiment file has them.

A value is the settings that it adds to `EXPERIMENT`: dotted keys of an experiment file. Callbacks
of several values are concatenated.
"""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from torch import Tensor
from torch.optim import SGD

Settings = dict[str, Any]
"""Dotted keys of an experiment file, and their values."""
Expected = Literal["same", "refused", "same or refused", "homemade refuses", "not in one process"]
"""The expected result of a setting.

'same': both loops give the same bits. 'refused': neither trains, and both print the same error.
'homemade refuses': Lightning trains, the homemade loop names what it has no counterpart for.
'not in one process': the same, where Lightning would wait for other processes.
"""


class With(NamedTuple):
    """A value of an option, and further settings that it needs."""

    value: Any
    context: Settings


RUN = "RUN"
"""Placeholder for the folder of a run, in settings and in output."""
EXPERIMENT: Settings = {
    "experiment": "parity",
    "seed_everything": 1,
    "record": "all",
    "trainer.default_root_dir": RUN,
    "trainer.accelerator": "cpu",
    "trainer.max_epochs": 3,
    "trainer.log_every_n_steps": 4,
    "trainer.enable_progress_bar": False,
    # Six batches of train, the last one shorter, and two of val.
    "data.source": "digits",
    "data.batch_size": 200,
    "data.val_size": 0.25,
}


def several_groups(parameters: Iterable[Tensor]) -> SGD:
    """An optimiser whose first parameter has its own learning rate and momentum."""
    first, *rest = parameters
    groups: list[dict[str, Any]] = [{"params": [first], "lr": 0.01, "momentum": 0.5}]
    return SGD([*groups, {"params": rest}], lr=0.05)


def _class(path: str, **init_args: Any) -> dict[str, Any]:
    return {"class_path": path, "init_args": init_args}


def _model(task: str, network: str, init_args: Settings | None = None, **more: Any) -> Settings:
    made = _class(f"twinloop.models.{network}", **(init_args or {}))
    return {"model": _class(f"twinloop.tasks.{task}", network=made, **more)}


def _optimizer(name: str, **init_args: Any) -> Settings:
    return {"model.init_args.optimizer": _class(f"torch.optim.{name}", **init_args)}


def grouped(**group: Any) -> Settings:
    """AdamW, and a group of parameters that is different."""
    adam = _class("torch.optim.AdamW", lr=0.01)
    made = _class("twinloop.tasks.Grouped", optimizer=adam, groups=[group])
    return {"model.init_args.optimizer": made}


def _schedule(name: str, **init_args: Any) -> Settings:
    return {"model.init_args.schedule": _class(f"twinloop.tasks.{name}", **init_args)}


def scheduler(name: str, **init_args: Any) -> Settings:
    """One of torch's schedulers as a class."""
    return _class(f"torch.optim.lr_scheduler.{name}", **init_args)


def nested(settings: Settings) -> Settings:
    """Dotted keys as nested mappings."""
    found: Settings = {}
    for key, value in settings.items():
        *parents, name = key.split(".")
        part = found
        for parent in parents:
            part = part.setdefault(parent, {})
        part[name] = value
    return found


def trainer(**flags: Any) -> Settings:
    """Flags of the Trainer as settings."""
    return {f"trainer.{name}": value for name, value in flags.items()}


def callback(name: str, **init_args: Any) -> Settings:
    """One of Lightning's callbacks as settings."""
    return {"trainer.callbacks": [_class(f"lightning.pytorch.callbacks.{name}", **init_args)]}


def _stop(monitor: str = "val/loss", **init_args: Any) -> Settings:
    return callback("EarlyStopping", **{"patience": 1, "monitor": monitor} | init_args)


def _average(**init_args: Any) -> Settings:
    return callback("EMAWeightAveraging", **{"decay": 0.9} | init_args)


_BOTTLENECK: Settings = {"code_size": 8, "widths": [4, 8]}
_NORMED: Settings = {"widths": [4, 8], "dropout": 0.5}
_SEQUENCE = _class(
    "twinloop.tasks.SequentialLR",
    schedulers=[scheduler("LinearLR", total_iters=3), scheduler("CosineAnnealingLR", T_max=6)],
    milestones=[3],
)
_RISE = scheduler("ReduceLROnPlateau", mode="max", patience=0)
HALF = "16-true by SGD"
"""So few bits that large values overflow and small ones underflow."""

AXES: dict[str, dict[str, Settings]] = {
    "model": {
        "MLP": _model("Classification", "MLP", {"hidden": 20}),
        "lesson CNN": _model("Classification", "LessonClassifier"),
        "batch norm, dropout, label smoothing": _model(
            "Classification", "SequentialClassifier", _NORMED, label_smoothing=0.1
        ),
        "the same, tta_flip": _model(
            "Classification", "SequentialClassifier", _NORMED, tta_flip=True
        ),
        "lesson autoencoder": _model("Reconstruction", "LessonAutoencoder"),
        "bottleneck autoencoder": _model("Reconstruction", "BottleneckAutoencoder", _BOTTLENECK),
        "the same with noise": _model(
            "Reconstruction", "BottleneckAutoencoder", _BOTTLENECK, noise=0.2
        ),
    },
    "optimiser": {
        "AdamW": _optimizer("AdamW", lr=0.01),
        "SGD": _optimizer("SGD", lr=0.05),
        "SGD, momentum": _optimizer("SGD", lr=0.05, momentum=0.9),
        "RMSprop": _optimizer("RMSprop", lr=0.003),
        "Adam, AMSGrad": _optimizer("Adam", lr=0.01, amsgrad=True, weight_decay=0.1),
        "several groups": {"model.init_args.optimizer": f"{__name__}.several_groups"},
        "no decay on norms and biases": grouped(ndim=1, weight_decay=0.0),
        "a rate by name": grouped(names="weight$", lr=0.003),
        "Muon, AdamW for the rest": grouped(ndim=2, optimizer=_class("torch.optim.Muon", lr=0.02)),
    },
    "schedule": {
        "none": {},
        "OneCycle, by step": _schedule("OneCycle", warmup=0.3),
        "cosine, by epoch": _schedule("Cosine"),
        "plateau on val/loss": _schedule("Plateau", patience=0, factor=0.5),
        "OneCycle of Adagrad": _schedule("OneCycle", cycle_momentum=False)
        | _optimizer("Adagrad", lr=0.05),
        "StepLR": {"model.init_args.schedule": scheduler("StepLR", step_size=1)},
        "LinearLR then CosineAnnealingLR, every 2 steps": _schedule(
            "TorchSchedule", scheduler=_SEQUENCE, interval="step", frequency=2
        ),
        "ReduceLROnPlateau on train/loss, every 2 epochs": _schedule(
            "TorchSchedule", scheduler=_RISE, monitor="train/loss", frequency=2
        ),
    },
    "precision": {
        **{name: trainer(precision=name) for name in ("32-true", "64-true")},
        **{name: trainer(precision=name) for name in ("bf16-mixed", "bf16-true")},
        # AdamW's epsilon is 0 in float16.
        HALF: trainer(precision="16-true") | _optimizer("SGD", lr=0.05),
    },
    "accumulation": {
        # Neither 4 nor, where an epoch is shorter, the others divide an epoch.
        str(count): trainer(accumulate_grad_batches=count)
        for count in (1, 2, 3, 4)
    },
    "clipping": {
        "none": {},
        "by norm": trainer(gradient_clip_val=0.5),
        "by value": trainer(gradient_clip_val=0.01, gradient_clip_algorithm="value"),
    },
    "data": {
        "unchanged": {},
        "shifted, flipped": {"data.augmentation": {"shift": 1, "flip": True}},
        "erased": {"data.augmentation": {"erase": 3}},
        "last batch full": {"data.batch_size": 154},
        "one batch": {"data.batch_size": 2000},
        "resized": {"data.image_size": [12, 10]},
    },
    "loop": {
        "3 epochs": {},
        "limit batches": trainer(max_epochs=2, limit_train_batches=4, limit_val_batches=1),
        "limit by share": trainer(max_epochs=2, limit_train_batches=0.7, limit_val_batches=0.5),
        "val every 2 epochs": trainer(check_val_every_n_epoch=2),
        "val inside an epoch": trainer(max_epochs=2, val_check_interval=4),
        "val inside, by share": trainer(max_epochs=2, val_check_interval=0.4),
        "val inside every 2 epochs": trainer(val_check_interval=0.5, check_val_every_n_epoch=2),
        "val across epochs": trainer(val_check_interval=4, check_val_every_n_epoch=None),
        "val less than once an epoch": trainer(val_check_interval=8, check_val_every_n_epoch=None),
        "max_steps inside the first epoch": trainer(max_epochs=-1, max_steps=2),
        "max_steps inside an epoch": trainer(max_epochs=-1, max_steps=8),
        "max_steps at an epoch's end": trainer(max_epochs=-1, max_steps=12),
        "max_steps beyond the epochs": trainer(max_epochs=2, max_steps=100),
        "overfit one batch": trainer(overfit_batches=1),
        "overfit a share": trainer(overfit_batches=0.5),
        "fast_dev_run": trainer(fast_dev_run=True),
        "fast_dev_run of 2": trainer(fast_dev_run=2),
        "no batch of val": trainer(max_epochs=2, limit_val_batches=0),
        "empty val": {"trainer.max_epochs": 2, "data.val_size": 0},
        "detect_anomaly": trainer(max_epochs=2, detect_anomaly=True),
        "deterministic": trainer(max_epochs=2, deterministic=True),
        "deterministic, warn": trainer(max_epochs=2, deterministic="warn"),
    },
    "averaging": {
        "none": {},
        "EMA of weights": _average(),
        "device": _average(device="cpu"),
        "use_buffers": _average(use_buffers=False),
        "update_every_n_steps": _average(update_every_n_steps=3),
        "update_starting_at_step": _average(update_starting_at_step=4),
        "update_starting_at_epoch": _average(update_starting_at_epoch=1),
        "from a step by epochs": _average(
            update_every_n_steps=0, update_starting_at_step=4, update_starting_at_epoch=1
        ),
    },
    "early stopping": {
        "none": {},
        "patience 1": _stop(min_delta=0.1),
        "patience 0": _stop(patience=0),
        "min_delta": _stop(min_delta=5.0),
        "mode max": _stop(mode="max"),
        "of val in every pass": _stop(mode="max", check_on_train_epoch_end=False),
        "of val at an epoch's end": _stop(mode="max", check_on_train_epoch_end=True),
        "of train": _stop("train/loss", min_delta=0.2),
        "of train at an epoch's end": _stop(
            "train/loss", mode="max", check_on_train_epoch_end=True
        ),
        "stopping_threshold": _stop(stopping_threshold=2.0),
        "divergence_threshold": _stop(divergence_threshold=0.05),
        "no strict": _stop("val/none", strict=False),
        "no check_finite": _stop(check_finite=False),
    },
}
