"""Results of the experiments: MSE by the dimension of the code, accuracy by the number of epochs.

Each is a run of the command, saved under lightning_logs/quality and not repeated while its results
exist. This takes hours of a CPU, so it runs only if it is named.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
CODE_SIZES = {4: 10, 8: 10, 16: 10, 32: 10, 64: 20}
"""Dimensions of the code, with the epochs of experiments/autoencoder.yaml for each."""
SHARE_OF_PCA = 0.5
EPOCHS = {5: 0.934, 20: 0.943, 50: 0.949}
"""The accuracies of the course (fast.ai, part 2 of 2022), to be exceeded."""
SEED = 42


def measure(source: str, device: torch.device, rounds: int) -> list[dict[str, Any]]:
    """An autoencoder of each dimension, and `rounds` seeds of each number of epochs.

    20 and 50 epochs take hours without a GPU, and are left out then.
    """
    epochs = EPOCHS if device.type == "cuda" else [5]
    seeds = range(SEED, SEED + rounds)
    return [
        *(by_code_size(source, size, number) for size, number in CODE_SIZES.items()),
        *(by_epochs(source, number, seed) for number in epochs for seed in seeds),
    ]


def by_code_size(source: str, size: int, epochs: int) -> dict[str, Any]:
    """Train experiments/autoencoder.yaml with a `size`-dimensional code; results on test."""
    options = ["--model.network.code_size", str(size), "--trainer.max_epochs", str(epochs)]
    results = trained(f"autoencoder-{size}", "autoencoder", source, *options)
    mse, pca_mse = results["test"]["mse"], results["test"]["pca_mse"]
    found = {"code_size": size, "epochs": epochs, "mse": mse, "pca_mse": pca_mse}
    return found | {"share": mse / pca_mse, "met": mse < SHARE_OF_PCA * pca_mse} | cost(results)


def by_epochs(source: str, epochs: int, seed: int) -> dict[str, Any]:
    """Train experiments/classifier-N-epochs.yaml with `seed`; results on test."""
    experiment = f"classifier-{epochs}-epochs"
    options = ["--seed_everything", str(seed)]
    results = trained(f"{experiment}-{seed}", experiment, source, *options)
    accuracy = results["test"]["accuracy"]
    return {"experiment": experiment, "accuracy": accuracy, "to_beat": EPOCHS[epochs]} | cost(
        results
    )


def cost(results: dict[str, Any]) -> dict[str, Any]:
    """The seconds of a run, and its seed and commit, to reproduce it."""
    seconds = round(results["seconds"]["total"])
    return {"seed": results["seed"], "seconds": seconds, "commit": results["commit"]}


def trained(name: str, experiment: str, source: str, *options: str) -> dict[str, Any]:
    """The results of the run `name`, which is started if they do not exist."""
    run = ROOT / "lightning_logs" / "quality" / name
    path = run / "results.json"
    if not path.exists():
        command = [sys.executable, "-m", "twinloop", "fit", "--run", str(run)]
        command += ["--config", str(ROOT / "experiments" / f"{experiment}.yaml")]
        subprocess.run([*command, "--data.source", source, *options], check=True)
    results: dict[str, Any] = json.loads(path.read_text())
    return results
