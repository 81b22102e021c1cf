"""Build a task again from the settings in a checkpoint, whose author may be anybody."""

from argparse import ArgumentError
from collections.abc import Iterator, Mapping
from pathlib import Path
from pkgutil import resolve_name
from typing import IO, Any, Self

from jsonargparse import ArgumentParser, set_loader
from lightning.fabric.utilities.cloud_io import _load
from lightning.pytorch import LightningModule
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from twinloop.data.spec import DataSpec
from twinloop.errors import UserError, explain
from twinloop.tasks.schedule import Schedule

BUILT = (nn.Module, Optimizer, LRScheduler, Schedule)
OURS = ("twinloop.models.", "twinloop.tasks.")
"""What is built of all that a checkpoint may name: the parser would call any function."""
VERBATIM = "verbatim"
set_loader(VERBATIM, lambda text: text)  # or a string in a checkpoint would be parsed as YAML


class Rebuilt(LightningModule):
    """A LightningModule that is built again as its run did."""

    @classmethod
    def rebuild(cls, checkpoint: Mapping[str, Any], **given: Any) -> Self:
        """Build the task of the class that `checkpoint` names, or this one if it is a subclass.

        Its weights are initial ones. The arguments are `given`, or from the settings of the run,
        which only checkpoints of the command line have.

        Raises:
            UserError: the settings name what cannot be imported, or is no network, optimiser or
                schedule, or do not fit the class.
            TypeError: the checkpoint has no settings, and arguments are missing.
        """
        if facts := checkpoint.get("data_spec"):
            given = {"spec": DataSpec.of(facts)} | given
        if model := model_of(checkpoint):
            named = _class(model["class_path"])
            if issubclass(named, cls):
                cls = named
            elif not issubclass(cls, named):
                raise UserError(f"the task is a {named.__name__}, not a {cls.__name__}")
            given = _arguments(cls, model.get("init_args", {}), given) | given
        return cls(**given)

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: str | Path | IO[bytes],
        map_location: Any = None,
        hparams_file: str | Path | None = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **kwargs: Any,
    ) -> Self:
        """Lightning's; but see `rebuild` for the class and the arguments that are not given."""
        checkpoint = _load(checkpoint_path, map_location=map_location, weights_only=True)
        if not model_of(checkpoint):
            if facts := checkpoint.get("data_spec"):
                kwargs = {"spec": DataSpec.of(facts)} | kwargs
            given = checkpoint_path, map_location, hparams_file, strict, weights_only
            return super().load_from_checkpoint(*given, **kwargs)
        task = cls.rebuild(checkpoint, **kwargs)
        task.on_load_checkpoint(checkpoint)
        task.load_state_dict(checkpoint["state_dict"], strict=strict is not False)
        return task.to(next(iter(checkpoint["state_dict"].values())).device)


def model_of(checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
    """The class of a task and its arguments; None where it was trained from Python."""
    return (checkpoint.get("settings") or {}).get("model")


def _arguments(kind: type, settings: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `kind` that `settings` have and that are not `given`, as objects."""
    missing = {name: value for name, value in settings.items() if name not in given}
    for path in _class_paths(missing):
        _class(path)
    parser = ArgumentParser(exit_on_error=False, parser_mode=VERBATIM)
    options: Any = {"skip": set(given), "instantiate": False, "fail_untyped": False}
    try:
        parser.add_class_arguments(kind, "task", **options)
        config = parser.instantiate_classes(parser.parse_object({"task": missing}))
    except ArgumentError as error:
        raise UserError(explain(error)) from error
    found: dict[str, Any] = vars(config.task)
    return found


def _class_paths(settings: Any) -> Iterator[str]:
    """All classes that settings name."""
    if isinstance(settings, dict):
        if "class_path" in settings:
            yield settings["class_path"]
        settings = list(settings.values())
    if isinstance(settings, list | tuple):
        for part in settings:
            yield from _class_paths(part)


def _class(path: str) -> type:
    """Import a class.

    Raises:
        UserError: it cannot be imported, or may not be built.
    """
    try:
        found = resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"{path} cannot be imported ({error}); install its package, or put the folder of its "
            "file on sys.path"
        ) from error
    if not isinstance(found, type) or not (
        issubclass(found, BUILT) or found.__module__.startswith(OURS)
    ):
        raise UserError(
            f"{path} is no class of a network, an optimiser or a schedule; pass what needs it to "
            "load_from_checkpoint"
        )
    return found
