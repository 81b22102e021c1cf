"""Names of the lesson's library, miniai, that are others here: whoever uses one is told ours."""

from collections.abc import Mapping
from typing import Any

CALLBACKS = "twinloop.learner.callbacks"
OURS = {
    "epochs": "n_epochs",
    "iter": "num",
    "HooksCallback": f"ActivationStatsCB of {CALLBACKS}, or Hooks of twinloop.learner",
    "ActivationStats": f"ActivationStatsCB of {CALLBACKS}",
    "AccelerateCB": f"DistributedCB and MixedPrecisionCB of {CALLBACKS}",
    "MixedPrecision": f"MixedPrecisionCB of {CALLBACKS}",
    "BaseSchedCB": f"BatchSchedCB, EpochSchedCB or PlateauSchedCB of {CALLBACKS}",
    "BatchTransformCB": "the augmentation of an ImageDataModule, or a Callback with before_batch",
    "CompletionCB": f"ProgressCB of {CALLBACKS}",
    "get_dls": "DataLoaders of twinloop.learner",
    "show_image": "show_image of twinloop.figures",
    "show_images": "show_images of twinloop.figures",
    "to_device": "to_device of twinloop.learner.callbacks.device",
    "with_cbs": "with_cbs of twinloop.learner.callback",
    "run_cbs": "run_cbs of twinloop.learner.callback",
}
"""An attribute of the Learner, or what miniai exports, and where it is here."""


def hint(name: str) -> str:
    """What an error adds where `name` is one of the lesson's; nothing where it is not."""
    return f"; the lesson's {name} is {OURS[name]} here" if name in OURS else ""


def missing(module: str, name: str) -> Exception:
    """The error for a `name` that a module of the Learner has not.

    An ImportError where it says something, as `from module import name` hides an AttributeError.
    """
    if name in OURS:
        return ImportError(f"{module} has no {name}{hint(name)}")
    return AttributeError(f"module {module!r} has no attribute {name!r}")


def refuse(given: Mapping[str, Any], **ours: str) -> None:
    """Refuse keywords of the lesson.

    Raises:
        TypeError: names ours.
    """
    for name in ours.keys() & given:
        raise TypeError(f"the lesson's {name}= is {ours[name]}= here")
