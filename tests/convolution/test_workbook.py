"""The formulas of a workbook make PyTorch's numbers, also when a pixel is changed."""

import csv
import re
import shutil
import subprocess
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from torch import Tensor, nn

from twinloop.convolution import workbook
from twinloop.convolution.receptive_field import by_arithmetic
from twinloop.convolution.stages import stages_of
from twinloop.models import LessonClassifier

MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
RGB = "RGB, a kernel of 2x3, uneven strides"
CASES: dict[str, tuple[nn.Module, tuple[int, int, int]]] = {
    "lesson": (LessonClassifier((1, 28, 28), 10), (1, 28, 28)),
    RGB: (
        nn.Sequential(nn.Conv2d(3, 2, (2, 3), (2, 1), (1, 0)), nn.ReLU(), nn.Conv2d(2, 3, (5, 5))),
        (3, 9, 7),
    ),
}
Cell = tuple[str, int, int]
"""Sheet, row and column, counted from 0."""


class Book:
    """What a spreadsheet program reads in a file: values, formulas and names, and no more."""

    def __init__(self, path: Path) -> None:
        self.values: dict[Cell, float] = {}
        self.formulas: dict[Cell, str] = {}
        self.computed: dict[Cell, float] = {}
        with zipfile.ZipFile(path) as archive:
            book = ElementTree.fromstring(archive.read("xl/workbook.xml"))
            self.sheets = [sheet.attrib["name"] for sheet in book.iter(f"{MAIN}sheet")]
            self.names = {n.attrib["name"]: str(n.text) for n in book.iter(f"{MAIN}definedName")}
            for number, sheet in enumerate(self.sheets, start=1):
                tree = ElementTree.fromstring(archive.read(f"xl/worksheets/sheet{number}.xml"))
                for cell in tree.iter(f"{MAIN}c"):
                    place = (sheet, *place_of(cell.attrib["r"]))
                    formula, value = cell.find(f"{MAIN}f"), cell.find(f"{MAIN}v")
                    if formula is not None:
                        self.formulas[place] = str(formula.text)
                    elif value is not None and cell.get("t") != "s":
                        self.values[place] = float(str(value.text))

    def range(self, text: str) -> list[Cell]:
        """`image!A5:C7`, `conv1!$B$2` or a name, as its cells in order."""
        sheet, _, corners = self.names.get(text, text).replace("$", "").partition("!")
        first, _, last = corners.partition(":")
        (top, left), (bottom, right) = place_of(first), place_of(last or first)
        return [
            (sheet, row, column)
            for row in range(top, bottom + 1)
            for column in range(left, right + 1)
        ]

    def value(self, cell: Cell) -> float:
        """A number, or what a formula of ours makes: products of ranges, a bias, a maximum."""
        if cell in self.values:
            return self.values[cell]
        if cell not in self.computed:
            formula = self.formulas[cell]
            if re.fullmatch(r"\w+![A-Z]+\d+", formula):
                return self.value(self.range(formula)[0])
            total = sum(
                self.value(one) * self.value(other)
                for window, kernel in re.findall(r"SUMPRODUCT\(([^,]+),(\w+)\)", formula)
                for one, other in zip(self.range(window), self.range(kernel), strict=True)
            )
            bias = re.search(r"\+(\w+_bias_\d+)", formula)
            assert bias, formula
            total += self.value(self.range(bias[1])[0])
            self.computed[cell] = max(0, total) if formula.startswith("MAX(0,") else total
        return self.computed[cell]

    def pixels_behind(self, cell: Cell) -> set[tuple[int, int]]:
        """Trace precedents back to the image: rows and columns of the sheet."""
        seen, following = {cell}, [cell]
        while following:
            formula = self.formulas.get(following.pop(), "")
            for window in re.findall(r"\w+![A-Z]+\d+:[A-Z]+\d+", formula):
                new = set(self.range(window)) - seen
                seen |= new
                following += new
        return {(row, column) for sheet, row, column in seen if sheet == "image"}


def place_of(reference: str) -> tuple[int, int]:
    """`B3` to (2, 1)."""
    match = re.fullmatch(r"([A-Z]+)(\d+)", reference)
    assert match, reference
    column = 0
    for letter in match[1]:
        column = column * 26 + ord(letter) - ord("A") + 1
    return int(match[2]) - 1, column - 1


def random_image(shape: tuple[int, int, int]) -> Tensor:
    """Pixels that a byte can hold, some of them black."""
    generator = torch.Generator().manual_seed(3)
    return torch.randint(-100, 256, shape, generator=generator).clamp(min=0).float() / 255


@pytest.fixture(scope="module", params=CASES.keys())
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[nn.Module, Tensor, Path]:
    model, shape = CASES[request.param]
    image = random_image(shape)
    classes = 10 if request.param == "lesson" else 3
    names = ["=1+1", "<b>bold</b>", *(f"class {n}" for n in range(2, classes))]
    path = tmp_path_factory.mktemp("workbook") / "convolutions.xlsx"
    workbook.write(path, model, image, names)
    return model, image, path


