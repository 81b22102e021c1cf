"""Networks of timm and torchvision by their names there, as classifiers or encoders."""

from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from twinloop.errors import UserError

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of each channel, by which torchvision's weights were trained."""


class Library(nn.Module):
    """A network of a library: its input is normalised, its output is `[B, classes]`.

    Args:
        network: The library's, for images normalised by `mean` and `std`, one for each channel.
        image_shape: Channels, height, width; one channel is repeated for each value of `mean`.
        name: Its name in the library, for errors.
        mean: Subtracted from each channel, pixels in [0, 1].
        std: Divides each channel.

    Raises:
        UserError: it does not accept images of this shape.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        image_shape: tuple[int, int, int],
        name: str,
        mean: Iterable[float],
        std: Iterable[float],
    ) -> None:
        super().__init__()
        self.network = network
        for kind, values in (("mean", mean), ("std", std)):
            self.register_buffer(kind, torch.tensor([*values])[:, None, None], persistent=False)
        try:
            with torch.no_grad():
                self.eval()(torch.zeros(2, *image_shape))
        except (RuntimeError, ValueError, AssertionError) as error:
            shape = "x".join(map(str, image_shape))
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"model.network: {name} does not accept images of {shape} ({reason}); set "
                "data.image_size, data.channels, or its options"
            ) from error
        self.train()

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W] -> [B, classes]`, pixels in [0, 1] to logits."""
        output: Tensor = self.network((x - self.mean) / self.std)
        return output


class Timm(Library):
    """A network of timm (the extra `timm`): `timm.list_models()` has their names.

    Args:
        image_shape: Channels, height, width of an image.
        classes: Number of logits.
        name: The name of the network.
        pretrained: Whether to begin with its published weights, which timm downloads once.
        options: Further arguments of `timm.create_model`, such as `drop_rate` or `img_size`.

    Raises:
        UserError: timm is not installed, has no such network, or it does not accept the images.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        classes: int,
        name: str,
        pretrained: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        timm = _library("timm")
        _check_name(name, "timm", timm.list_models())
        channels = image_shape[0]
        network = timm.create_model(
            name, pretrained=pretrained, num_classes=classes, in_chans=channels, **(options or {})
        )
        mean, std = (network.pretrained_cfg[kind] for kind in ("mean", "std"))
        if channels != len(mean):  # timm sums the weights of the channels likewise
            mean, std = ([sum(values) / len(values)] * channels for values in (mean, std))
        super().__init__(network, image_shape, f"timm's {name}", mean, std)


class Torchvision(Library):
    """A classifier of torchvision (the extra `torchvision`): `torchvision.models.list_models()`.

    Args:
        image_shape: Channels, height, width of an image. A single channel is repeated three times.
        classes: Number of logits.
        name: The name of the network.
        weights: The name of published weights to begin with, such as `DEFAULT`, which torchvision
            downloads once; of layers that depend on the number of classes they are left out.
        options: Further arguments of the network, such as `dropout`.

    Raises:
        UserError: torchvision is not installed, has no such network, or it does not accept the
            images.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        classes: int,
        name: str,
        weights: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        models = _library("torchvision").models
        _check_name(name, "torchvision", models.list_models(models))
        network = models.get_model(name, num_classes=classes, **(options or {}))
        if weights:
            own, given = network.state_dict(), models.get_model(name, weights=weights).state_dict()
            fitting = {
                key: value
                for key, value in given.items()
                if key in own and value.shape == own[key].shape
            }
            network.load_state_dict(own | fitting)
        super().__init__(network, image_shape, f"torchvision's {name}", *IMAGENET)


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(
            f"model.network: {name} is not installed ({error}); install twinloop with the extra "
            f"{name}, or {name} itself, in the version that fits torch {torch.__version__}"
        ) from error


def _check_name(name: str, library: str, known: list[str]) -> None:
    """Refuse an unknown name. timm's names may have a tag: `resnet18.a1_in1k`."""
    if name.partition(".")[0] not in known:
        from difflib import get_close_matches

        near = ", ".join(get_close_matches(name, known, 5, 0.5)) or f"{library} lists them"
        raise UserError(f"model.network: {library} has no network {name!r}; like it are: {near}")
