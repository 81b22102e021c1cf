"""Settings that the command line takes and few would choose: nothing to train, validate or save."""

import json
from typing import Any

import yaml
from hypothesis import strategies as st

from tests.fuzzing.experiments import AVERAGING, EXPERIMENT, RECONSTRUCTION, STOPPING
from tests.fuzzing.sandbox import KEY, Case, Draw, Sandbox

SCHEDULES = (
    None,
    {"class_path": "twinloop.tasks.Cosine"},
    {"class_path": "twinloop.tasks.Plateau", "init_args": {"patience": 0, "factor": 0.5}},
    {"class_path": "twinloop.tasks.OneCycle", "init_args": {"warmup": 0.99}},
    {"class_path": "twinloop.tasks.OneCycle", "init_args": {"warmup": 0}},
)


def stopping(**settings: Any) -> dict[str, Any]:
    """Early stopping, of val/loss if nothing else is said."""
    return {"class_path": STOPPING, "init_args": {"monitor": "val/loss"} | settings}


CALLBACKS: tuple[list[dict[str, Any]], ...] = (
    [],
    [AVERAGING],
    [stopping(monitor="val/acuracy")],
    [stopping(monitor="train/loss")],
    [stopping(mode="max", patience=0)],
    [stopping(patience=0, strict=False)],
    [stopping(monitor="val/acuracy", strict=False)],
    [stopping(check_on_train_epoch_end=True), AVERAGING],
    [AVERAGING | {"init_args": {"decay": 0.0}}],
    [AVERAGING | {"init_args": {"decay": 1.0}}],
    [AVERAGING | {"init_args": {"decay": 2.0}}],
)
TRAINER: dict[str, tuple[Any, ...]] = {
    "max_epochs": (0, 1, 2),
    "max_steps": (0, 1, 3, 4, 10**30),
    "limit_train_batches": (0, 0.0, 1, 1.0, 1e-9, 0.5, 10**9, None),
    "limit_val_batches": (0, 0.0, 1, 1.0, 1e-9, 0.5, None),
    "limit_test_batches": (0, 1, 0.5),
    "overfit_batches": (0, 0.0, 1, 0.01, 1.0, 10**9),
    "val_check_interval": (1, 2, 3, 0.5, 1.0, 0.01, 10**9, None),
    "check_val_every_n_epoch": (1, 2, 10**9, None),
    "accumulate_grad_batches": (1, 2, 3, 10**9),
    "gradient_clip_val": (None, 0, 1e-30, 1.0, 1e30),
    "gradient_clip_algorithm": (None, "norm", "value"),
    "log_every_n_steps": (0, 1, 10**9),
    "precision": ("32-true", "bf16-mixed", "bf16-true", "64-true", "16-true", "16-mixed"),
    "num_sanity_val_steps": (0, 1, -1),
    "deterministic": (True, "warn"),
    "detect_anomaly": (True,),
    "enable_progress_bar": (False, True),
    "enable_checkpointing": (False, True),
    "logger": (False, True),
    "inference_mode": (False,),
    "use_distributed_sampler": (False,),
    "callbacks": CALLBACKS,
}
DATA: dict[str, tuple[Any, ...]] = {
    "batch_size": (1, 2, 3, 7, 10**6),
    "val_size": (0, 0.0, 0.01, 0.5, 0.99, 1, 2, 20, 10**9),
    "image_size": ([1, 1], [1, 9], [7, 5], [33, 2]),
    "seed": (0, -1, 2**31, 2**64),
}
NETWORKS = (
    {"class_path": "twinloop.models.LessonClassifier"},
    {"class_path": "twinloop.models.MLP", "init_args": {"hidden": 1}},
    {"class_path": "twinloop.models.LessonAutoencoder"},
    {
        "class_path": "twinloop.models.BottleneckAutoencoder",
        "init_args": {"code_size": 1, "widths": [1]},
    },
    {
        "class_path": "twinloop.models.BottleneckAutoencoder",
        "init_args": {"code_size": 300, "widths": [2, 2, 2, 2, 2]},
    },
)
MODEL: dict[str, tuple[Any, ...]] = {
    "network": NETWORKS,
    "schedule": SCHEDULES,
    "noise": (0, 1e30, 1e-40),
    "label_smoothing": (0, 1.0, 2.0, -1.0),
    "tta_flip": (True,),
}
RATES = (0, 1e-40, 1e30, -1.0, float("inf"), float("nan"))
TABLE = [
    *((("trainer", name), values) for name, values in TRAINER.items()),
    *((("data", name), values) for name, values in DATA.items()),
    *((("model", "init_args", name), values) for name, values in MODEL.items()),
    (("model", "init_args", "optimizer", "init_args", "lr"), RATES),
    (("seed_everything",), (0, 2**32 - 1, 2**32, -1, True, False)),
]
"""Where a setting is, and which values of it are tried."""


def experiment_settings(draw: Draw, sandbox: Sandbox) -> Case:
    """One to three settings at the edge of what there is."""
    content = json.loads(json.dumps(draw(st.sampled_from([EXPERIMENT, RECONSTRUCTION]))))
    for way, values in draw(st.lists(st.sampled_from(TABLE), min_size=1, max_size=3)):
        place = content
        for step in way[:-1]:
            place = place[step]
        place[way[-1]] = draw(st.sampled_from(values))
    path = sandbox.new("experiment.yaml")
    path.write_text(yaml.safe_dump(content))
    loop = draw(st.sampled_from(["lightning", "homemade"]))
    return Case(["fit", "--config", str(path), "--loop", loop], path, or_key=KEY)
