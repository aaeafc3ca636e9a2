"""A clip's packets decode to the bits of the whole file, whatever the codec, the container and the order of frames."""

import re
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.decode import clip_frames, decode_clip
from pipeline.errors import BadVideo
from pipeline.graph import ClipGraph, GraphSpec
from pipeline.matroska import to_matroska
from pipeline.plan import ClipPlan
from pipeline.record import CLOSED, DISPOSABLE, OPEN, PLAIN, VideoRecord
from pipeline.scanning import scan
from pipeline.slicing import PacketSlice, needed_packets, slice_clip
from pipeline.tars import list_tar
from pipeline.verify import slices_decode_alike
from tests.conftest import moving_frames
from tests.pipeline.test_tars import write_tar

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


def encode(
    path: Path,
    stream: Stream,
    frames: np.ndarray,
    *,
    fps: int = 25,
    pixel_format: str = "yuv420p",
    colorspace: int = 2,
    color_range: int = 0,
    options: dict[str, str] | None = None,
) -> None:
    with av.open(str(path), "w") as container:
        options = dict(options or OPTIONS.get(stream.encoder, {}))
        if stream.options:
            options[f"{stream.encoder.removeprefix('lib')}-params"] = stream.options
        out = container.add_stream(stream.encoder, rate=Fraction(fps), options=options)
        assert isinstance(out, av.VideoStream)
        out.height, out.width = frames.shape[1:3]
        out.pix_fmt = "yuvj420p" if stream.encoder == "mjpeg" else pixel_format
        if colorspace != 2:
            out.codec_context.colorspace, out.codec_context.color_range = colorspace, color_range
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


def test_dali_shows_vp8_with_hidden_frames_as_ffmpeg_does(video: Callable[..., Path], tmp_path: Path) -> None:
    path = tmp_path / "hidden.webm"
    packets = [bytearray(data) for data in packets_of(video("vp8", num_frames=50))]
    for number in (0, 5, 19, 25, 26):  # FFmpeg's libvpx makes such frames in two passes only
        packets[number][0] &= 0xEF
    remux(video("vp8", num_frames=50), path, [bytes(data) for data in packets])
    record = scan(path)
    assert (record.frames < 0).sum() == 5
    assert record.joinable
    wanted = np.array([0, 3, 6, 9, 17, 21, 24, 44])
    box, size = (0, 0, record.width, record.height), (record.width, record.height)
    graph = ClipGraph(GraphSpec(len(wanted), False, False, "dali"), size[0], 1, "cpu", 1)
    shown = graph([graph.read(record, ClipPlan(wanted, wanted, box, False, size))])[0].rgb[0].numpy()
    expected = decode_clip(record, wanted, box, False, size)
    error = np.abs(shown.astype(int) - expected).mean(axis=(1, 2, 3))
    others = np.abs(shown.astype(int) - np.roll(expected, 1, axis=0)).mean(axis=(1, 2, 3))
    assert (error * 2 < others).all()
    assert slices_decode_alike(record, "cpu")


def test_times_in_a_matroska_stream_never_go_back(video: Callable[..., Path], tmp_path: Path) -> None:
    record = scan(video("vp8"))
    frames = np.arange(30_010)
    frames[[0, 500, 30_004, 30_009]] = -1  # hidden
    first = np.arange(len(frames)) == 0
    path = tmp_path / "long.mkv"
    path.write_bytes(to_matroska(record, PacketSlice([memoryview(bytes(4))] * len(frames), frames, first)).tobytes())
    with av.open(str(path)) as container:
        times = [packet.pts for packet in container.demux(video=0) if packet.size]
    assert len(times) == len(frames)
    assert times == sorted(times)  # type: ignore[type-var]
    assert times[500] == times[501]


