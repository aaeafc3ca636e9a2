"""Every codec is written as asked: same frames, one packet each, keyframes where they belong."""

from pathlib import Path

import av
import numpy as np
import pytest
from av.video.stream import VideoStream
from numpy.typing import NDArray

from pipeline.encode import ENCODERS, write_video
from pipeline.errors import InputError


def moving_bars(num_frames: int, height: int, width: int) -> NDArray[np.uint8]:
    """Smooth diagonal waves that move: (N, H, W, 3) uint8."""
    t, y, x = np.ogrid[:num_frames, :height, :width]
    waves = [127 + 100 * np.sin((x + slope * y) / 6 + t / 5) for slope in (0.5, 1, 2)]
    return np.stack(waves, axis=-1).astype(np.uint8)


def packets(path: Path) -> "list[av.Packet[VideoStream]]":  # the class takes a parameter in the stubs only
    with av.open(str(path)) as container:
        return [packet for packet in container.demux(video=0) if packet.size]


def decoded(path: Path) -> NDArray[np.uint8]:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize("codec", ENCODERS)
def test_what_was_written_is_what_is_decoded(tmp_path: Path, codec: str) -> None:
    encoder = ENCODERS[codec]
    height, width = (47, 65) if encoder.odd_sizes else (48, 64)
    frames = moving_bars(20, height, width)
    path = tmp_path / f"video{encoder.suffix}"
    write_video(path, frames, codec, fps=30, gop=8)
    found = decoded(path)
    assert found.shape == frames.shape
    assert np.abs(found.astype(int) - frames).mean() < 12  # chroma has half the resolution
    order = [int(np.abs(found.astype(int) - frame).mean(axis=(1, 2, 3)).argmin()) for frame in frames]
    assert order == list(range(20))
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == 30


@pytest.mark.parametrize("codec", ENCODERS)
def test_a_keyframe_comes_every_gop_frames_even_in_noise(tmp_path: Path, codec: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), dtype=np.uint8)
    path = tmp_path / f"video{ENCODERS[codec].suffix}"
    write_video(path, noise, codec, gop=8)
    keys = [number for number, packet in enumerate(packets(path)) if packet.is_keyframe]
    assert keys == (list(range(20)) if codec == "mjpeg" else [0, 8, 16])
    assert len(packets(path)) == 20


@pytest.mark.parametrize("codec", ENCODERS)
def test_b_frames_come_only_when_asked_for(tmp_path: Path, codec: str) -> None:
    frames, path = moving_bars(20, 64, 64), tmp_path / f"video{ENCODERS[codec].suffix}"
    write_video(path, frames, codec)
    with av.open(str(path)) as container:
        assert not container.streams.video[0].codec_context.has_b_frames
    if not ENCODERS[codec].b_frames:
        with pytest.raises(InputError, match=f"{codec} is written without B-frames"):
            write_video(path, frames, codec, bframes=2)
        return
    write_video(path, frames, codec, gop=20, bframes=2)
    with av.open(str(path)) as container:
        assert av.video.frame.PictureType.B in {frame.pict_type for frame in container.decode(video=0)}


@pytest.mark.parametrize("codec", [codec for codec in ENCODERS if codec != "hevc"])
def test_same_frames_give_the_same_bytes(tmp_path: Path, codec: str) -> None:
    contents = []
    for name in ("a", "b"):
        path = tmp_path / f"{name}{ENCODERS[codec].suffix}"
        write_video(path, moving_bars(12, 64, 64), codec)
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]


@pytest.mark.parametrize(
    ("name", "codec", "shape", "message"),
    [
        ("x.mp4", "h264", (4, 33, 64, 3), "h264 takes even sizes only, not 64x33: use mjpeg"),
        ("x.mp4", "hevc", (4, 64, 33, 3), "hevc takes even sizes only"),
        ("x.mp4", "hevc", (4, 8, 8, 3), "cannot write 8x8 hevc here .*: try another size"),
        ("x.webm", "h264", (4, 64, 64, 3), "'webm' format does not support .*try .*, .mp4"),
        ("x.txt", "mjpeg", (4, 64, 64, 3), "cannot write 64x64 mjpeg here .*.avi"),
        ("x.mp4", "divx", (4, 64, 64, 3), "unknown codec 'divx': use one of mjpeg, "),
    ],
)
def test_what_cannot_be_written_is_refused_and_leaves_nothing(
    tmp_path: Path, name: str, codec: str, shape: tuple[int, int, int, int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        write_video(tmp_path / name, np.zeros(shape, dtype=np.uint8), codec)
    assert not list(tmp_path.iterdir())
