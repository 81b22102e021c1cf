"""Write the trained task of a run for other programs: safetensors, ONNX, and torch.export."""

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from twinloop.errors import UserError, as_user_error, import_extra
from twinloop.files import atomic_write, expanded
from twinloop.runs.checkpoint import read_checkpoint
from twinloop.runs.folder import checkpoint_of, run_of
from twinloop.runs.load import build
from twinloop.runs.pretrained import save_pretrained
from twinloop.tasks import Task

Format = Literal["safetensors", "onnx", "pt2"]
FORMATS: tuple[Format, ...] = get_args(Format)
Predict = Callable[[Tensor], Tensor]
SIZES = (1, 2, 5)
"""The batches on which an exported file is compared with its task."""
TOLERANCE = 1e-4
"""The largest difference that is accepted, as a share of the largest output."""


def export(
    run: str | Path, folder: str | Path | None = None, formats: Sequence[Format] = FORMATS
) -> dict[Path, float]:
    """Write the best weights of a run to `folder`, by default `export` in that of the run.

    `model.safetensors`, `config.json` and `README.md`, a model card, are for `twinloop.load` and
    the Hugging Face Hub. `model.onnx` and `model.pt2` (`torch.export`) take float32 images
    `[B, C, H, W]` in [0, 1], any number of them, and have class names and image shape as metadata.

    Returns:
        The largest difference of each file's outputs from those of the task, on seeded images.

    Raises:
        UserError: as `twinloop.load`; also a network that cannot be exported, or whose outputs
            differ by more than `TOLERANCE`, and an extra that is not installed.
    """
    path = checkpoint_of(expanded(run))
    checkpoint = read_checkpoint(path)
    task = build(checkpoint, path)
    folder = run_of(path) / "export" if folder is None else expanded(folder)
    with as_user_error(f"{folder}: cannot be made"):
        folder.mkdir(parents=True, exist_ok=True)
    found = {}
    if "safetensors" in formats:
        save_pretrained(task, checkpoint, path, folder)
        file = folder / "model.safetensors"
        found[file] = _difference(task, build(read_checkpoint(file), file), file)
    task.float()  # which every other program takes
    for suffix, pack in PACKERS.items():
        if suffix in formats:
            file = folder / f"model.{suffix}"
            with as_user_error(f"{path}: cannot be exported to {suffix}"), _quiet():
                content, predict = pack(task)
                found[file] = _difference(task, predict, file)
            with atomic_write(file) as part:
                part.write_bytes(content)
    return found


def _onnx(task: Task) -> tuple[bytes, Predict]:
    """The content of an ONNX file, and its outputs by ONNX Runtime."""
    runtime, _ = import_extra("onnxruntime"), import_extra("onnxscript")
    program = torch.onnx.export(
        task,
        (_images(task, 2),),
        dynamo=True,
        verbose=False,
        input_names=["images"],
        output_names=["output"],
        dynamic_shapes=_dynamic_batch(),
    )
    assert program is not None
    program.model.metadata_props.update(_facts(task))
    content = program.model_proto.SerializeToString()
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return content, lambda x: torch.from_numpy(session.run(None, {"images": x.numpy()})[0])


def _pt2(task: Task) -> tuple[bytes, Predict]:
    """The content of a file for `torch.export.load`, and the outputs of what that loads."""
    program = torch.export.export(task, (_images(task, 2),), dynamic_shapes=_dynamic_batch())
    file = io.BytesIO()
    torch.export.save(program, file, extra_files=_facts(task))
    file.seek(0)
    return file.getvalue(), torch.export.load(file).module()


PACKERS: dict[str, Callable[[Task], tuple[bytes, Predict]]] = {"onnx": _onnx, "pt2": _pt2}


def _dynamic_batch() -> Any:
    return ({0: torch.export.Dim("batch")},)


def _facts(task: Task) -> dict[str, Any]:
    spec = task.spec
    return {
        "class_names": json.dumps(spec.class_names),
        "image_shape": json.dumps(spec.image_shape),
    }


def _images(task: Task, size: int) -> Tensor:
    """Random images `[size, C, H, W]` in [0, 1], always the same."""
    weight = next(task.network.parameters())
    random = torch.Generator().manual_seed(size)
    return torch.rand(size, *task.spec.image_shape, generator=random).to(weight.dtype)


def _difference(task: Task, predict: Predict, file: Path) -> float:
    """The largest absolute difference of outputs in batches of several sizes.

    Raises:
        UserError: it is over `TOLERANCE`, or not a number.
    """
    batches = [_images(task, size) for size in SIZES]
    with torch.no_grad():
        wanted, found = (torch.cat([f(batch) for batch in batches]) for f in (task, predict))
    largest = float((found - wanted).abs().max())
    if not largest <= TOLERANCE * float(wanted.abs().max()):
        raise UserError(
            f"{file}: not written, since its outputs would differ by {largest:.2g} from those of "
            f"the run, which are up to {float(wanted.abs().max()):.2g}; is the network random?"
        )
    return largest


@contextmanager
def _quiet() -> Iterator[None]:
    """Without warnings about the exporter's own calls, or about torchvision, which is not used."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*LeafSpec.*is deprecated")
            warnings.filterwarnings("ignore", "No complete tensor found in the group")
            yield
    finally:
        registration.setLevel(level)
