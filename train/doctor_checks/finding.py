"""A check, its verdict, and how it is made without letting it hang or raise."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple

Verdict = Literal["ok", "warn", "fail"]


class Finding(NamedTuple):
    """What a check says.

    Attributes:
        verdict: "fail" where a run would break or lose what the machine has; "warn" where it works, with less.
        found: what there is.
        remedy: what to do about it; empty where all is well.
    """

    verdict: Verdict
    found: str
    remedy: str = ""


class Check(NamedTuple):
    """One line of the table.

    Attributes:
        name: what is looked at.
        look: gathers the facts and judges them.
        remedy: what to do where it raises.
        broken: the verdict where it raises.
        late: the verdict where it has no answer in time.
        limit_s: seconds it may take.
        imports: it imports much, which may take longer.
    """

    name: str
    look: Callable[[], Finding]
    remedy: str = ""
    broken: Verdict = "fail"
    late: Verdict = "fail"
    limit_s: float = 5.0
    imports: bool = False


def examine_all(checks: Iterable[Check], import_s: float = 30.0) -> Iterator[tuple[str, Finding]]:
    """Make checks one after the other, since modules that are imported in two threads at once may break.

    Args:
        checks: to make.
        import_s: seconds that all of those which import much may take together, beyond their own limits.

    Yields:
        The name of each and what it finds.
    """
    until = time.monotonic() + import_s
    for check in checks:
        more_s = max(0.0, until - time.monotonic()) if check.imports else 0.0
        yield check.name, examine(check._replace(limit_s=check.limit_s + more_s))


def examine(check: Check) -> Finding:
    """Make a check, whatever it does: an error becomes its finding, and so does having no answer in time.

    It is made in a thread of its own, since a file system or a driver that hangs cannot be interrupted; such a thread
    is left behind.
    """
    findings: list[Finding] = []

    def look() -> None:
        try:
            findings.append(check.look())
        except Exception as error:  # whatever it is, it is what has been found
            findings.append(Finding(check.broken, _in_one_line(error), check.remedy))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(check.limit_s)
    if findings:
        return findings[0]
    remedy = "is the machine busy, a disk slow, or does a driver hang? look again"
    return Finding(check.late, f"no answer in {check.limit_s:.0f} s", remedy)


def _in_one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
