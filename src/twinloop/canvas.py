"""A matplotlib figure that a notebook shows, and that changes no setting of matplotlib."""

from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure
from matplotlib.text import Text

from twinloop.figures import as_png


class PlainFigure(Figure):
    """Takes names as they are: a $ in one is not mathematics."""

    def draw(self, renderer: RendererBase) -> None:
        for text in self.findobj(Text):
            text.set_parse_math(False)
        super().draw(renderer)

    def _repr_png_(self) -> bytes:
        """What a notebook shows where the figure is the last line of a cell."""
        return as_png(self)
