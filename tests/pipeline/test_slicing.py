"""A clip's packets decode to the bits of the whole file, whatever the codec, the container and the order of frames."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import pytest
from conftest import moving_frames

from pipeline.decode import clip_frames
from pipeline.matroska import to_matroska
from pipeline.record import CLOSED, DISPOSABLE, OPEN, PLAIN, VideoRecord
from pipeline.scan import scan
from pipeline.slicing import needed_packets, slice_clip

NUM_FRAMES = 50


class Stream(NamedTuple):
    """A way to encode, and what a scan must find of it."""

    encoder: str
    suffix: str
    roles: set[int]
    gop: int = 8
    bframes: int = 0
    options: str = ""
    joinable: bool = True

    def __str__(self) -> str:
        return f"{self.encoder}{self.suffix}-gop{self.gop}-b{self.bframes}-{self.options}"


CUT, B_FRAMES, OPEN_GOPS = {PLAIN, CLOSED}, {PLAIN, DISPOSABLE, CLOSED}, {PLAIN, DISPOSABLE, OPEN, CLOSED}
X264, X265 = "scenecut=0:b-pyramid=normal", "scenecut=0:log-level=error"
STREAMS = [
    *(Stream("libx264", suffix, B_FRAMES, bframes=3, options=X264) for suffix in (".mp4", ".mkv", ".mov", ".avi")),
    *(
        Stream("libx264", suffix, OPEN_GOPS, bframes=3, options=f"{X264}:open-gop=1")
        for suffix in (".mp4", ".mkv", ".avi")
    ),
    Stream("libx264", ".mp4", B_FRAMES, gop=250, bframes=3, options=X264),
    Stream("libx264", ".mp4", CUT, options=X264),
    Stream("libx264", ".avi", CUT, options=X264),
    Stream("libx264", ".mp4", B_FRAMES, bframes=2, options=f"{X264}:tff=1"),
    Stream("libx264", ".mp4", CUT, options=f"{X264}:intra-refresh=1"),
    Stream("libx265", ".mp4", B_FRAMES, bframes=3, options=f"{X265}:open-gop=0"),
    *(Stream("libx265", suffix, OPEN_GOPS, bframes=3, options=f"{X265}:open-gop=1") for suffix in (".mp4", ".mkv")),
    Stream("libx265", ".mp4", CUT, options=f"{X265}:open-gop=0"),
    *(Stream("mpeg4", suffix, CUT) for suffix in (".avi", ".mp4", ".mkv")),
    *(Stream("mpeg4", suffix, {PLAIN, OPEN, CLOSED}, bframes=2, joinable=False) for suffix in (".avi", ".mp4", ".mkv")),
    *(Stream("libsvtav1", suffix, CUT) for suffix in (".mp4", ".mkv", ".webm")),
    *(Stream("libvpx", suffix, CUT, gop=24) for suffix in (".webm", ".mkv")),
    *(Stream("libvpx-vp9", suffix, CUT, gop=24) for suffix in (".webm", ".mp4", ".mkv")),
    *(Stream("mjpeg", suffix, {CLOSED}) for suffix in (".avi", ".mov", ".mkv", ".mp4")),
]
OPTIONS = {
    "libx264": {"preset": "veryfast"},
    "libx265": {"preset": "superfast"},
    "libsvtav1": {"preset": "10", "svtav1-params": "lp=1"},
    # with frames that are never shown, and superframes
    "libvpx": {"auto-alt-ref": "1", "lag-in-frames": "16", "deadline": "good", "cpu-used": "5", "b": "300k"},
    "libvpx-vp9": {"auto-alt-ref": "1", "lag-in-frames": "16", "deadline": "good", "cpu-used": "5", "b": "300k"},
}


@pytest.fixture(scope="session")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Stream], Path]:
    folder = tmp_path_factory.mktemp("streams")

    def make(stream: Stream) -> Path:
        path = folder / f"{STREAMS.index(stream)}{stream.suffix}"
        if not path.exists():
            encode(path, stream, moving_frames(NUM_FRAMES))
        return path

    return make


def encode(path: Path, stream: Stream, frames: np.ndarray) -> None:
    with av.open(str(path), "w") as container:
        options = dict(OPTIONS.get(stream.encoder, {}))
        if stream.options:
            options[f"{stream.encoder.removeprefix('lib')}-params"] = stream.options
        out = container.add_stream(stream.encoder, rate=Fraction(25), options=options)
        assert isinstance(out, av.VideoStream)
        out.height, out.width = frames.shape[1:3]
        out.pix_fmt = "yuvj420p" if stream.encoder == "mjpeg" else "yuv420p"
        out.gop_size, out.max_b_frames, out.thread_count = stream.gop, stream.bframes, 1
        for frame in frames:
            container.mux(out.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(out.encode())


def all_frames(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray() for frame in container.decode(video=0)]


def assert_same(record: VideoRecord, whole: list[np.ndarray], wanted: np.ndarray) -> None:
    sliced = {number: frame.to_ndarray() for number, frame in clip_frames(record, wanted)}
    assert sorted(sliced) == np.unique(wanted).tolist()
    for number, pixels in sliced.items():
        np.testing.assert_array_equal(pixels, whole[number])


@pytest.mark.parametrize("stream", STREAMS, ids=str)
def test_every_frame_cut_out_is_bit_identical_to_the_whole_file(
    stream: Stream, encoded: Callable[[Stream], Path]
) -> None:
    path = encoded(stream)
    record, whole = scan(path), all_frames(path)
    assert record.sliceable
    assert record.joinable == stream.joinable
    assert record.num_frames == len(whole) == NUM_FRAMES
    assert set(record.roles.tolist()) == stream.roles
    rng = np.random.default_rng(0)
    for wanted in [*range(NUM_FRAMES), *(np.unique(rng.integers(0, NUM_FRAMES, 6)) for _ in range(10))]:
        assert_same(record, whole, np.atleast_1d(wanted))
    for wanted in (np.unique(rng.integers(0, NUM_FRAMES, 4)) for _ in range(4)):
        closed, first = needed_packets(record, wanted, closed=True)
        assert (record.roles[closed[first]] == CLOSED).all()


@pytest.mark.parametrize("stream", [stream for stream in STREAMS if stream.joinable], ids=str)
def test_matroska_of_a_slice_decodes_to_the_same_frames_in_order(
    stream: Stream, encoded: Callable[[Stream], Path], tmp_path: Path
) -> None:
    path = encoded(stream)
    record, whole = scan(path), all_frames(path)
    clip = slice_clip(record, np.array([3, 5, 16, 30, 31, 45]), closed=True)
    joined = tmp_path / "slice.mkv"
    joined.write_bytes(to_matroska(record, clip).tobytes())
    frames = all_frames(joined)
    numbers = np.sort(clip.frames[clip.frames >= 0]).tolist()
    assert len(frames) == len(numbers)
    assert {3, 5, 16, 30, 31, 45} <= set(numbers)
    for number, frame in zip(numbers, frames, strict=True):
        np.testing.assert_array_equal(frame, whole[number])


def remux(source: Path, target: Path, packets: list[bytes], extradata: bytes | None = None) -> None:
    """Write packets, one a frame, into a container with the headers of another file."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream: Any = new.add_stream_from_template(old.streams.video[0])
        if extradata is not None:
            stream.codec_context.extradata = extradata
        for number, data in enumerate(packets):
            packet: Any = av.Packet(data)
            packet.pts = packet.dts = number
            packet.time_base = Fraction(1, 25)
            packet.is_keyframe = number == 0
            packet.stream = stream
            new.mux(packet)


def packets_of(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]
