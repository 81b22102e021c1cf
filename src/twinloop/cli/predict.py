"""`python -m twinloop predict`: write the predictions of a trained model on the user's images."""

from typing import Any

import torch

from twinloop.cli.evaluate import load
from twinloop.cli.parser import Experiment
from twinloop.data.datamodule import ImageDataModule
from twinloop.data.spec import DataSpec
from twinloop.errors import UserError
from twinloop.runs.checkpoint import spec_of
from twinloop.runs.folder import run_of
from twinloop.runs.predictions import predictions_folder, write_predictions


def main(args: list[str]) -> int:
    """Write the predictions on the folder `--data.images`, to a folder in that of the run."""
    experiment = Experiment(args, _trained_on)
    trainer = load(experiment)
    path, data = experiment.trained[0], experiment.data
    assert isinstance(data, ImageDataModule)
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
    spec, settings = spec_of(checkpoint), checkpoint.get("settings") or {"data": {}}
    if not isinstance(data, ImageDataModule) or spec.image_shape[0] not in (1, 3):
        raise UserError(
            "predict reads image files, by an ImageDataModule in grey or RGB, and this model was "
            f"trained on other data, {spec.name}; call its task in Python"
        )
    data.background = data.background or settings["data"].get("background")
    data.spec = spec
    return spec
