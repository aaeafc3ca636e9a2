"""Validation videos shown to networks: one center clip of each during training, thirty views of each for the test.

Promises that as many videos are left out as may be, counted and named, and that a signal stops it between two videos.
Which clips those are is left to :mod:`pipeline.evaluation`, the accuracies to :mod:`train.scoring`.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import nn

from pipeline.batch import Modality
from pipeline.errors import TooManyBadVideos
from pipeline.evaluation import center_views, multi_views
from pipeline.plan import ClipSpec
from pipeline.quarantine import num_tolerated
from train.config import Config
from train.scoring import Predictions, predict_center, predict_test
from train.stop import StopSignal
from train.videos import Videos

View = TypeVar("View")


@dataclass(frozen=True)
class Validation:
    """Shows the validation videos of a run to its networks.

    Attributes:
        config: resolved.
        videos: the run's.
        decoder: "ffmpeg" or "dali", that of the training: evaluation must not come to differ.
        stop: asked between videos.
        skipped: why videos were left out, by path; grows.
    """

    config: Config
    videos: Videos
    decoder: str
    stop: StopSignal
    skipped: dict[str, str] = field(default_factory=dict)

    def center(self, networks: Mapping[Modality, nn.Module]) -> dict[Modality, Predictions]:
        """Predict from one center clip of each video.

        Args:
            networks: by the modality they see; normalised clips in, (logits, features) out.

        Raises:
            Stopped: a signal came.
            TooManyBadVideos: more videos had to be left out than may.
        """
        batch_size = self.config.optim.batch_labeled + self.config.optim.batch_unlabeled
        rows = self.videos.split.val
        views = center_views(
            self.videos.index, rows, clip_spec(self.config), batch_size=batch_size, **self._options(networks)
        )
        return predict_center(networks, self.stop.watch(self._enough(views)))

    def test(self, networks: Mapping[Modality, nn.Module]) -> dict[Modality, Predictions]:
        """Predict from 10 clips x 3 crops of each video.

        Args:
            networks: as for :meth:`center`.

        Raises:
            Stopped: a signal came.
            TooManyBadVideos: more videos had to be left out than may.
        """
        rows = self.videos.split.val
        views = multi_views(self.videos.index, rows, clip_spec(self.config), **self._options(networks))
        return predict_test(networks, self.stop.watch(self._enough(views)))

    def _options(self, networks: Mapping[Modality, nn.Module]) -> dict[str, Any]:
        return {**decoding(self.config), "decoder": self.decoder, "tg": "tg" in networks, "skipped": self.skipped}

    def _enough(self, views: Iterable[View]) -> Iterator[View]:
        """The same views, as long as few enough videos are skipped: accuracies over others are not the same numbers.

        One video always may be, if another is left.
        """
        num_videos, fraction = len(self.videos.split.val), self.config.data.max_bad_fraction
        limit = min(num_tolerated(num_videos, fraction), num_videos - 1)
        for view in views:
            if len(self.skipped) > limit:
                break
            yield view
        if len(self.skipped) > limit:
            remedy = f"they are needed to validate on: restore them, or raise max_bad_fraction, now {fraction:g}"
            raise TooManyBadVideos(self.skipped, num_videos, remedy)


def clip_spec(config: Config) -> ClipSpec:
    """What a clip is, for the pipeline."""
    data = config.data
    return ClipSpec(
        clip_len=data.clip_len,
        frame_stride=data.frame_stride,
        size=data.size,
        eval_size=data.eval_size,
        min_crop_area=data.min_crop_area,
        flip=data.flip,
        tg_stride=data.tg_stride,
        tg_form=data.tg_form,
    )


def decoding(config: Config) -> dict[str, Any]:
    """Where and how clips are decoded, alike for training and evaluation."""
    data = config.data
    return {"device": config.run.device, "decoder": data.decoder, "num_threads": data.num_threads}
