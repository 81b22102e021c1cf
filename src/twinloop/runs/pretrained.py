"""A trained task as a folder for the Hugging Face Hub: safetensors, config.json, a model card."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from twinloop.errors import as_user_error, import_extra
from twinloop.files import as_json, atomic_write
from twinloop.runs.folder import checkpoint_of, run_of
from twinloop.tasks import Classification, MultiLabel, Reconstruction, Task

CARD = Path(__file__).with_name("card.md")


def save_pretrained(task: Task, checkpoint: dict[str, Any], path: Path, folder: Path) -> None:
    """Write model.safetensors, config.json and README.md, which `twinloop.load` reads.

    Args:
        task: The task with the weights of `checkpoint`.
        checkpoint: What was read from `path`.
        path: The checkpoint of a run, whose results.json the card is written from.
        folder: The folder to write to.

    Raises:
        UserError: the extra is not installed, or results.json is invalid.
    """
    save_file = import_extra("safetensors.torch").save_file
    # The file has neither shared memory nor an order of dimensions.
    weights = {
        name: weight.clone(memory_format=torch.contiguous_format)
        for name, weight in checkpoint["state_dict"].items()
    }
    with as_user_error(f"{path}: the model card cannot be written"):
        card = _card(task, checkpoint["settings"], _results(path))
    contents = {"config.json": as_json(_config(checkpoint)), "README.md": card}
    for name, text in contents.items():
        with atomic_write(folder / name) as part:
            part.write_text(text, encoding="utf-8")
    with atomic_write(folder / "model.safetensors") as part:
        save_file(weights, part)


def _config(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint has besides its weights that a task is built and evaluated from."""
    settings = checkpoint["settings"]
    parts = {name: settings.get(name) for name in ("experiment", "seed_everything", "model")}
    data = settings["data"].get("init_args", settings["data"])
    # Without the user's folders; data of one's own may have no such share.
    parts["data"] = {name: data[name] for name in ("val_size",) if name in data}
    parts["trainer"] = {"precision": settings["trainer"].get("precision")}
    library = f"twinloop {version('twinloop')}"
    return {"library": library, "data_spec": checkpoint["data_spec"], "settings": parts}


def _results(path: Path) -> dict[str, Any] | None:
    """The results of the run, which are those of its best checkpoint."""
    file = run_of(path) / "results.json"
    if not file.is_file() or checkpoint_of(file.parent).resolve() != path.resolve():
        return None
    results: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return results


def _card(task: Task, settings: dict[str, Any], results: dict[str, Any] | None) -> str:
    """The text of README.md; its header is that of the Hub's model cards."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    name, data = settings.get("experiment") or type(task).__name__, task.spec.name
    classifies = isinstance(task, Classification | MultiLabel)
    kind = "image-to-image" if isinstance(task, Reconstruction) else None
    kind = "image-classification" if classifies else kind
    val, test = (_scalars(results[stage]) if results else {} for stage in ("val", "test"))
    measured = [
        EvalResult(kind or "other", data, data, metric, value) for metric, value in test.items()
    ]
    header = ModelCardData(
        library_name="twinloop", pipeline_tag=kind, model_name=name, eval_results=measured or None
    )
    card = ModelCard.from_template(
        header,
        template_path=str(CARD),
        experiment=name,
        spec=task.spec,
        class_names=json.dumps(task.spec.class_names, ensure_ascii=False) if classifies else None,
        task=_path(task),
        network=_path(task.network),
        parameters=sum(weight.numel() for weight in task.network.parameters()),
        results=results,
        metrics={metric: (val.get(metric), test.get(metric)) for metric in {**val, **test}},
    )
    return str(card)


def _scalars(metrics: dict[str, Any]) -> dict[str, float]:
    """The metrics of a single value; one that was not finite is null."""
    return {name: value for name, value in metrics.items() if isinstance(value, float)}


def _path(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
