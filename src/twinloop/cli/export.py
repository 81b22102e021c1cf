"""`python -m twinloop export`: write the trained task of a run for other programs."""

from pathlib import Path

from twinloop.errors import Parser
from twinloop.runs.export import FORMATS, export


def main(args: list[str]) -> int:
    """Write the files, and print how far their outputs are from those of the task.

    Raises:
        UserError: see `twinloop.runs.export.export`.
    """
    parser = Parser("python -m twinloop export", description=__doc__, allow_abbrev=False)
    parser.add_argument("run", type=Path, help="the folder of a run, or a checkpoint")
    parser.add_argument("--output", type=Path, help="the folder to write to; export in that of RUN")
    parser.add_argument(
        "--formats",
        nargs="+",
        choices=FORMATS,
        default=FORMATS,
        help="safetensors with config and model card, onnx, pt2 (torch.export); by default all",
    )
    given = parser.parse_args(args)
    for path, difference in export(given.run, given.output, given.formats).items():
        print(f"{path}: outputs differ by at most {difference:.2g} from those of the run")
    return 0
