"""`python -m twinloop predict`: write the predictions of a trained model on the user's images."""

from typing import Any

import torch

from twinloop.cli.evaluate import load
from twinloop.cli.parser import Experiment
from twinloop.data.spec import DataSpec
from twinloop.runs.checkpoint import spec_of
from twinloop.runs.folder import run_of
from twinloop.runs.predictions import predictions_folder, write_predictions


def main(args: list[str]) -> int:
    """Write the predictions on the folder `--data.images`, to a folder in that of the run."""
    experiment = Experiment(args, _trained_on)
    trainer = load(experiment)
    path, data = experiment.trained[0], experiment.data
    outputs: Any = trainer.predict(experiment.task, datamodule=data)
    assert data.images is not None
    folder = predictions_folder(run_of(path), data.images)
    images = data.predict_images.float() / 255
    predicted = torch.cat([part.float() for part in outputs])
    write_predictions(experiment.task, images, predicted, data.paths, data.images, folder)
    print(f"{len(images)} images, with {path}")
    print(f"overview.png, predictions.csv and predictions.npz: {folder}")
    return 0


def _trained_on(experiment: Experiment) -> DataSpec:
    """The data set of the checkpoint; the user's images are read as its own were."""
    checkpoint, data = experiment.trained[1], experiment.data
    settings = checkpoint.get("settings") or {"data": {}}
    data.background = data.background or settings["data"].get("background")
    data.spec = spec_of(checkpoint)
    return data.spec
