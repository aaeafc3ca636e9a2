"""An index of 250,000 videos of 300 packets opens in under a second and stays small in memory."""

import json
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from pipeline.index import _NAMES, _NUMBERS, _PACKET, VideoIndex

NUM_VIDEOS, NUM_PACKETS, NUM_TARS = 250_000, 300, 250

# Run in a process of its own: what was resident before would hide what the index adds.
MEASURE = """
import json, sys, time
import numpy as np
from pipeline.index import VideoIndex

def resident_mb():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1e3

before = resident_mb()
began = time.perf_counter()
index = VideoIndex.load(sys.argv[1])
found = {"load_s": time.perf_counter() - began}
rows = np.random.default_rng(0).integers(0, len(index), 1000).tolist()
for row in rows:
    assert len(index[row].sizes) == 300
index.num_frames[rows], index.display_sizes[rows], index.paths[rows[0]]
found["resident_mb"] = resident_mb() - before
began = time.process_time()
for row in rows:
    index[row]
found["record_us"] = (time.process_time() - began) * 1e6 / len(rows)
for row in range(0, len(index), 8):
    index[row]
found["resident_at_end_mb"] = resident_mb() - before
for _ in range(2):  # the best of three: other work on the machine is not the index's fault
    began = time.perf_counter()
    VideoIndex.load(sys.argv[1])
    found["load_s"] = min(found["load_s"], time.perf_counter() - began)
print(json.dumps(found))
"""


class Hole(np.ndarray):
    """Zeros that take no space in memory, nor in a file."""

    def tofile(self, *args: object) -> None:
        """Leave the file as it is; it is cut to its full length at the end."""


def hole(length: int, dtype: np.dtype) -> np.ndarray:
    return np.broadcast_to(np.zeros(1, dtype), length).view(Hole)


@pytest.fixture(scope="module")
def large_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    columns: dict[str, np.ndarray] = {
        name: rng.integers(0, 2, NUM_VIDEOS).astype(dtype) for name, dtype in _NUMBERS.items()
    }
    columns |= {name: np.zeros(NUM_VIDEOS, np.int16) for name in _NAMES}
    names = [b"train/some class of actions/abcdefghijk_%06d_%06d.mp4" % (i, i + 10) for i in range(NUM_VIDEOS)]
    table = bytes(NUM_PACKETS * _PACKET.itemsize + 40)
    columns["paths"] = np.frombuffer(b"".join(names), np.uint8)
    columns["paths_end"] = np.arange(1, NUM_VIDEOS + 1) * len(names[0])
    columns["table_end"] = np.arange(1, NUM_VIDEOS + 1) * len(table)
    columns["num_packets"] = np.full(NUM_VIDEOS, NUM_PACKETS)
    columns["crc"] = np.full(NUM_VIDEOS, zlib.crc32(table), np.uint32)
    tables = hole(NUM_VIDEOS * len(table), np.dtype(np.uint8))
    path = tmp_path_factory.mktemp("large") / "index"
    columns["tar"] = np.arange(NUM_VIDEOS, dtype=np.int32) * NUM_TARS // NUM_VIDEOS
    tars = {f"train/shard-{number:05}.tar": (2**30, number) for number in range(NUM_TARS)}
    VideoIndex(Path("/data"), columns, tables, ["h264"], {}, tars).save(path)
    return path


def test_large_index_loads_within_a_second_and_stays_small(large_index: Path) -> None:
    assert large_index.stat().st_size > 1e9
    assert large_index.stat().st_blocks * 512 < 100e6  # the packets are a hole
    done = subprocess.run([sys.executable, "-c", MEASURE, str(large_index)], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    print(found)
    assert found["load_s"] < 1
    assert found["resident_mb"] < 200
    assert found["resident_at_end_mb"] < 200
    assert found["record_us"] < 100


def test_an_index_of_known_records_is_that_of_the_scan(small_index: VideoIndex, tmp_path: Path) -> None:
    records = {path: small_index[row] for row, path in reversed(list(enumerate(small_index.paths)))}
    VideoIndex.of_records(small_index.root, records).save(tmp_path / "of_records")
    small_index.save(tmp_path / "scanned")
    assert (tmp_path / "of_records").read_bytes() == (tmp_path / "scanned").read_bytes()
