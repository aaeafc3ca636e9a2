"""The table of a comparison: how it follows from what the runs gave, and what the paper has beside it.

Promises numbers that follow from the outcomes alone; training is left to :mod:`train.compare`.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

from pipeline.errors import InputError
from train.methods import METHODS
from train.paper_results import BACKBONES, SETTINGS, TOP1
from train.tables import Grid, mean_and_std, plus_minus

_ELSEWHERE = "ucf101-20pct"  # the paper's column where the recipe is none of the paper's: orders can be compared
_BASE = "supervised"  # what unlabeled videos have to be worth something over
_BESIDE = "†"


def summarize(outcomes: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What the runs of each method come to, in the order of METHODS; accuracies in %.

    Seeds differ far more than methods do, so "over_supervised" is of differences between runs from the same seed.

    Args:
        outcomes: "method", "seed" and what :func:`train.sweep.measured` tells.

    Raises:
        InputError: runs took different numbers of steps, so that they cannot be compared.
    """
    lengths = {one["steps"]: f"{one['method']}, seed {one['seed']} took {one['steps']} steps" for one in outcomes}
    if len(lengths) > 1:
        raise InputError(f"not the same number of steps: {'; '.join(lengths.values())}: remove the runs of one length")
    base = {one["seed"]: one["top1"] for one in outcomes if one["method"] == _BASE}
    summary = {}
    for method in METHODS:
        seeds = [one for one in outcomes if one["method"] == method]
        gains = [one["top1"] - base[one["seed"]] for one in seeds if one["seed"] in base and method != _BASE]
        if seeds:
            summary[method] = {
                "num_seeds": len(seeds),
                "top1": mean_and_std([one["top1"] for one in seeds]),
                "over_supervised": mean_and_std(gains) if gains else None,
                "mean_class": mean_and_std([one["mean_class"] for one in seeds]),
                **{name: median(one[name] for one in seeds) for name in ("clips_per_s", "step_ms")},
                "beside": any(one["beside"] for one in seeds),
                **{name: max(_told(seeds, name), default=None) for name in ("memory_gib", "gpu_memory_gib")},
                **{name: _mean(_told(seeds, name)) for name in ("late_mask_rate", "late_pseudo_label_accuracy")},
            }
    return summary


def _told(seeds: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [one[name] for one in seeds if one[name] is not None]


def _mean(values: Sequence[float]) -> float | None:
    return round(fmean(values), 4) if values else None


def grid(found: Mapping[str, Any]) -> Grid:
    """The table.

    Args:
        found: as :func:`train.compare.train_methods` returns it.
    """
    methods, recipe = found["methods"], found["recipe"]
    if recipe in SETTINGS:
        paper_column = f"paper, {SETTINGS[recipe]}"
    else:
        recipe, paper_column = _ELSEWHERE, f"paper, {SETTINGS[_ELSEWHERE]}, not these videos"
    columns = {
        "method": list(methods),
        "top-1 %": [plus_minus(one["top1"]) for one in methods.values()],
        "over supervised": [plus_minus(one["over_supervised"], "+") for one in methods.values()],
        "mean of classes %": [plus_minus(one["mean_class"]) for one in methods.values()],
        "pseudo-labels kept %": [_percent(one["late_mask_rate"]) for one in methods.values()],
        "of these right %": [_percent(one["late_pseudo_label_accuracy"]) for one in methods.values()],
        "clips/s": [f"{one['clips_per_s']:.0f}{_BESIDE * one['beside']}" for one in methods.values()],
        "ms a step": [f"{one['step_ms']:.0f}{_BESIDE * one['beside']}" for one in methods.values()],
        "memory, GiB": [_gib(one["memory_gib"]) for one in methods.values()],
        "GPU memory, GiB": [_gib(one["gpu_memory_gib"]) for one in methods.values()],
        paper_column: [paper(method, recipe) for method in methods],
    }
    told = {head: cells for head, cells in columns.items() if any(cells)}
    return Grid("", tuple(told), tuple(zip(*told.values(), strict=True)))


def paper(method: str, recipe: str) -> str:
    """The paper's top-1 of a method, with the backbone where that is not R3D-18; "" where there is no number."""
    top1 = TOP1.get(method, {}).get(recipe)
    return "" if top1 is None else ", ".join([f"{top1}", *([BACKBONES[method]] if method in BACKBONES else [])])


def _percent(fraction: float | None) -> str:
    return "" if fraction is None else f"{100 * fraction:.0f}"


def _gib(memory: float | None) -> str:
    return "" if memory is None else f"{memory:.2f}"


def notes(found: Mapping[str, Any]) -> list[str]:
    """What has to be known beside the table, a sentence or two each."""
    numbers = [one["num_seeds"] for one in found["methods"].values()]
    few, many = min(numbers), max(numbers)
    seeds = f"{few} to {many} seeds" if few < many else f"{many} seed{'s' * (many > 1)}"
    words = [found["recipe"], found["options"], *(f"--set {one}" for one in found["set"])]
    lines = [
        f"`{' '.join(filter(None, words))}`: {seeds}, {found['steps']} steps each; ± is the sample standard deviation "
        "over seeds. Pseudo-labels are those of the last quarter of the steps, memory is the most that was taken. "
        "clips/s counts labeled clips and, where a method takes some, unlabeled ones, each once."
    ]
    if any(one["beside"] for one in found["methods"].values()):
        lines.append(f"{_BESIDE} measured beside other runs, which took their share of the cores.")
    lines += [f"FAILED and left out: {one['method']}, seed {one['seed']}: {one['reason']}" for one in found["failed"]]
    return lines


def markdown_of(found: Mapping[str, Any]) -> str:
    """The table with its notes, for a document."""
    first, *others = notes(found)
    return "\n\n".join([first, grid(found).markdown(), *others])
