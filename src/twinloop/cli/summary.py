"""`python -m twinloop summary`: the layers of an experiment's network, their sizes and costs."""

from rich.console import Console
from rich.measure import Measurement

from twinloop.cli.parser import Experiment
from twinloop.convolution.summary import summarise, table
from twinloop.errors import as_user_error


def main(args: list[str]) -> int:
    """Print each layer of the network: sizes, costs, and receptive field.

    Raises:
        UserError: a network that does not take images of the data set.
    """
    experiment = Experiment(args)
    spec = experiment.task.spec
    with as_user_error("model.network"):
        rows = summarise(experiment.task.network, spec.image_shape)
    drawn = table(rows, f"{experiment.name} on {spec.name}")
    console = Console(markup=False, emoji=False)
    # No column is cut off in a narrow terminal.
    console.width = Measurement.get(console, console.options.update(width=1000), drawn).maximum
    console.print(drawn, crop=False)
    return 0
