"""A notebook in a real kernel: bars, figures, a curve that grows, and a fit that is interrupted."""

import base64
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from twinloop.notebook import in_notebook

CELLS = {
    "watch": """
import matplotlib, signal
from IPython import get_ipython
settings = dict(matplotlib.rcParams)
shown = []
def see(message):
    shown.append(message["content"]["data"])
    return message
get_ipython().display_pub.register_hook(see)
def texts():
    found = [data.get("text/plain", "") for data in shown]
    shown.clear()
    return found
""",
    "decode": """
import torch
from twinloop import figures
from twinloop.data.datamodule import ImageDataModule
from twinloop.learner import Accuracy, Callback, DataLoaders, TrainLearner
from twinloop.learner.callbacks import MetricsCB, ProgressCB, RecorderCB
from twinloop.models import MLP
torch.manual_seed(0)
data = ImageDataModule("digits", batch_size=64, cache_dir=FOLDER)
dls = DataLoaders.from_data(data)
print(texts()[0])
""",
    "learn": """
model = MLP(data.spec.image_shape, len(data.spec.class_names))
learn = TrainLearner(model, dls, cbs=[MetricsCB(Accuracy()), ProgressCB(), RecorderCB()])
learn
""",
    "fit": "learn.fit(2)",
    "bars of a fit": "print(sorted({text.rpartition(' ')[0] for text in texts() if text}))",
    "fit again": "learn.fit(1)",
    "bars of a second fit": "print(sorted({text.rpartition(' ')[0] for text in texts() if text}))",
    "images": "xb, yb = next(iter(dls.valid))\nfigures.show_images(xb[:4], yb[:4])",
    "recorded": "learn.cbs[-1].plot()",
    "search": "learn.lr_find()",
    "interrupted": """
class Interrupt(Callback):
    def after_backward(self, learn):
        if learn.num == 5:
            signal.raise_signal(signal.SIGINT)
learn.fit(3, cbs=Interrupt())
""",
    "after it": """
shown.clear()
learn.fit(1, lr=0.2)
names = [type(cb).__name__ for cb in learn.cbs]
print(bool(learn.metrics["val/accuracy"] > 0.5), names, len(texts()))
""",
    "curve": """
learn.rm_cb(ProgressCB)
learn.add_cb(curve := ProgressCB(bar=False, plot=True))
curve.output.seconds = 0.0
learn.fit(2, valid=False)
pngs = [data["image/png"] for data in shown if "image/png" in data]
print(len(pngs) == 2 * len(dls.train) + 1, len(set(pngs)) > len(pngs) / 2)
""",
    "settings": "print(dict(matplotlib.rcParams) == settings)",
}


pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the cells leave in the notebook, by name."""
    folder = tmp_path_factory.mktemp("notebook")
    cells = [
        nbformat.v4.new_code_cell(  # type: ignore[no-untyped-call]
            code.strip().replace("FOLDER", repr(str(folder / "cache"))),
            metadata={"tags": ["raises-exception"] if name == "interrupted" else []},
        )
        for name, code in CELLS.items()
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)  # type: ignore[no-untyped-call]
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(folder)}}).execute()
    return {name: cell.outputs for name, cell in zip(CELLS, notebook.cells, strict=True)}


def printed(outputs: Any) -> list[str]:
    texts = (output.text for output in outputs if output.get("name") == "stdout")
    return "".join(texts).splitlines()


def test_decoding_and_every_fit_show_bars(outputs: dict[str, Any]) -> None:
    assert printed(outputs["decode"]) == ["decoding 1,797 images 0/1797"]
    assert printed(outputs["bars of a fit"])[0].startswith("['epoch 1/2 train'")
    assert printed(outputs["bars of a second fit"])[0].startswith("['epoch 1/1 train'")
    lines = printed(outputs["fit"]) + printed(outputs["fit again"])
    assert [line.partition("  ")[0] for line in lines] == ["epoch 1/2", "epoch 2/2", "epoch 1/1"]
    for name in ("decode", "fit", "fit again"):  # the bars are gone at the end
        bars = [o.data["text/html"] for o in outputs[name] if o.output_type == "display_data"]
        assert bars == [""]


@pytest.mark.parametrize("name", ["images", "recorded", "search"])
def test_a_figure_is_shown_where_a_cell_makes_it(name: str, outputs: dict[str, Any]) -> None:
    (output,) = outputs[name]
    assert output.output_type == "execute_result"
    assert base64.b64decode(output.data["image/png"]).startswith(b"\x89PNG")


def test_the_learner_is_a_few_lines_and_no_setting_of_matplotlib_changes(
    outputs: dict[str, Any],
) -> None:
    (output,) = outputs["learn"]
    assert output.data["text/plain"].startswith(
        "TrainLearner\n  model      MLP, 3,760 parameters\n"
    )
    assert printed(outputs["settings"]) == ["True"]


def test_after_ctrl_c_everything_is_usable(outputs: dict[str, Any]) -> None:
    (error,) = (o for o in outputs["interrupted"] if o.output_type == "error")
    assert error.ename == "KeyboardInterrupt"
    line, after = printed(outputs["after it"])
    assert line.startswith("epoch 1/1  ")
    # It has learned, its callbacks are those of before, and there was a bar.
    assert after.startswith("True ['MetricsCB', 'ProgressCB', 'RecorderCB'] ")
    assert int(after.rpartition(" ")[2]) >= 2


def test_a_curve_grows_while_a_fit_trains(outputs: dict[str, Any]) -> None:
    (curve,) = (o for o in outputs["curve"] if o.output_type == "display_data")
    assert base64.b64decode(curve.data["image/png"]).startswith(b"\x89PNG")
    *lines, counts = printed(outputs["curve"])
    assert len(lines) == 2
    assert counts == "True True"  # drawn after each batch, and each time another


def test_a_test_is_no_notebook() -> None:
    assert not in_notebook()
