"""A transcoded video shows what its source shows, in the form that is cheap to cut clips from; or it is refused."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream
from hypothesis import given
from hypothesis import strategies as st

from pipeline.encode import write_video
from pipeline.errors import BadVideo
from pipeline.record import CLOSED, OPEN
from pipeline.scanning import scan
from pipeline.transcode import CODECS, Options, regular_clock, target_size, transcode
from tests.conftest import moving_frames

MILLISECOND = Fraction(1, 1000)


def run(source: Path, folder: Path, codec: str = "h264", short_side: int = 256, gop: int = 8) -> Path:
    result = folder / f"{source.stem}-{codec}{CODECS[codec].suffix}"
    transcode(source, result, Options(codec, short_side, gop))
    return result


def rgb(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


def write(path: Path, frames: np.ndarray, times: list[int], **properties: object) -> Path:
    """An H.264 file with timestamps in ms, and whatever else its stream is to have."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "12"})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.codec_context.time_base = MILLISECOND
        for name, value in properties.items():
            setattr(stream.codec_context, name, value)
        for pixels, pts in zip(frames, times, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if "colorspace" in properties:
                frame = frame.reformat(
                    format="yuv420p",
                    dst_colorspace=properties["colorspace"],  # type: ignore[arg-type]
                    dst_color_range=properties["color_range"],  # type: ignore[arg-type]
                )
            frame.pts, frame.time_base = pts, MILLISECOND
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("codec", CODECS)
def test_result_has_the_form_that_is_cut_cheaply(codec: str, video: Callable[..., Path], tmp_path: Path) -> None:
    source = video("mpeg4", bframes=2, width=320, height=240, num_frames=30)
    result = run(source, tmp_path, codec, short_side=96)
    record = scan(result)
    assert record.sliceable
    assert (record.codec, record.display_size, record.num_frames, record.fps) == (codec, (128, 96), 30, 25)
    assert record.pixel_format == CODECS[codec].pixel_format
    assert (record.roles == CLOSED).tolist() == [codec == "mjpeg" or number % 8 == 0 for number in range(30)]
    with av.open(str(result)) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        assert not container.streams.video[0].codec_context.has_b_frames
        times = [packet.pts * packet.time_base for packet in container.demux(video=0) if packet.size]  # type: ignore[operator]
    np.testing.assert_allclose(np.diff(np.array(times, float)), 0.04, atol=0.0011)  # WebM counts in milliseconds


@pytest.mark.parametrize("codec", CODECS)
def test_result_shows_what_the_source_shows(codec: str, video: Callable[..., Path], tmp_path: Path) -> None:
    source = video("h264", bframes=2, num_frames=20)
    assert psnr(rgb(run(source, tmp_path, codec)), rgb(source)) > 36


@pytest.mark.parametrize("color_range", [ColorRange.MPEG, ColorRange.JPEG])
@pytest.mark.parametrize("colorspace", [Colorspace.ITU709, Colorspace.ITU601])
def test_colours_survive_whatever_the_source_encodes_them_by(
    colorspace: Colorspace, color_range: ColorRange, tmp_path: Path
) -> None:
    patches = np.random.default_rng(0).integers(20, 235, (1, 4, 4, 3), np.uint8)
    frames = np.repeat(patches.repeat(16, axis=1).repeat(16, axis=2), 3, axis=0)
    times = [0, 40, 80]
    source = write(tmp_path / "source.mp4", frames, times, colorspace=colorspace, color_range=color_range)
    for codec in CODECS:
        found = rgb(run(source, tmp_path, codec))
        centres = found[:, 8::16, 8::16].astype(int) - frames[:, 8::16, 8::16]
        assert np.abs(centres).max() <= 12, codec
        assert np.abs(centres).mean() <= 3, codec


def test_pixels_become_square(tmp_path: Path) -> None:
    frames = moving_frames(num_frames=4, width=96, height=72)
    source = write(tmp_path / "wide.mp4", frames, [0, 40, 80, 120], sample_aspect_ratio=Fraction(4, 3))
    assert scan(run(source, tmp_path)).display_size == (128, 72)


def test_frames_are_repeated_where_time_has_a_gap(tmp_path: Path) -> None:
    frames = moving_frames(num_frames=12)
    times = [40 * number + 240 * (number > 5) for number in range(12)]
    result = run(write(tmp_path / "gap.mp4", frames, times), tmp_path, "mjpeg")
    record = scan(result)
    assert (record.num_frames, record.fps) == (18, 25)
    nearest = [int(np.abs(frames.astype(int) - shown).mean(axis=(1, 2, 3)).argmin()) for shown in rgb(result)]
    assert nearest == [0, 1, 2, 3, 4, *[5] * 7, 6, 7, 8, 9, 10, 11]


@given(st.lists(st.integers(-15, 15), min_size=3, max_size=300), st.integers(31, 100))
def test_jitter_below_a_frame_changes_nothing(jitter: list[int], interval: int) -> None:
    times = np.arange(len(jitter)) * interval + jitter
    repeats, rate = regular_clock(times, MILLISECOND, Fraction(25), len(times))
    assert (repeats == 1).all()
    assert rate == 25


@given(st.lists(st.integers(1, 4000), min_size=2, max_size=100))
def test_whatever_the_timestamps_results_stay_within_twice_the_source(gaps: list[int]) -> None:
    times = np.cumsum([0, *gaps])
    repeats, rate = regular_clock(times, MILLISECOND, Fraction(30), len(times))
    assert (repeats >= 0).all()
    assert len(times) // 2 <= int(repeats.sum()) <= 2 * len(times) + 1
    assert 0 < rate <= 480


@given(
    st.integers(1, 5000),
    st.integers(1, 5000),
    st.fractions(Fraction(1, 4), 4, max_denominator=50),
    st.integers(16, 512),
)
def test_target_sizes_are_even_and_no_larger_than_asked(
    width: int, height: int, aspect: Fraction, short_side: int
) -> None:
    found = target_size(width, height, aspect, short_side)
    assert found[0] % 2 == found[1] % 2 == 0 and min(found) >= 2
    assert min(found) <= short_side + 1
    assert found[0] <= max(2, float(width * aspect) + 1) and found[1] <= max(2, height + 1)
    if min(found) >= 16:
        assert found[0] / found[1] == pytest.approx(float(width * aspect / height), rel=0.15)


def test_damage_that_decoders_pass_over_is_refused(video: Callable[..., Path], tmp_path: Path) -> None:
    for codec in ("h264", "mpeg4"):
        data = bytearray(video(codec, num_frames=40).read_bytes())
        rng = np.random.default_rng(0)
        for at in rng.integers(len(data) // 4, len(data) * 3 // 4, 40):
            data[at] ^= 0x55
        source = tmp_path / f"damaged-{codec}{video(codec).suffix}"
        source.write_bytes(data)
        with pytest.raises(BadVideo, match="damaged"):
            run(source, tmp_path)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_open_gops_cut_at_a_recovery_point_are_taken_as_a_scan_takes_them(suffix: str, tmp_path: Path) -> None:
    whole, source = tmp_path / "whole.mkv", tmp_path / f"cut{suffix}"
    with av.open(str(whole), "w") as container:
        options = {"preset": "veryfast", "x264-params": "open-gop=1:scenecut=0:b-adapt=0"}
        stream = container.add_stream("libx264", rate=25, options=options)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 96, 72, "yuv420p"
        stream.gop_size, stream.max_b_frames, stream.thread_count = 10, 3, 1
        for pixels in moving_frames(num_frames=60):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    with av.open(str(whole)) as old, av.open(str(source), "w") as new:
        packets = [packet for packet in old.demux(video=0) if packet.size]
        times = [packet.pts or 0 for packet in packets]
        leads = [n for n in range(1, 50) if packets[n].is_keyframe and times[n + 1] < times[n]]
        assert leads, "no frame comes before the keyframe it follows, or the test shows nothing"
        copy = new.add_stream_from_template(old.streams.video[0])
        for packet in packets[leads[0] :]:
            packet.stream = copy
            new.mux(packet)
    record = scan(source)
    assert record.roles[0] == OPEN
    result = tmp_path / "result.mp4"
    assert transcode(source, result, Options("h264", 256, 8)).num_frames == record.num_frames
    assert psnr(rgb(result), rgb(source)) > 36


def test_a_full_disk_is_no_fault_of_the_video(video: Callable[..., Path], tmp_path: Path) -> None:
    result = tmp_path / "result.avi"
    result.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        transcode(video("mjpeg"), result, Options("mjpeg", 256, 8))
    assert not isinstance(caught.value, BadVideo)


def test_a_copy_that_is_not_the_source_is_refused(
    video: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(path: str, stream: int, options: dict[str, str]):  # type: ignore[no-untyped-def]
        with av.open(path) as container:
            frames = list(container.decode(video=0))
        return iter(frames[:-1] if path.endswith(".mp4") else frames)

    monkeypatch.setattr("pipeline.transcode._strict_frames", other)
    with pytest.raises(BadVideo, match="its transcoded copy has 39 frames, not 40"):
        run(video("mjpeg"), tmp_path)


def test_short_and_tiny_videos_are_kept(tmp_path: Path) -> None:
    for size, num_frames in ((2, 5), (96, 2)):
        source = tmp_path / f"{size}.avi"
        write_video(source, moving_frames(num_frames=num_frames, width=size, height=size), "mjpeg")
        for codec in CODECS:
            record = scan(run(source, tmp_path, codec))
            assert (record.num_frames, record.display_size, record.sliceable) == (num_frames, (size, size), True)


def test_odd_real_videos_come_out_upright_and_alike(odd_videos: list[Path], tmp_path: Path) -> None:
    by_name = {path.name: path for path in odd_videos}
    names = ["decord_video_180.mov", "decord_video_270.mov", "derived_5frames.avi", "torchcodec_h264_10bits.mp4"]
    for name in [*names, "mmaction2_4frames_yuv444_1464x403.mp4", "moviepy_bitmap.mp4"]:
        source = scan(by_name[name])
        result = run(by_name[name], tmp_path, short_side=4096)
        record = scan(result)
        even = tuple(max(2, 2 * round(side / 2)) for side in source.display_size)
        assert (record.rotation, record.num_frames, record.display_size) == (0, source.num_frames, even), name
        if even == source.display_size:
            upright = np.rot90(rgb(by_name[name]), source.rotation // 90, axes=(1, 2))
            assert psnr(rgb(result), upright) > 25, name
