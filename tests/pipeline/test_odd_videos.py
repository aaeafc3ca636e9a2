"""Real files with something unusual: each is used as PyAV would show it, or refused for a reason."""

from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.decode import decode_clip
from pipeline.errors import BadVideo
from pipeline.scan import scan

REFUSED = {
    "derived_header_only.avi": "not a video",
    "derived_truncated_50pct.avi": "truncated",
    "derived_truncated_50pct.mp4": "truncated",
    "moviepy_result_0bytes.webm": "empty",
    "opencv_tree.avi": "announces 444 frames but 68 are there",
}
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
        wanted = np.unique(np.linspace(0, record.num_frames - 1, 4).astype(int))
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
