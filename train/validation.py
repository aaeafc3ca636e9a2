"""Validation videos shown to networks: one center clip of each during training, thirty views of each for the test.

Unlabeled ones too: before that, where BatchNorm statistics are computed anew, and between the rounds of a method.

Promises that as many videos are left out as may be, counted and named, and that a signal stops it between two videos.
Which clips those are is left to :mod:`pipeline.evaluation`, the accuracies to :mod:`train.scoring`, the statistics to
:mod:`model.precise_bn`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from model import normalize, precise_bn_statistics
from pipeline.batch import Modality
from pipeline.errors import TooManyBadVideos
from pipeline.evaluation import center_views, multi_views, precise_bn_views
from pipeline.plan import ClipSpec
from pipeline.quarantine import num_tolerated
from train.config import Config
from train.distributed import ALONE, Ranks
from train.methods import Method
from train.precision import autocast
from train.scoring import Predictions, merge_predictions, predict_center, predict_test
from train.stop import StopSignal
from train.videos import Videos

View = TypeVar("View")
Part = TypeVar("Part")

_TO_VALIDATE, _TO_JUDGE = "to validate on", "to be judged between rounds"


class Judged(NamedTuple):
    """What a method says of unlabeled videos, those of all ranks.

    Attributes:
        rows: (N,) int64 rows of the index on the host, ascending.
        judgments: (N, ...) float32 on the host.
        num_unread: videos that could not be read.
    """

    rows: Tensor
    judgments: Tensor
    num_unread: int


@dataclass(frozen=True)
class Validation:
    """Shows the validation videos of a run to its networks.

    Attributes:
        config: resolved.
        videos: the run's.
        decoder: "ffmpeg" or "dali", that of the training: evaluation must not come to differ.
        stop: asked between videos.
        skipped: why videos were left out, by path; grows.
        unread: why unlabeled videos were not judged, by path; grows.
        ranks: those that share the videos, and all get what each of them predicts.
        shown: called when the networks have seen a video, or a batch of center clips.
    """

    config: Config
    videos: Videos
    decoder: str
    stop: StopSignal
    skipped: dict[str, str] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)
    ranks: Ranks = ALONE
    shown: Callable[[], None] = lambda: None

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
        precision = self.config.run.resolved_precision
        return self._shared(lambda: predict_center(networks, self._validating(views), precision))

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
        average, precision = self.config.eval.average, self.config.run.resolved_precision
        return self._shared(lambda: predict_test(networks, self._validating(views), average, precision))

    def precise_bn(self, network: nn.Module, modality: Modality, pass_number: int) -> dict[str, Tensor]:
        """Compute a network's BatchNorm statistics anew on center clips of the unlabeled videos.

        Args:
            network: as for :meth:`center`; comes back as it was.
            modality: what it sees.
            pass_number: another one shows other videos, or others first.

        Returns:
            What :func:`model.apply_precise_bn` takes; empty where PreciseBN is off.

        Raises:
            Stopped: a signal came.
            TooManyBadVideos: more of the unlabeled videos are bad than may.
        """
        config, num_batches = self.config, self.config.eval.precise_bn_batches
        if not num_batches:
            return {}
        # As many clips as when the run began, whatever the number of ranks is by now; rounded up where it must be.
        began_with = config.run.world_size or 1
        batch_size = -(-config.eval.precise_bn_batch_size * began_with // self.ranks.world_size)
        views = precise_bn_views(
            self.videos.index,
            self.videos.split.unlabeled,
            clip_spec(config),
            seed=config.run.seed,
            pass_number=pass_number,
            batch_size=batch_size,
            num_batches=num_batches,
            tg=modality == "tg",
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
            max_bad_fraction=config.data.max_bad_fraction,
            **{**decoding(config, self.ranks), "decoder": self.decoder},
        )
        device = next(network.parameters()).device
        # Closed by hand: the traceback of whatever ends this early would keep the threads that read ahead.
        with closing(views), autocast(device, config.run.resolved_precision):
            clips = (normalize(part.of(modality).to(device)) for _, part in self._in_step(views))
            return precise_bn_statistics(network, clips, num_batches)

    def judge(self, method: Method) -> Judged:
        """Have a method judge one center clip of each unlabeled video whose label is not known.

        Args:
            method: comes back as it was.

        Raises:
            Stopped: a signal came.
            TooManyBadVideos: more of them had to be left out than may.
        """
        config, rows = self.config, self.videos.split.without_label
        views = center_views(
            self.videos.index,
            rows,
            clip_spec(config),
            batch_size=config.optim.batch_labeled + config.optim.batch_unlabeled,
            **{**self._options(method.networks), "tg": method.needs.tg, "skipped": self.unread},
        )
        watched = self.stop.watch(self._enough(views, self.unread, len(rows), _TO_JUDGE))
        device, was_training = next(method.parameters()).device, method.training
        method.eval()
        try:
            with self.ranks.together(), torch.no_grad(), autocast(device, config.run.resolved_precision):
                share = [(ids, method.judge(clips).float().cpu()) for ids, clips in watched]
        finally:
            method.train(was_training)
        ids, judgments = zip(*self._gathered(share, self.unread, len(rows), _TO_JUDGE), strict=True)
        order = torch.cat(ids).argsort()
        judged = torch.cat(ids)[order]
        return Judged(judged, torch.cat(judgments)[order], len(rows) - len(judged))

    def _in_step(self, views: Iterator[View]) -> Iterator[View]:
        """The same views; all ranks break off at the same one, since synchronised statistics need all of them."""
        while True:
            with self.ranks.together():
                self.stop.check()
                view = next(views, None)
            if view is None:
                return
            yield view

    def _shared(self, predict: Callable[[], dict[Modality, Predictions]]) -> dict[Modality, Predictions]:
        """What all ranks predict, each of its share."""
        with self.ranks.together():
            share = predict()
        if self.ranks.world_size == 1:
            return share
        val = self.videos.split.val
        return merge_predictions(self._gathered([share], self.skipped, len(val), _TO_VALIDATE), val)

    def _gathered(self, share: list[Part], skipped: dict[str, str], num_videos: int, purpose: str) -> list[Part]:
        """What all ranks made of their shares of the videos, enough of which they could read."""
        shares, reasons = zip(*self.ranks.gather((share, skipped)), strict=True)
        for theirs in reasons:
            skipped.update(theirs)
        with self.ranks.together():
            self._check_enough(skipped, num_videos, purpose)
        return [part for share in shares for part in share]

    def _options(self, networks: Mapping[Modality, nn.Module]) -> dict[str, Any]:
        return {
            **decoding(self.config, self.ranks),
            "decoder": self.decoder,
            "tg": "tg" in networks,
            "rank": self.ranks.rank,
            "world_size": self.ranks.world_size,
            "skipped": self.skipped,
        }

    def _validating(self, views: Iterable[View]) -> Iterator[View]:
        return self.stop.watch(self._enough(views, self.skipped, len(self.videos.split.val), _TO_VALIDATE))

    def _enough(
        self, views: Iterable[View], skipped: Mapping[str, str], num_videos: int, purpose: str
    ) -> Iterator[View]:
        """The same views, as long as few enough videos are skipped."""
        for view in views:
            self._check_enough(skipped, num_videos, purpose)
            yield view
            self.shown()
        self._check_enough(skipped, num_videos, purpose)

    def _check_enough(self, skipped: Mapping[str, str], num_videos: int, purpose: str) -> None:
        """Refuse accuracies over other videos: they are not the same numbers.

        One video always may be skipped, if another is left.
        """
        fraction = self.config.data.max_bad_fraction
        limit = min(num_tolerated(num_videos, fraction), num_videos - 1)
        if len(skipped) > limit:
            remedy = f"they are needed {purpose}: restore them, or raise max_bad_fraction, now {fraction:g}"
            raise TooManyBadVideos(skipped, num_videos, remedy)


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
        strong_fixed_sign=data.strong_fixed_sign,
        strong_shared_ops=data.strong_shared_ops,
    )


def decoding(config: Config, ranks: Ranks = ALONE) -> dict[str, Any]:
    """Where and how clips are decoded, alike for training and evaluation."""
    data = config.data
    return {"device": ranks.device(config.run.device), "decoder": data.decoder, "num_threads": data.num_threads}
