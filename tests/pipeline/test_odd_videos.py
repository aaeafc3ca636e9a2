"""Real files, most with something unusual: each is used as PyAV would show it, or refused for a reason."""

from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.decode import clip_frames, decode_clip
from pipeline.errors import BadVideo
from pipeline.scanning import scan

REFUSED = {
    "derived_header_only.avi": "not a video",
    "derived_truncated_50pct.avi": "truncated",
    "derived_truncated_50pct.mp4": "truncated",
    "moviepy_result_0bytes.webm": "empty",
}
SLICEABLE = {"av1", "h264", "hevc", "mjpeg", "mpeg4", "vp8", "vp9"}
# FFmpeg converts these by its general path, where PyAV's frames and ours differ in where chroma lies between pixels.
INTERPOLATED_CHROMA = {"derived_odd_321x241.avi", "torchcodec_h264_10bits.mp4"}


def test_every_odd_video_is_refused_for_a_reason_or_decodes_as_pyav_does(odd_videos: list[Path]) -> None:
    assert len(odd_videos) >= 45
    for path in odd_videos:
        if path.name in REFUSED:
            with pytest.raises(BadVideo, match=REFUSED[path.name]):
                scan(path)
            continue
        record = scan(path)
        assert record.sliceable == (record.codec in SLICEABLE), path.name
        ends = [0, record.num_frames - 1]
        wanted = np.unique(np.append(ends, np.random.default_rng(0).integers(0, record.num_frames, 4)))
        with av.open(str(path)) as container:
            shown = [f.to_ndarray(format="rgb24") for n, f in enumerate(container.decode(video=0)) if n in wanted]
        expected = np.rot90(np.stack(shown), record.rotation // 90, axes=(1, 2))
        width, height = record.display_size
        got = decode_clip(record, wanted, (0, 0, width, height), False, (width, height))
        difference = np.abs(got.astype(int) - expected)
        if path.name in INTERPOLATED_CHROMA:
            assert difference.mean() < 3.0, path.name
        else:
            assert difference.max() == 0, path.name


def test_clips_of_real_h264_are_bit_identical_to_the_whole_file(real_videos: list[Path]) -> None:
    rng = np.random.default_rng(0)
    for path in real_videos[::12]:
        record = scan(path)
        assert record.sliceable
        with av.open(str(path)) as container:
            whole = [frame.to_ndarray() for frame in container.decode(video=0)]
        assert record.num_frames == len(whole)
        for _ in range(3):
            wanted = np.unique(rng.integers(0, len(whole), 3) + np.arange(2)[:, None]).clip(max=len(whole) - 1)
            sliced = {number: frame.to_ndarray() for number, frame in clip_frames(record, np.unique(wanted))}
            assert sorted(sliced) == np.unique(wanted).tolist()
            assert all(np.array_equal(pixels, whole[number]) for number, pixels in sliced.items()), path.name
