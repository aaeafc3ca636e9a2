"""The command line: ``RECIPE --group.option value ...`` in, a configuration out.

Promises that whatever is wrong with a command line is said in :class:`~pipeline.errors.InputError` or by tyro's own
message, before anything has been done.  What the options mean is left to :mod:`train.config`.
"""

import contextlib
import difflib
import inspect
import io
import sys
from collections.abc import Collection, Sequence
from dataclasses import replace

import tyro

from pipeline.datasets import LABEL_OPTIONS
from pipeline.errors import InputError
from train.config import Config, options, with_method
from train.methods import METHODS
from train.recipes import RECIPES

PROGRAM = "python -m train"


def parse(argv: Sequence[str]) -> Config:
    """Read a command line.

    ``--run.method`` is read ahead of the rest, because it decides which options ``--method.*`` offers.  An option that
    chooses labels replaces the recipe's choice.

    Args:
        argv: the arguments after the program's name.

    Raises:
        InputError: recipe, method or option is unknown (the nearest is named), or a value makes no sense.
        SystemExit: help was asked for, or a value has the wrong type; the text has been printed.
    """
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        raise SystemExit(0 if argv else 2)
    recipe, *rest = argv
    if recipe not in RECIPES:
        raise InputError(f"no recipe {recipe!r}{_nearest(recipe, RECIPES)}; recipes are {', '.join(RECIPES)}")
    default = RECIPES[recipe]()
    method = _value_of("--run.method", rest)
    if method in METHODS:
        default = with_method(default, method)
    if any(_value_of(flag, rest) is not None for name in LABEL_OPTIONS for flag in _spellings(f"--data.{name}")):
        # One way to choose labels replaces another: that of the recipe need not be unset.
        default = replace(
            default,
            data=replace(
                default.data, labels_per_class=None, labeled_fraction=None, labeled_uniform=None, labeled_list=None
            ),
        )
    config, unknown = _parse_options(default, recipe, rest)
    if unknown:
        flags = [word for word in unknown if word.startswith("-")] or unknown
        known = [f"--{name.replace('_', '-')}" for name, _ in options(config)]
        raise InputError(f"unknown option {flags[0]}{_nearest(flags[0], known)}; `{PROGRAM} {recipe} --help` lists all")
    return config


def _parse_options(default: Config, recipe: str, argv: Sequence[str]) -> tuple[Config, list[str]]:
    """Override a recipe's options; words that are none are returned."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(
                Config,
                prog=f"{PROGRAM} {recipe}",
                description=inspect.getdoc(RECIPES[recipe]),
                args=argv,
                default=default,
                return_unknown_args=True,
                config=(tyro.conf.AvoidSubcommands,),
            )
    except SystemExit as exit_:
        # tyro frames a ValueError of our own checks in a box of several lines; one line says it as well.
        cause: BaseException | None = exit_
        while cause is not None:
            if isinstance(cause, InputError):
                raise cause from None
            cause = cause.__context__
        sys.stderr.write(printed.getvalue())
        raise


def _value_of(flag: str, argv: Sequence[str]) -> str | None:
    """The last value given to a flag, as ``--flag value`` or ``--flag=value``."""
    value = None
    for word, following in zip(argv, [*argv, ""][1:], strict=True):
        if word == flag:
            value = following
        elif word.startswith(f"{flag}="):
            value = word.removeprefix(f"{flag}=")
    return value


def _spellings(flag: str) -> tuple[str, str]:
    """An option as tyro takes it: with hyphens or with underscores."""
    return flag.replace("_", "-"), flag


def _nearest(word: str, known: Collection[str]) -> str:
    matches = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f", did you mean {matches[0]}?" if matches else ""


def _usage() -> str:
    lines = [f"usage: {PROGRAM} RECIPE [OPTIONS]", "", "recipes:"]
    for name, recipe in RECIPES.items():
        lines.append(f"  {name:13} {(inspect.getdoc(recipe) or '').splitlines()[0]}")
    lines += ["", f"`{PROGRAM} RECIPE --help` lists the options of a recipe and their defaults."]
    return "\n".join(lines)
