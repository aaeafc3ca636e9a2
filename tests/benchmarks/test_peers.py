"""The comparison is fair, its sums are right, and a peer that cannot run costs nothing but its own line."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import peers
from benchmarks.peer_loaders import common, pyav_torchvision
from benchmarks.peer_loaders.check import check_views
from benchmarks.turns import Speed
from pipeline.decode import decode_clip
from pipeline.errors import InputError
from pipeline.graph import ClipGraph, GraphSpec
from pipeline.index import VideoIndex
from pipeline.plan import StrongPlan
from pipeline.strong import OPS, strong_parameters


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, video: Callable[..., Path]) -> VideoIndex:
    folder = tmp_path_factory.mktemp("peers")
    for number, codec in enumerate(("mjpeg", "vp8", "h264")):
        source = video(codec, num_frames=70, width=160, height=120, seed=number)
        (folder / f"{number}{source.suffix}").write_bytes(source.read_bytes())
    return VideoIndex.build(folder, num_workers=1, progress=False)


def test_a_peer_shows_what_was_planned(index: VideoIndex) -> None:
    records = {index[row].path: index[row] for row in range(3)}
    for sample in common.draw_samples(index, 6):
        weak, tg, *strong = (view.permute(0, 2, 3, 1).numpy() for view in pyav_torchvision._load(sample))
        assert all(view.shape == (8, 224, 224, 3) and view.dtype == np.uint8 for view in (weak, tg, *strong))
        plan = sample.plan
        frames = decode_clip(records[sample.path], np.array(sample.frames), plan.box, plan.flip, plan.size)
        # Grey: the two convert colour differently.
        expected, shown = (clip.mean(axis=-1) for clip in (frames[:8], weak))
        apart = [np.abs(expected - np.roll(shown, shift, axis=0)).mean() for shift in (0, 1, -1)]
        assert apart[0] < min(apart[1:]) / 4
        assert np.abs((expected - frames[8:].mean(axis=-1) + 255) / 2 - tg.mean(axis=-1)).mean() < 2


def test_the_strong_operations_of_the_peers_are_ours() -> None:
    size = common.SIZE
    y, x = np.mgrid[:size, :size]
    picture = np.stack([x * 0.9, 40 + 0.7 * y, 128 + 60 * np.sin(x / 9 + y / 14)], axis=-1).astype(np.uint8)
    frames = np.stack([np.roll(picture, 3 * t, axis=1) for t in range(common.CLIP_LEN)])
    graph = ClipGraph(GraphSpec(common.CLIP_LEN, tg=False, strong=True, decoder="ffmpeg"), size, 1, "cpu", 1)
    clip = torch.from_numpy(frames).permute(0, 3, 1, 2)
    for op in range(len(OPS) - 1):
        plan = StrongPlan((op, OPS.index("cutout")), (-1, -1), (0.3, 0.6))
        parameters = strong_parameters(plan, size)._asdict()
        _, strong = graph([{"frames": frames} | {f"rgb_{name}": value for name, value in parameters.items()}])
        assert strong is not None
        theirs = common._strong(clip, plan).permute(0, 2, 3, 1)
        apart = (strong.rgb[0].short() - theirs.short()).abs().float().mean()
        # DALI equalizes by another formula than PIL and torchvision.
        assert apart < (6 if OPS[op] == "equalize" else 1), (OPS[op], apart)


def test_loaders_run_in_turns(index: VideoIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "index"
    index.save(path)
    monkeypatch.setattr(peers, "WARMUP_CLIPS", 1)
    entrants = [("h264", "ours"), ("h264", "no_such_loader")]
    speeds, errors = peers._take_turns(
        entrants, {"h264": path}, peers.PeersBenchmark(rounds=9, seconds=0.1, budget_s=0.1)
    )
    (speed,) = speeds.pop(entrants[0])
    assert speed.clips_per_s > 0
    assert speed.cpu_ms_per_clip > 0
    assert not speeds
    assert list(errors) == entrants[1:]
    assert "no_such_loader" in errors[entrants[1]]


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "PEERS", {"a": (), "b": ("torch", "no_such_package"), "c": ("torch",)})
    assert peers.missing_packages() == {"b": ("no_such_package",)}


def test_ratios_are_taken_within_rounds_and_judged_against_the_best_peer() -> None:
    def rounds(*clips_per_s: float) -> list[Speed]:
        return [Speed(rate, 1000 / rate) for rate in clips_per_s]

    # The machine is half as fast in the second round, for all.
    speeds = {
        ("h264", "ours"): rounds(30, 15, 33),
        ("h264", "reference"): rounds(10, 5, 10),
        ("h264", "pyav_torchvision"): rounds(20, 10, 20),
        ("h264", "spdl_torchvision"): rounds(26, 13, 26),
        ("mjpeg", "ours"): rounds(29, 28, 30),
        ("mjpeg", "spdl_torchvision"): rounds(20, 20, 20),
    }
    row = peers.summarize(speeds)["h264"]["reference"]
    assert (row["clips_per_s"], row["clips_per_s_min"], row["clips_per_s_max"]) == (10, 5, 10)
    assert row["cpu_ms_per_clip"] == 100
    assert row["ours_is_times_faster"] == 3
    assert row["times_our_cpu"] == 3
    found = {
        name: (round(verdict["ratio"], 2), verdict["met"]) for name, verdict in peers.find_verdicts(speeds).items()
    }
    assert found == {
        "h264_over_best_peer": (1.15, False),
        "mjpeg_over_best_peer": (1.45, True),
        "best_over_reference": (3.0, True),  # H.264 has the better median
    }
    assert peers.find_verdicts({entrant: turns for entrant, turns in speeds.items() if entrant[1] != "ours"}) == {}
    series = peers.to_series(speeds)
    assert list(series["h264: ours"].values) == [30, 15, 33]
    assert series["mjpeg: spdl_torchvision, cpu"].median == 50


def test_a_peer_that_shows_something_else_is_refused(index: VideoIndex) -> None:
    samples = common.draw_samples(index, 4)
    views = [list(view) for view in zip(*(pyav_torchvision._load(sample) for sample in samples), strict=True)]

    def check(*views: list[torch.Tensor]) -> None:
        check_views(index, samples, tuple(torch.stack(view) for view in views))

    check(*views)
    rgb, tg, strong_rgb, strong_tg = views
    with pytest.raises(InputError, match="weak views are not those planned"):
        check(rgb[1:] + rgb[:1], tg, strong_rgb, strong_tg)
    with pytest.raises(InputError, match="weak views are not those planned"):
        check(rgb, [255 - one for one in tg], strong_rgb, strong_tg)
    with pytest.raises(InputError, match="weak views are not those planned"):
        check([one.flip(-1) for one in rgb], tg, strong_rgb, strong_tg)
    later = [sample._replace(plan=replace(sample.plan, frames=sample.plan.later)) for sample in samples]
    with pytest.raises(InputError, match="weak views are not those planned"):
        check([pyav_torchvision._load(sample)[0] for sample in later], tg, strong_rgb, strong_tg)
    with pytest.raises(InputError, match="strong views are the weak ones"):
        check(rgb, tg, rgb, strong_tg)


def test_labeled_clips_have_their_weak_views_only_in_any_size(index: VideoIndex) -> None:
    samples = common.draw_samples(index, 1, size=64)
    (whole,) = (pyav_torchvision._load(sample) for sample in samples)
    (weak,) = (pyav_torchvision._load(sample) for sample in common.without_strong(samples))
    assert [view.shape for view in whole] == [(8, 3, 64, 64)] * 4
    assert len(weak) == 2
    assert all(torch.equal(*pair) for pair in zip(weak, whole, strict=False))


@pytest.mark.skipif("reference" in peers.missing_packages(), reason="decord, OpenCV or imgaug is not installed")
def test_the_papers_workers_normalise_what_they_show(index: VideoIndex) -> None:
    from benchmarks.peer_loaders import reference
    from model import normalize

    samples = common.without_strong(common.draw_samples(index, 2, size=64))
    shown, normalized = (next(reference.batches(samples, 2, normalized=flag)) for flag in (False, True))
    for view, expected in zip(normalized, map(normalize, shown), strict=True):
        assert view.shape == (2, 3, 8, 64, 64)
        assert view.is_contiguous()
        torch.testing.assert_close(view, expected.contiguous(), atol=1e-5, rtol=1e-5)
