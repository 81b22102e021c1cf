"""`python -m twinloop predict`: what a trained model makes of the user's own images, as files."""

from typing import Any

import torch

from twinloop.cli.evaluate import load
from twinloop.cli.parser import Experiment
from twinloop.data.spec import DataSpec
from twinloop.runs.checkpoint import read_checkpoint, spec_of
from twinloop.runs.folder import run_of
from twinloop.runs.predictions import predictions_folder, write_predictions


def main(args: list[str]) -> int:
    """Write the predictions of the images in the folder `--data.images`, beside the run."""
    experiment = Experiment(args, _trained_on)
    path, trainer = load(experiment)
    data = experiment.data
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
    """The data set of the checkpoint, which the user's own images are to be brought to."""
    path = experiment.checkpoint(default="best")
    assert path is not None
    experiment.data.spec = spec_of(read_checkpoint(path))
    return experiment.data.spec