def remux(source: Path, target: Path, packets: list[bytes]) -> None:
    """Write packets, one a frame, into a container with the headers of another file."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream: Any = new.add_stream_from_template(old.streams.video[0])
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


def test_packed_b_frames_are_cut_as_ffmpeg_shows_them(encoded: Callable[[Stream], Path], tmp_path: Path) -> None:
    source = encoded(next(s for s in STREAMS if s.encoder == "mpeg4" and s.suffix == ".avi" and s.bframes))
    packets, packed = packets_of(source), []
    while packets:  # a packet of a reference and a B-frame, then the next B-frame or, for the last, a placeholder
        group = [packets.pop(0)]
        while packets and packets[0][packets[0].find(b"\0\0\1\xb6") + 4] >> 6 == 2:
            group.append(packets.pop(0))
        packed += [b"".join(group[:2]), *group[2:]] + [b"\x7f"] * (len(group) > 1)
    divx = b"\0\0\1\xb2DivX503b1393p"
    packed[0] = packed[0].replace(b"\0\0\1\xb6", divx + b"\0\0\1\xb6", 1)
    path = tmp_path / "packed.avi"
    remux(source, path, packed)
    record, whole = scan(path), all_frames(path)
    assert record.sliceable
    assert not record.joinable
    assert record.num_frames == len(whole) == NUM_FRAMES
    for number in range(NUM_FRAMES):
        assert_same(record, whole, np.array([number]))


def test_headers_that_change_midway_are_minded(encoded: Callable[[Stream], Path], tmp_path: Path) -> None:
    """MPEG-4's I-frames bring their own; H.264's decoder keeps them, also for the next video."""
    for encoder, options, sliceable in (("mpeg4", "", True), ("libx264", "ref=1:scenecut=0", False)):
        first = encoded(next(s for s in STREAMS if s[:2] == (encoder, ".avi") and not s.bframes))
        second = tmp_path / f"{encoder}_other.avi"
        encode(second, Stream(encoder, ".avi", set(), options=options), moving_frames(NUM_FRAMES, seed=1), fps=30)
        path = tmp_path / f"{encoder}.avi"
        remux(first, path, packets_of(first) + packets_of(second))
        record, whole = scan(path), all_frames(path)
        assert record.sliceable == sliceable, encoder
        assert record.num_frames == len(whole) == 2 * NUM_FRAMES
        box = (0, 0, 96, 72)
        wanted = np.array([3, 48, 53, 61, 99])
        with av.open(str(path)) as container:
            rgb = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        np.testing.assert_array_equal(decode_clip(record, wanted, box, False, (96, 72)), rgb[wanted])


def test_jpegs_without_tables_of_their_own_are_cut_unless_they_use_those_of_others(tmp_path: Path) -> None:
    source = tmp_path / "source.avi"
    encode(source, Stream("mjpeg", ".avi", set()), moving_frames(12), options={"huffman": "default"})

    def bare(data: bytes) -> bytes:
        at = data.index(b"\xff\xc4")
        return data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") :]

    packets = packets_of(source)
    for name, changed, sliceable in (
        ("none", [bare(data) for data in packets], True),
        ("first", [packets[0], *(bare(data) for data in packets[1:])], False),
    ):
        remux(source, tmp_path / f"{name}.avi", changed)
        record, whole = scan(tmp_path / f"{name}.avi"), all_frames(tmp_path / f"{name}.avi")
        assert record.sliceable == sliceable
        np.testing.assert_array_equal(whole, all_frames(source))
        if sliceable:
            assert_same(record, whole, np.array([2, 7, 11]))


def test_h264_that_is_decoded_by_its_encoders_name_is_not_cut(tmp_path: Path) -> None:
    path = tmp_path / "yuv444.mp4"
    stream = Stream("libx264", ".mp4", set(), options="scenecut=0:cabac=0")  # with CABAC the wrong name would damage it
    encode(path, stream, moving_frames(30), pixel_format="yuv444p")
    assert scan(path).sliceable
    data = path.read_bytes()
    at = data.index(b"x264 - core ") + 12
    path.write_bytes(data[:at] + b"148" + data[at + 3 :])
    record = scan(path)
    assert not record.sliceable
    assert record.num_frames == 30


def test_colours_that_only_the_container_tells_are_those_of_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "bt709.mkv"
    encode(path, Stream("mpeg4", ".mkv", set()), moving_frames(), colorspace=1, color_range=1)
    record = scan(path)
    with av.open(str(path)) as container:
        rgb = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert (record.colorspace, record.color_range) == (1, 1)
    assert record.sliceable
    np.testing.assert_array_equal(decode_clip(record, np.array([9, 30]), (0, 0, 96, 72), False, (96, 72)), rgb[[9, 30]])


def test_disposable_frames_are_left_out_unless_wanted(encoded: Callable[[Stream], Path]) -> None:
    record = scan(encoded(STREAMS[0]))
    for wanted in (np.array([12]), np.array([3, 20, 41]), np.arange(50)):
        packets, _ = needed_packets(record, wanted)
        left_in = set(record.frames[packets[record.roles[packets] == DISPOSABLE]].tolist())
        assert left_in <= set(wanted.tolist())


def table(frames: list[int], roles: list[int]) -> VideoRecord:
    """A record of nothing but a packet table."""
    size = len(frames)
    arrays = np.arange(size) * 10, np.full(size, 10, np.int32), np.array(roles, np.int8), np.array(frames, np.int32)
    shape = ("h264", "avc1", "yuv420p", 2, 0, 96, 72, 0, 25.0)
    return VideoRecord("none.mp4", *shape, max(frames) + 1, True, True, 0, b"", size * 10, 0, *arrays)


def test_leading_frames_start_at_the_access_point_before_and_runs_merge() -> None:
    #       decoding order:   I0 P3 b1 b2  I6 b4 b5  P7  I9 b8
    record = table([0, 3, 1, 2, 6, 4, 5, 7, 9, 8], [3, 0, 1, 1, 2, 1, 1, 0, 3, 1])

    def runs(*wanted: int, closed: bool = False) -> list[list[int]]:
        packets, first = needed_packets(record, np.array(wanted), closed=closed)
        return [run.tolist() for run in np.split(packets, np.flatnonzero(first)[1:])]

    assert runs(2) == [[0, 1, 3]]
    assert runs(6) == [[4]]
    assert runs(7) == [[4, 7]]
    assert runs(5) == [[0, 1, 4, 6]], "a leading frame needs what is before the open access point"
    assert runs(5, 7) == [[0, 1, 4, 6, 7]], "overlapping runs are one"
    assert runs(0, 7) == [[0], [4, 7]]
    assert runs(8) == [[8, 9]], "a closed one yields even what is displayed before it"
    assert runs(3, 6) == [[0, 1], [4]]
    assert runs(7, closed=True) == [[0, 1, 4, 7]]
    second_field = table([0, -1, 1, -1, 2, -1], [3, 0, 1, 1, 0, 0])
    assert needed_packets(second_field, np.array([1]))[0].tolist() == [0, 1, 2, 3]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_packet_table_gives_packets_that_hold_the_frames_or_is_called_damaged(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 40))
    sane = data.draw(st.booleans())
    numbers = st.permutations(range(size)) if sane else st.lists(st.integers(-3, size), min_size=size, max_size=size)
    frames = data.draw(numbers)
    roles = [CLOSED, *data.draw(st.lists(st.integers(0, 3), min_size=size - 1, max_size=size - 1))]
    record = table([*frames, size], [*roles, 0])
    wanted = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=8)))
    try:
        packets, first = needed_packets(record, wanted, closed=data.draw(st.booleans()))
    except BadVideo:
        assert not sane
        return
    assert (np.diff(packets) > 0).all()
    assert packets[0] >= 0
    assert packets[-1] <= size
    assert first[0]
    assert not sane or set(wanted.tolist()) <= set(record.frames[packets].tolist())
    for run in np.split(packets, np.flatnonzero(first)[1:]):
        assert run[0] == 0 or record.roles[run[0]] >= OPEN
        absent = np.setdiff1d(np.arange(run[0], run[-1]), run)
        assert (record.roles[absent] == DISPOSABLE).all(), "only those are left out"


@pytest.mark.parametrize("codec", ["h264", "mpeg4", "vp8", "hevc"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_table_never_crashes_the_decoder_or_reads_outside_the_file(
    data: st.DataObject, codec: str, video: Callable[..., Path], tmp_path: Path
) -> None:
    record = scan(video(codec, num_frames=12))
    size = len(record.sizes)
    columns = {}
    extremes = {
        "offsets": st.integers(-(2**63), 2**63 - 1) | st.integers(-10, record.file_size + 10),
        "sizes": st.integers(-(2**31), 2**31 - 1) | st.integers(-1, 2000),
        "roles": st.integers(-128, 127) | st.integers(0, 3),
        "frames": st.integers(-(2**31), 2**31 - 1) | st.integers(-1, 12),
    }
    for name, values in extremes.items():
        columns[name] = getattr(record, name).copy()
        for at, value in data.draw(st.lists(st.tuples(st.integers(0, size - 1), values), max_size=2), label=name):
            columns[name][at] = value
    damaged = replace(record, **columns)
    wanted = np.array(data.draw(st.lists(st.integers(0, 11), min_size=1, max_size=5)))
    if not (in_tar := tmp_path / "0.tar").exists():
        write_tar(in_tar, {"before.mp4": b"x" * 10**5, "a.mp4": Path(record.path).read_bytes(), "c.mp4": b"x" * 10**5})
    twin = replace(damaged, tar=str(in_tar), start=list_tar(in_tar).videos["a.mp4"][0])
    twin = replace(twin, tar_size=in_tar.stat().st_size, mtime_ns=in_tar.stat().st_mtime_ns)
    try:
        clip = slice_clip(damaged, wanted)
        assert sum(map(len, clip.packets)) <= record.file_size * len(clip.packets)
        assert slice_clip(twin, wanted).packets == clip.packets
        decode_clip(damaged, wanted, (0, 0, 96, 72), False, (16, 16))
    except BadVideo as error:
        assert record.path in str(error)  # noqa: PT017 - some damage does no harm
        with pytest.raises(BadVideo, match=re.escape(error.reason)):
            decode_clip(twin, wanted, (0, 0, 96, 72), False, (16, 16))
