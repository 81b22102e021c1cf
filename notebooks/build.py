"""Run the notebooks, each in a kernel of its own and with its solution, and write them as a site.

    python notebooks/build.py site --convolutions lightning_logs/convolutions

The site has the folders of the checkout, so that a link of a notebook leads to the same file there:
to a notebook, or to a page that shows a file of src/ or docs/.
"""

import argparse
import fnmatch
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
LINK = re.compile(r"\[([^\]]+)\]\((?!https?:)([^)#]+)(#[^)]*)?\)")
IMAGE = re.compile(r"!\[[^\]]*\]\([^)]+\)\n*")
CONTENTS = """
```{toctree}
:hidden:
:glob:
notebooks/*
```
"""

try:
    import jupytext
    from nbformat import NotebookNode
    from nbformat.v4 import new_code_cell
    from sphinx.cmd.build import build_main
except ModuleNotFoundError as error:
    sys.exit(f"error: {error.name} is not installed; run: pip install --group lesson")


def notebook(source: Path) -> NotebookNode:
    """The cells of a notebook; after the exercise its solution, which a reader opens."""
    found: NotebookNode = jupytext.read(source)
    solved = [cell.source for cell in jupytext.read(HERE / "solutions" / source.name).cells]
    cells = []
    for cell in found.cells:
        cells.append(cell)
        if "exercise" in cell.metadata.get("tags", []):
            shown = {"tags": ["hide-input"], "mystnb": {"code_prompt_show": "Solution"}}
            solution = new_code_cell(solved.pop(0), metadata=shown)  # type: ignore[no-untyped-call]
            cells.append(solution)
    found.cells = cells
    return found


def write_notebook(source: Path, folder: Path, run: str) -> None:
    """Write a notebook below `folder`, and a page of each file that it links to.

    It is run if its name matches the pattern `run`.
    """
    found = notebook(source)
    if not fnmatch.fnmatch(source.name, run):
        found.metadata["mystnb"] = {"execution_mode": "off"}

    def follow(match: re.Match[str]) -> str:
        text, target, _ = match.groups()
        if "lightning_logs" in target:  # a page that is none of Sphinx's
            return f'<a href="{target}">{text}</a>'
        path = (HERE / target).resolve()
        if path.parent != HERE:
            write_page(path, folder)
        suffix = ".ipynb" if path.parent == HERE else ".md"
        return f"[{text}]({target.removesuffix('.py').removesuffix('.md')}{suffix})"

    for cell in found.cells:
        if cell.cell_type == "markdown":
            cell.source = LINK.sub(follow, cell.source)
    jupytext.write(found, folder / "notebooks" / f"{source.stem}.ipynb")


def write_page(path: Path, folder: Path) -> None:
    """Show a file of the checkout: Markdown without links and images, all else as code."""
    page = (folder / path.relative_to(ROOT)).with_suffix(".md")
    page.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".md":
        text = LINK.sub(r"\1", IMAGE.sub("", path.read_text()))
    else:
        language = {".py": "python", ".yaml": "yaml"}.get(path.suffix, "text")
        text = f"# {path.relative_to(ROOT)}\n\n````{language}\n{path.read_text()}````\n"
    page.write_text(f"---\norphan: true\n---\n\n{text}")


def write_index(folder: Path) -> None:
    """The README of the notebooks, up to what their authors need."""
    text = (HERE / "README.md").read_text().partition("## The format")[0]
    (folder / "index.md").write_text(
        re.sub(r"\((\d\w+)\.py\)", r"(notebooks/\1.ipynb)", text) + CONTENTS
    )


def write_settings(folder: Path) -> None:
    """Have kernels read no settings of the user's, and print errors alone."""
    profile = folder / "profile_default"
    profile.mkdir(parents=True)
    (profile / "ipython_kernel_config.py").write_text("get_config().IPKernelApp.log_level = 40\n")
    os.environ["IPYTHONDIR"] = str(folder)


def build(output: Path, convolutions: Path, run: str) -> int:
    """Write the site to `output`, and return the status of Sphinx.

    Args:
        output: The folder of the site.
        convolutions: What `make convolutions` has written; the page and the workbook are copied.
        run: A pattern of the notebooks that are run.
    """
    data = os.environ.get("DATA", "digits")
    if Path(data).expanduser().is_dir():  # a kernel runs in another folder
        os.environ["DATA"] = str(Path(data).expanduser().resolve())
    with tempfile.TemporaryDirectory(prefix="twinloop-lesson-") as name:
        folder, site = Path(name) / "source", Path(name) / "site"
        (folder / "notebooks").mkdir(parents=True)
        for source in sorted(HERE.glob("[0-9]*.py")):
            write_notebook(source, folder, run)
        write_index(folder)
        write_settings(Path(name) / "ipython")
        status: int = build_main(["-q", "-W", "-c", str(HERE), str(folder), str(site)])
        pages = site / "lightning_logs" / "convolutions"
        pages.mkdir(parents=True)
        for file in ("convolutions.html", "convolutions.xlsx"):
            shutil.copy(convolutions / file, pages)
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(site, output, ignore=shutil.ignore_patterns(".doctrees", ".buildinfo"))
    return status


def main() -> int:
    """Build the site that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--convolutions", type=Path, required=True)
    parser.add_argument("--run", default="*", help="a pattern of the notebooks that are run")
    options = parser.parse_args()
    print("running the notebooks takes a minute or two", flush=True)
    status = build(options.output, options.convolutions, options.run)
    print(f"the lesson: {options.output}/index.html")
    return status


if __name__ == "__main__":
    sys.exit(main())
