"""Tables and charts of README.md and docs/ are drawn from the results, and those that are stale are found.

A document holds the section NAME between ``<!-- benchmarks:NAME -->`` and ``<!-- /benchmarks:NAME -->``; what stands
there comes from ``benchmarks/results/NAME.json`` and from nowhere else.  Text is compared to the letter.  The bytes of
a chart depend on the builds of matplotlib and FreeType, so they are not compared: a chart is stale when the digest in
its metadata, where it cannot be parted from it, is not that of its record and of the function that draws it.

    python -m benchmarks report --check

Exit status: 0 if all is drawn, 1 if ``--check`` finds something stale, 2 where a section and a record do not match.
"""

import inspect
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from benchmarks import results
from benchmarks.results import Record, to_json
from pipeline.errors import InputError

ROOT = Path(__file__).parents[1]
SECTIONS = {
    "peers": "peers_table",
    "step": "step_table",
    "source": "source",
    "soak": "soak",
    "resume": "resume",
    "ablation_motions": "ablation_table",
    "ablation_real": "ablation_table",
    "methods": "methods",
    "method-costs": "method_costs",
    "stages": "stages_page",
    "loader": "loader",
    "end-to-end": "end_to_end",
    "reference_step": "reference_step",
    "decode_to_loss": "decode_to_loss",
    "roofline": "roofline_page",
    "growth": "growth_page",
}
"""By section, which is also the name of its record, the module here that shows it: by ``markdown(record) -> str`` and,
where there is something to see, ``chart(record, path)``, the first line of whose docstring says what is seen, or
``charts(record)``, which has by name what draws the charts that its Markdown refers to."""

_MARK = re.compile(r"<!-- /?benchmarks:([\w-]+) -->")
_SECTION = re.compile(r"(<!-- benchmarks:([\w-]+) -->\n)(.*?)(<!-- /benchmarks:\2 -->)", re.DOTALL)
_DIGEST = "Digest of the data"


@dataclass(frozen=True, kw_only=True)
class Report:
    """Draw the tables and charts of the documents anew from the results."""

    check: bool = False
    """Change nothing: say what is stale."""


class Stale(NamedTuple):
    """A file that is not what the results say.

    Attributes:
        what: the file, and which sections of it.
        mend: writes it anew.
    """

    what: str
    mend: Callable[[], object]


class Section(NamedTuple):
    """What a document shows of a record."""

    record: Record
    module: ModuleType


def run(report: Report) -> int:
    """Draw what is stale, or only say so.

    Raises:
        InputError: a document and the results do not match.
    """
    found = stale(ROOT)
    for one in found:
        if report.check:
            print(f"{one.what}: stale, draw anew by python -m benchmarks report", file=sys.stderr)
        else:
            one.mend()
            print(f"{one.what}: drawn anew")
    if not found:
        print("all tables and charts are as the results say")
    return 1 if report.check and found else 0


def stale(root: Path) -> list[Stale]:
    """What does not show what the records say.

    Args:
        root: folder with README.md, docs/ and benchmarks/results/.

    Raises:
        InputError: a section is not closed, unknown, or without a record; a record is in no document.
    """
    folder = root / "benchmarks" / "results"
    found: list[Stale] = []
    shown: dict[str, Section] = {}
    for document in (root / "README.md", *sorted((root / "docs").glob("*.md"))):
        text = document.read_text()
        name = str(document.relative_to(root))
        sections = {section: _section(section, folder, name) for section in _names(text, name)}
        shown |= sections
        drawn, old = text, []
        for start, section, body, end in _SECTION.findall(text):
            wanted = _body(section, sections[section], document, root)
            if wanted != body:
                old.append(section)
                drawn = drawn.replace(f"{start}{body}{end}", f"{start}{wanted}{end}")
        if old:
            found.append(Stale(f"{name}, {' and '.join(old)}", partial(document.write_text, drawn)))
    if unseen := sorted({path.stem for path in folder.glob("*.json")} - shown.keys()):
        raise InputError(
            f"{folder.relative_to(root)}/{unseen[0]}.json is shown by no document: mark a section for it in one, or "
            "keep results of your own elsewhere (--results DIR)"
        )
    return found + list(_stale_charts(shown, root))


