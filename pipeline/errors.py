"""The two errors a user of the programs is meant to see, as opposed to our own mistakes."""


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
