"""The errors a user of the programs is meant to see, as opposed to our own mistakes."""

from collections.abc import Mapping


class InputError(ValueError):
    """Something a user can get wrong: a path, an option, a checkpoint.

    The message names the value and the remedy.  Programs print it as one line and exit with status 2; nothing
    has been written when it is raised.
    """


class BadVideo(InputError):
    """A video file that cannot be used.

    Args:
        path: the file.
        reason: why, in words a person understands.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type["BadVideo"], tuple[str, str]]:
        return BadVideo, (self.path, self.reason)  # two arguments: the default would unpickle with one


class TooManyBadVideos(InputError):
    """More videos went bad while a run was under way than it may leave out.

    Differs from its base in that a run has begun: its checkpoint is written, and programs exit with status 1.

    Args:
        bad: reasons by relative path.
        num_videos: videos there are to draw from.
        remedy: what to do about it.
    """

    def __init__(self, bad: Mapping[str, str], num_videos: int, remedy: str) -> None:
        listed = "".join(f"\n  {path}: {reason}" for path, reason in sorted(bad.items()))
        super().__init__(f"{len(bad)} of {num_videos} videos have gone bad: {remedy}{listed}")
        self.bad = dict(bad)