def _names(text: str, document: str) -> list[str]:
    """Sections of a document."""
    names = [section for _, section, _, _ in _SECTION.findall(text)]
    marks = _MARK.findall(text)
    for name in marks:
        if marks.count(name) != 2 * names.count(name):
            raise InputError(f"{document}: section {name} is not between one mark that opens and one that closes it")
    return names


def _section(name: str, folder: Path, document: str) -> Section:
    if name not in SECTIONS:
        raise InputError(
            f"{document}: section {name} is unknown: SECTIONS of benchmarks/report.py has to say who draws it"
        )
    try:
        return Section(results.read(folder / f"{name}.json"), import_module(f"benchmarks.{SECTIONS[name]}"))
    except InputError as error:
        raise InputError(f"{document}: section {name} has no result: {error}") from error


def _body(name: str, section: Section, document: Path, root: Path) -> str:
    parts = [section.module.markdown(section.record)]
    if hasattr(section.module, "chart"):
        seen = (inspect.getdoc(section.module.chart) or name).splitlines()[0]
        parts.append(f"![{seen}]({os.path.relpath(_chart_path(name, root), document.parent)})")
    parts.append(_provenance(name, section.record, document, root))
    return "\n" + "\n\n".join(parts) + "\n\n"


def _provenance(name: str, record: Record, document: Path, root: Path) -> str:
    """Where and of what the numbers are, in one line."""
    gpus = record.hardware["gpus"]
    machine = [
        *([record.hardware["cpu"]] if record.hardware["cpu"] else []),
        f"{record.hardware['cores']} cores",
        ", ".join(gpus) if gpus else "no GPU",
        *([f"torch {record.versions['torch']}"] if "torch" in record.versions else []),
        f"commit {_short(record.commit)}" if record.commit else "commit unknown",
    ]
    file = os.path.relpath(root / "benchmarks" / "results" / f"{name}.json", document.parent)
    return f"<sub>{', '.join(machine)}: [{name}.json]({file})</sub>"


def _short(commit: str) -> str:
    digits, dash, dirty = commit.partition("-")
    return f"{digits[:7]}{dash}{dirty}"


def _chart_path(name: str, root: Path) -> Path:
    return root / "docs" / "charts" / f"{name}.png"


def _stale_charts(shown: dict[str, Section], root: Path) -> Iterator[Stale]:
    for section, (record, module) in shown.items():
        charts = {section: partial(module.chart, record)} if hasattr(module, "chart") else {}
        charts |= module.charts(record) if hasattr(module, "charts") else {}
        for name, chart in charts.items():
            path = _chart_path(name, root)
            if _drawn_from(path) != (digest := _digest(record, chart.func)):
                yield Stale(str(path.relative_to(root)), partial(_draw, chart, path, digest))


def _digest(record: Record, chart: Callable[..., None]) -> str:
    """Of the record and the function's own lines; what that calls is not seen."""
    return sha256((json.dumps(to_json(record), sort_keys=True) + inspect.getsource(chart)).encode()).hexdigest()


def _drawn_from(path: Path) -> str | None:
    """The digest that a chart was drawn from, None if there is no such chart."""
    try:
        with Image.open(path) as image:
            return image.info.get(_DIGEST)
    except OSError:
        return None


def _draw(chart: Callable[[Path], None], path: Path, digest: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    chart(path)
    metadata = PngInfo()
    metadata.add_text(_DIGEST, digest)
    with Image.open(path) as image:
        image.load()
        image.save(path, pnginfo=metadata, optimize=True)


def main() -> None:
    """Command line: the fields of :class:`Report`."""
    results.main(Report, run)


if __name__ == "__main__":
    main()
