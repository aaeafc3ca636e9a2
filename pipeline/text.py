"""Texts from outside, such as file names, made fit for terminals and logs: characters that steer are spelled out."""

import re

# Characters that do something to a terminal instead of being shown, and those that turn the direction of what follows.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def spelled_out(text: str) -> str:
    r"""A text of one line without control characters: a file that is called "\x1b[2J" must not clear the screen."""
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


def lines_spelled_out(text: str) -> str:
    """As :func:`spelled_out`, of a text whose line ends are meant."""
    return "\n".join(map(spelled_out, text.split("\n")))


def printable(text: str) -> str:
    """As :func:`spelled_out`, and fit to be written as UTF-8 too, whatever bytes a file name had."""
    return spelled_out(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def printable_lines(text: str) -> str:
    """As :func:`printable`, of a text whose line ends are meant."""
    return "\n".join(map(printable, text.split("\n")))
