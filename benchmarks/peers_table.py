"""The table and the chart of what loaders were measured to do; measuring them is left to :mod:`benchmarks.peers`."""

from itertools import chain
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.charts import save_png
from benchmarks.peers import OURS, REFERENCE
from benchmarks.results import Record, Series
from benchmarks.tables import spread, times
from benchmarks.verdicts import markdown_verdicts
from train.tables import markdown_table

TITLES = {
    "h264": "H.264 as downloaded",
    "prepared_h264": "prepared, H.264",
    "mjpeg": "prepared, MJPEG",
    "vp8": "prepared, VP8",
    "torchcodec_torchvision": "torchcodec",
    "spdl_torchvision": "SPDL",
    "pyav_torchvision": "PyAV",
    "decord_torchvision": "decord",
    REFERENCE: "the paper's way",
}
_COLORS = {OURS: "#3b82f6", REFERENCE: "#f97316"}
_OTHERS = "#9ca3af"

Rates = dict[str, dict[str, Series]]
"""Clips/s by kind of file and loader."""


def markdown(record: Record) -> str:
    """The table: a row a kind of file, a column a loader, and how many times faster ours is."""
    rates = _rates(record)
    first = next(iter(rates.values()))
    names = sorted(dict.fromkeys(chain.from_iterable(rates.values())), key=lambda name: _place(name, first))
    header = ["file", *map(_title, names), "ours to the best peer", "ours to the paper's way"]
    rows = []
    for kind, by_name in rates.items():
        cells = [f"{by_name[name].median:.1f}" if name in by_name else "" for name in names]
        cells = [f"**{cell}**" if name == OURS else cell for name, cell in zip(names, cells, strict=True)]
        rows.append((_title(kind), *cells, _to_best(by_name), _to_reference(by_name, rates)))
    verdicts = markdown_verdicts(record.findings["verdicts"])
    return "\n\n".join([_caption(record, rates), markdown_table(header, rows), verdicts])


def chart(record: Record, path: Path) -> None:
    """Clips/s of each loader, by kind of file; whiskers are quartiles."""
    rates = _rates(record)
    figure = Figure(figsize=(10, 0.5 + 1.5 * ((len(rates) + 1) // 2)), layout="constrained")
    grid = figure.subplots((len(rates) + 1) // 2, 2, sharex=True, squeeze=False)
    for axes in grid.flat[len(rates) :]:
        axes.set_axis_off()
    for axes, (kind, by_name) in zip(grid.flat, rates.items(), strict=False):
        names = sorted(by_name, key=lambda name: by_name[name].median)
        medians = [by_name[name].median for name in names]
        whiskers = [
            [by_name[name].median - by_name[name].quartiles[0] for name in names],
            [by_name[name].quartiles[1] - by_name[name].median for name in names],
        ]
        colors = [_COLORS.get(name, _OTHERS) for name in names]
        bars = axes.barh([_title(name) for name in names], medians, xerr=whiskers, color=colors, ecolor="#374151")
        axes.bar_label(bars, fmt="%.1f", padding=4, fontsize=8)
        axes.set_title(_title(kind), loc="left", fontsize=10, fontweight="bold")
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8, labelbottom=True)
        axes.margins(x=0.12)
    figure.supxlabel("clips/s", fontsize=9)
    save_png(figure, path)


def _rates(record: Record) -> Rates:
    rates: Rates = {}
    for name, series in record.series.items():
        if series.unit == "clips/s":
            kind, _, loader = name.partition(": ")
            rates.setdefault(kind, {})[loader] = series
    return rates


def _title(name: str) -> str:
    return TITLES.get(name, name)


def _place(name: str, rates: dict[str, Series]) -> tuple[bool, bool, float]:
    """Ours comes first, the paper's way last, the others by their speed."""
    return name != OURS, name == REFERENCE, -rates[name].median if name in rates else 0.0


def _to_best(rates: dict[str, Series]) -> str:
    peers = {name: series for name, series in rates.items() if name not in (OURS, REFERENCE)}
    if OURS not in rates or not peers:
        return ""
    best = max(peers, key=lambda name: peers[name].median)
    return f"{spread(times(rates[OURS], peers[best]), '.2f')}, {_title(best)}"


def _to_reference(by_name: dict[str, Series], rates: Rates) -> str:
    """Against the paper's way on the files it was made for, whichever ours reads."""
    references = [its[REFERENCE] for its in rates.values() if REFERENCE in its]
    if OURS not in by_name or not references:
        return ""
    return spread(times(by_name[OURS], max(references, key=lambda series: series.median)), ".2f")


def _caption(record: Record, rates: Rates) -> str:
    """What the numbers are, and whom they lack."""
    series = next(iter(next(iter(rates.values())).values()))
    said = [f"Clips/s, medians of {len(series.values)} turns."]
    if len(series.values) > 1:
        said.append("Ratios are of the same turn, in brackets their quartiles.")
    missing = ", ".join(_title(name) for name in record.findings["missing"])
    failed = ", ".join(f"{_title(name)} ({error})" for name, error in record.findings["errors"].items())
    said += [f"Not installed: {missing}."] if missing else []
    said += [f"Failed: {failed}."] if failed else []
    return " ".join(said)
