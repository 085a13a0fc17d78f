"""An empty canvas, and a finished drawing as SVG: the only module that knows matplotlib.

Colours of ink and lines are CSS variables with a value for light and one for dark, text stays text in the reader's own
font, and equal input gives equal bytes.
"""

import colorsys
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rewire.report.sections import FLAGSHIP

INK, LINE = "#24292e", "#d0d6dc"
_THEME = (
    "<style>:root{--ink:#24292e;--line:#d0d6dc}"
    "@media (prefers-color-scheme:dark){:root{--ink:#dfe4ea;--line:#3d444d}}</style>"
)
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_FLAGSHIP_COLOUR = "#d4511e"
_COLOURS: Final = ("#2f7fc1", "#1f9e77", "#a05fc4", "#c09a12", "#d0578f", "#4aa8b8", "#7d8b2f", "#9a6b4a")
_MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p")
_WIDTH: Final = 4.8  # inches: at 350 pixels, a phone's column, text of 10 points is still 10 pixels high


def canvas(rows: int = 1, height: float = 2.7) -> tuple[Any, Sequence[Any]]:
    """Returns an empty figure of that many panels one above the other, and its axes."""
    try:
        import matplotlib
        from matplotlib.figure import Figure as Drawing
    except ImportError as error:
        raise ImportError(
            'matplotlib is not installed, and figures need it. Type: pip install "rewire[cli]"'
        ) from error
    with matplotlib.rc_context(_STYLE):
        figure = Drawing(figsize=(_WIDTH, height + 1.1 * (rows - 1)), layout="constrained")
        return figure, figure.subplots(rows, sharex=True, squeeze=False)[:, 0].tolist()


_STYLE: Final[Any] = {
    "font.size": 10,
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "text.parse_math": False,
}


def svg(figure: Any, name: str, *, with_legend: bool = True) -> str:
    """Returns the figure as an SVG document, its legend below."""
    import matplotlib

    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": name}):
        if with_legend:
            handles, labels = figure.axes[0].get_legend_handles_labels()
            columns = 2 if max(map(len, labels)) > 14 else 4
            legend_height = 0.2 * math.ceil(len(labels) / columns) + 0.1
            figure.set_figheight(figure.get_figheight() + legend_height)
            figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=9, handlelength=1.8)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "var(--ink)").replace(LINE, "var(--line)")
    text = re.sub(r"'DejaVu Sans'[^;\"]*", _FONT, text)
    head, _, rest = text.partition(">")
    return f"{head}>{_THEME}{rest}"


def legend(looks: Mapping[str, dict[str, Any]], name: str) -> str:
    """Returns a legend alone, for several figures without one, as an SVG document."""
    figure, (axes,) = canvas(height=0.3)
    axes.set_axis_off()
    for label, look in looks.items():
        axes.plot([], [], **look, label=label)
    return svg(figure, name)


def by_what_is_missing(axes: Any) -> None:
    """Spaces the y axis, in percent, by the logarithm of what is missing to 100, so that the best stand apart."""
    import numpy

    def place(percent: Any) -> Any:
        return -numpy.log(101 - numpy.minimum(percent, 100.9))  # 101, because 100 itself must have a place

    low, high = max(axes.get_ylim()[0], 0.0), min(axes.get_ylim()[1], 100.0)
    axes.set_yscale("function", functions=(place, lambda at: 101 - numpy.exp(-at)))
    axes.set_ylim(low, high)
    ticks: list[float] = []
    for tick in (100, 99, 98, 95, *range(90, -1, -10)):
        near = ticks and place(ticks[-1]) - place(tick) < 0.1 * (place(high) - place(low))
        if low <= tick <= high and not near:
            ticks.append(tick)
    if len(ticks) > 2:
        axes.set_yticks(ticks)


def looks_of(labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Returns colour, marker and line of each label: the flagship always has the same colour, its variants kin.

    No two of up to 80 methods share both colour and marker.
    """
    methods = list(dict.fromkeys(label.split()[0] for label in labels))
    others = [method for method in methods if method not in (FLAGSHIP, "dense")]
    colours = {method: _COLOURS[place % len(_COLOURS)] for place, method in enumerate(others)}
    markers = {method: place + place // len(_COLOURS) for place, method in enumerate(others)}  # so that no pair repeats
    colours |= {FLAGSHIP: _FLAGSHIP_COLOUR, "dense": INK}
    looks = {}
    for label in labels:
        method = label.split()[0]
        variants = [other for other in labels if other.split()[0] == method]
        variant = variants.index(label)
        turn = 0.45 * variant / len(variants)
        looks[label] = {
            "color": _turned(colours[method], turn) if turn else colours[method],
            "marker": _MARKERS[(markers.get(method, 0) + variant) % len(_MARKERS)],
            "linestyle": (0, (2, 1)) if turn else "-",
            "linewidth": 1.5,
            "markersize": 4.5,
            "zorder": 3 if method == FLAGSHIP else 2,
        }
    return looks


def _turned(colour: str, turn: float) -> str:
    """Returns the colour moved round the colour circle by a part of a turn."""
    red, green, blue = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    hue, light, strength = colorsys.rgb_to_hls(red, green, blue)
    turned = colorsys.hls_to_rgb((hue - turn) % 1, max(light, 0.58), strength)  # blue must stand out on dark
    return "#" + "".join(f"{round(255 * part):02x}" for part in turned)