def maps_of(book: Book, model: nn.Module, image: Tensor) -> dict[str, list[list[Cell]]]:
    """The formulas of every stage in reading order, map by map."""
    found = {}
    for stage in stages_of(model, image):
        cells = sorted(cell for cell in book.formulas if cell[0] == stage.name)
        places = stage.activations[0].numel()
        assert len(cells) == stage.activations.numel()
        found[stage.name] = [cells[i : i + places] for i in range(0, len(cells), places)]
    return found


def test_every_formula_makes_pytorchs_number(case: tuple[nn.Module, Tensor, Path]) -> None:
    model, image, path = case
    book = Book(path)
    stages = stages_of(model, image)
    assert book.sheets == ["image", *(stage.name for stage in stages), "classes"]
    maps = maps_of(book, model, image)
    for stage in stages:
        found = torch.tensor([[book.value(cell) for cell in cells] for cells in maps[stage.name]])
        torch.testing.assert_close(
            found.double(), stage.activations.flatten(1), atol=1e-6, rtol=1e-6
        )
    logits = torch.tensor([book.value(("classes", 4 + n, 1)) for n in range(len(found))])
    torch.testing.assert_close(logits, model(image[None]).flatten(), atol=1e-5, rtol=1e-5)
    assert path.stat().st_size < 5_000_000
    if image.shape == (1, 28, 28):
        formula = "MAX(0,SUMPRODUCT(image!A5:C7,conv1_kernel_1_1)+conv1_bias_1)"
        assert formula in book.formulas.values()


def test_the_precedents_of_a_formula_are_its_receptive_field(
    case: tuple[nn.Module, Tensor, Path],
) -> None:
    model, image, path = case
    book = Book(path)
    maps = maps_of(book, model, image)
    _, height, width = image.shape
    stages = stages_of(model, image)
    # The image begins in the sheet's row 5, column 1, after a title, a note, a label and padding.
    top, left = stages[0].padding[0] + 4, stages[0].padding[1]
    for stage in stages:
        rows, columns = stage.activations.shape[1:]
        position = (rows // 2, columns - 1)
        cell = maps[stage.name][-1][position[0] * columns + position[1]]
        found = {(row - top, column - left) for row, column in book.pixels_behind(cell)}
        inside = {(y, x) for y, x in found if 0 <= y < height and 0 <= x < width}
        expected = by_arithmetic(model, tuple(image.shape), stage.layer, position).nonzero()
        assert inside == {(y, x) for y, x in expected.tolist()}


def test_class_names_must_fit(tmp_path: Path) -> None:
    model, shape = CASES[RGB]
    with pytest.raises(ValueError, match="2 class names for 3 outputs"):
        workbook.write(tmp_path / "book.xlsx", model, random_image(shape), ["a", "b"])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("soffice"), reason="needs LibreOffice (libreoffice-calc)")
def test_libreoffice_computes_pytorchs_numbers_from_a_changed_pixel(
    case: tuple[nn.Module, Tensor, Path], tmp_path: Path
) -> None:
    model, image, path = case[0], case[1].clone(), case[2]
    image[0, 4, 3] = 1 - image[0, 4, 3]
    changed = tmp_path / "changed.xlsx"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            text = old.read(name)
            if name.startswith("xl/worksheets/"):
                # Without stored values everything must be computed.
                text = re.sub(rb"</f><v>[^<]*</v>", b"</f>", text)
            if name == "xl/worksheets/sheet1.xml":
                padding = stages_of(model, image)[0].padding
                cell = f"{chr(ord('A') + padding[1] + 3)}{5 + padding[0] + 4}"
                pattern = rf'(<c r="{cell}"[^>]*><v>)[^<]*'.encode()
                text, count = re.subn(pattern, rb"\g<1>%r" % float(image[0, 4, 3]), text)
                assert count == 1
            new.writestr(name, text)
    filter_ = "csv:Text - txt - csv (StarCalc):44,34,76,1,,0,false,false,false,false,false,-1"
    subprocess.run(
        [
            *("soffice", "--headless", f"-env:UserInstallation=file://{tmp_path}/profile"),
            *("--convert-to", filter_, "--outdir", str(tmp_path / "csv"), str(changed)),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    book, maps = Book(path), maps_of(Book(path), model, image)
    for stage in stages_of(model, image):
        with (tmp_path / "csv" / f"changed-{stage.name}.csv").open() as file:
            sheet = list(csv.reader(file))
        found = torch.tensor(
            [[float(sheet[row][column]) for _, row, column in cells] for cells in maps[stage.name]]
        )
        expected = stage.activations.flatten(1).float()
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert book.sheets[-1] == "classes"
    with (tmp_path / "csv" / "changed-classes.csv").open() as file:
        sheet = list(csv.reader(file))
    probabilities = model(image[None]).flatten().softmax(0)
    rows = sheet[4 : 4 + len(probabilities)]
    found = torch.tensor([float(row[3].rstrip("%")) / 100 for row in rows])
    torch.testing.assert_close(found, probabilities, atol=1e-5, rtol=0)
    assert [row[0] for row in rows][:2] == ["=1+1", "<b>bold</b>"]
    assert sheet[5 + len(rows)][:2] == ["predicted class", rows[int(probabilities.argmax())][0]]
