"""Experiment files that are wrong in their values, their text, their bytes or their size."""

import json
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from tests.fuzzing.damage import mutated
from tests.fuzzing.sandbox import KEY, NAMES, Case, Draw, Sandbox

FEW = {"max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 2}
STOPPING = "lightning.pytorch.callbacks.EarlyStopping"
AVERAGING = {
    "class_path": "lightning.pytorch.callbacks.EMAWeightAveraging",
    "init_args": {"decay": 0.9},
}
EXPERIMENT: dict[str, Any] = {
    "experiment": "fuzz",
    "seed_everything": 42,
    "trainer": {**FEW, "precision": "32-true", "callbacks": None},
    "data": {"source": "tiny", "batch_size": 8, "augmentation": {"shift": 1, "flip": True}},
    "model": {
        "class_path": "twinloop.tasks.Classification",
        "init_args": {
            "network": {
                "class_path": "twinloop.models.SequentialClassifier",
                "init_args": {"widths": [4, 8, 8], "dropout": 0.1},
            },
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}},
            "schedule": {"class_path": "twinloop.tasks.OneCycle"},
        },
    },
}
RECONSTRUCTION: dict[str, Any] = EXPERIMENT | {
    "trainer": {
        **FEW,
        "callbacks": [{"class_path": STOPPING, "init_args": {"monitor": "val/loss"}}, AVERAGING],
    },
    "model": {
        "class_path": "twinloop.tasks.Reconstruction",
        "init_args": {
            "network": {
                "class_path": "twinloop.models.BottleneckAutoencoder",
                "init_args": {"code_size": 4, "widths": [4, 8]},
            },
            "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.01}},
            "schedule": {"class_path": "twinloop.tasks.Plateau"},
            "noise": 0.3,
        },
    },
}
LEAVES = st.one_of(
    st.sampled_from(
        [
            *(None, True, False, -1, 0, 1, 3, 2.5, -0.5, 10**30, 1e308, float("nan"), float("inf")),
            *("", "x", "~nobody/x", "/", ".", "a/b", "\0", "x" * 5000, *NAMES),
            *("os.system", "builtins.exec", "torch.optim.AdamW", "twinloop.models.MLP", "no.where"),
        ]
    ),
    st.text(max_size=8),
    st.integers(-3, 3),
    st.floats(),
    st.dates(),
    st.binary(max_size=8),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text(max_size=8), inner, max_size=3),
        st.fixed_dictionaries({"class_path": LEAVES}, optional={"init_args": inner}),
    ),
    max_leaves=6,
)
FLAGS = (
    *("limit_train_batches", "gradient_clip_val", "accumulate_grad_batches"),
    *("val_check_interval", "check_val_every_n_epoch", "max_steps", "overfit_batches"),
)


def fit(path: Path, draw: Draw) -> list[str]:
    """Train by either loop; batches are as few as the file says, and epochs as few as can be."""
    loop = draw(st.sampled_from(["lightning", "homemade"]))
    return ["fit", "--config", str(path), "--trainer.max_epochs", "1", "--loop", loop]


def experiment_values(draw: Draw, sandbox: Sandbox) -> Case:
    """Keys, values, types and nesting changed."""
    content = json.loads(json.dumps(draw(st.sampled_from([EXPERIMENT, RECONSTRUCTION]))))
    content["trainer"][draw(st.sampled_from(FLAGS))] = draw(LEAVES)
    for _ in range(draw(st.integers(1, 2))):
        content = mutated(content, draw, VALUES)
    path = sandbox.new("experiment.yaml")
    path.write_text(yaml.safe_dump(content, allow_unicode=True))
    return Case(fit(path, draw), path, or_key=KEY)


def experiment_text(draw: Draw, sandbox: Sandbox) -> Case:
    """A file with some of its text cut out, doubled or replaced."""
    text = yaml.safe_dump(draw(st.sampled_from([EXPERIMENT, RECONSTRUCTION])))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = start + draw(st.integers(0, 20))
        alphabet = st.text("\t :-{}[]&*!|>#%@`'\"\n\0é", max_size=6)
        middle = draw(st.one_of(alphabet, st.just(text[start:end] * 2)))
        text = text[:start] + middle + text[end:]
    path = sandbox.new("experiment.yaml")
    path.write_text(text)
    return Case(fit(path, draw), path, or_key=KEY)


def experiment_bytes(draw: Draw, sandbox: Sandbox) -> Case:
    """Anything at all."""
    path = sandbox.new("experiment.yaml")
    path.write_bytes(draw(st.binary(max_size=200)))
    return Case(fit(path, draw), path, refused=True)


def experiment_bomb(draw: Draw, sandbox: Sandbox) -> Case:
    """Aliases of aliases, brackets in brackets, and tags that would call Python."""
    deep = draw(st.sampled_from([30, 1_000, 100_000]))
    laughs = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
    text = draw(
        st.sampled_from(
            [
                f"a0: &a0 [x]\n{laughs}experiment: fuzz\ndata: *a11\n",
                f"data: {'[' * deep}{']' * deep}\n",
                f"data: {'{a: ' * deep}1{'}' * deep}\n",
                "".join(f"{' ' * n}a:\n" for n in range(min(deep, 1_000))),
                "data: &a [*a]\n",
                "data: &a {source: digits, more: *a}\n",
                f"experiment: {'x' * 10 * deep}\n",
                "data: !!python/object/apply:os.mkdir [owned]\n",
                "data: !!python/name:os.system\n",
                "!!python/object/new:os.mkdir [owned]\n",
                "data: {source: digits, source: digits}\nx: y\n",
            ]
        )
    )
    path = sandbox.new("experiment.yaml")
    path.write_text(text)
    return Case(fit(path, draw), path, refused=True)
