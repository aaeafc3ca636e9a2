"""Random numbers beside those of training, which draws what it would have without them.

Promises that other texts give other numbers.  Those of clips are left to :mod:`pipeline.plan`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b

import torch


def seed_of(*parts: object) -> int:
    """A seed in [0, 2**32) that follows from what it is for.

    Hashed, since the generator of CPUs takes 32 bits of a seed and other runs have the seeds beside this one's.
    """
    return int.from_bytes(blake2b("/".join(map(str, parts)).encode(), digest_size=4).digest())


@contextmanager
def drawing_apart(device: torch.device, seed: int) -> Iterator[None]:
    """Context in which torch's generators begin with a seed; afterwards they go on as if nothing had been drawn.

    Args:
        device: that of a GPU has a generator too.
        seed: in [0, 2**32).
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
