"""The loader of this project, through its public door.

A peer's sample is one clip in all four views, which is what an unlabeled clip is here.  A batch also has labeled clips,
of which only the weak views are made: there is one of them beside UNLABELED others.  It is not counted, so its work
goes against us.
"""

from collections.abc import Iterator

from benchmarks.clips import one_class
from benchmarks.peer_loaders.common import CLIP_LEN, NUM_WORKERS, SIZE, Batch
from pipeline.batch import Needs
from pipeline.index import VideoIndex
from pipeline.loader import ClipLoader
from pipeline.plan import ClipSpec

UNLABELED = 16


def clip_loader(index: VideoIndex, size: int, batch_labeled: int, batch_unlabeled: int) -> ClipLoader:
    """The loader, with every video labeled and unlabeled at once."""
    return ClipLoader(
        index,
        one_class(index),
        Needs(tg=True, unlabeled=True, strong=True),
        ClipSpec(clip_len=CLIP_LEN, frame_stride=8, size=size),
        batch_labeled=batch_labeled,
        batch_unlabeled=batch_unlabeled,
        seed=0,
        num_threads=NUM_WORKERS,
    )


def batches(index: VideoIndex) -> Iterator[Batch]:
    """Endless batches of the unlabeled clips; the tensors are (UNLABELED, T, H, W, 3)."""
    with clip_loader(index, SIZE, 1, UNLABELED) as loader:
        for batch in loader:
            assert batch.weak is not None and batch.strong is not None
            assert batch.weak.tg is not None and batch.strong.tg is not None
            yield batch.weak.rgb, batch.weak.tg, batch.strong.rgb, batch.strong.tg
