"""Every situation that the doctor knows, from made-up facts; and the program on this machine, whatever that is."""

import io
import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.index import FILE_NAME, VideoIndex
from pipeline.pack import pack
from train.doctor import checks, describe, doctor, main, show
from train.doctor_checks.data import IndexState, judge_data, judge_index, look_at_data, look_at_index
from train.doctor_checks.finding import Check, Finding, examine, examine_all
from train.doctor_checks.gpu import (
    Driver,
    Gpu,
    judge_driver,
    judge_gpus,
    judge_nvdec,
    judge_video_library,
    num_gpus,
    nvdec_codecs,
)
from train.doctor_checks.machine import (
    judge_cores,
    judge_memory,
    judge_open_files,
    judge_run_folder,
    judge_shared_memory,
    memory_limit,
)
from train.doctor_checks.software import Ffmpeg, judge_compiler, judge_dali, judge_ffmpeg, judge_python, judge_torch

MIB, GIB = 2**20, 2**30
H100 = Gpu("NVIDIA H100 80GB HBM3", 80 * GIB, (9, 0), "bf16")
T4 = Gpu("Tesla T4", 15 * GIB, (7, 5), "fp16")
GTX1080 = Gpu("NVIDIA GeForce GTX 1080", 8 * GIB, (6, 1), "fp16")
ARCHES = ["sm_75", "sm_80", "sm_90", "sm_100", "sm_120", "compute_120"]
NEW, OLD = Driver("580.65.06", "13.0", 8), Driver("550.54.15", "12.4", 1)
INDEX = Path("videos", FILE_NAME)

SITUATIONS: dict[str, tuple[Finding, str, str]] = {
    "python": (judge_python((3, 11, 7)), "ok", "3.11.7"),
    "an old python": (judge_python((3, 10, 2)), "fail", "3.11 or later"),
    "torch": (judge_torch("2.14.1+cu130", "13.0", has_gpu=True), "ok", "CUDA 13.0"),
    "torch for CPUs": (judge_torch("2.14.1+cpu", None, has_gpu=False), "ok", "without CUDA"),
    "torch for CPUs beside a GPU": (judge_torch("2.14.1+cpu", None, has_gpu=True), "fail", "build for CUDA"),
    "dali": (judge_dali({"130": "2.4.0"}, "13.0"), "ok", "2.4.0 for CUDA 13"),
    "dali without torch's CUDA": (judge_dali({"120": "2.4.0"}, None), "ok", "CUDA 12"),
    "no dali": (judge_dali({}, "13.0"), "fail", "requirements.txt"),
    "two of dali": (judge_dali({"120": "2.4.0", "130": "2.4.0"}, "13.0"), "fail", "overwrite each other"),
    "dali of another CUDA": (judge_dali({"120": "2.4.0"}, "13.0"), "warn", "torch is for CUDA 13.0"),
    "ffmpeg": (judge_ffmpeg(Ffmpeg("18.1.0", (62, 28, 102), [])), "ok", "62.28.102"),
    "ffmpeg without av1": (judge_ffmpeg(Ffmpeg("18.1.0", (62, 28, 102), ["av1"])), "fail", "without a decoder of av1"),
    "compiler": (judge_compiler(None, 0), "ok", "C++"),
    "no compiler": (judge_compiler("torch.compile needs g++: install it", 0), "warn", "install it"),
    "no compiler beside a GPU": (judge_compiler("torch.compile needs g++: install it", 1), "fail", "install it"),
    "driver": (judge_driver(NEW, "13.0", has_devices=True), "ok", "580.65.06"),
    "a driver of a later minor version's": (judge_driver(NEW, "13.2", has_devices=True), "ok", "13.0"),
    "a driver too old": (judge_driver(OLD, "13.0", has_devices=True), "fail", "update it to 580 or later"),
    "no driver": (judge_driver(None, "13.0", has_devices=False), "warn", "--gpus all"),
    "a driver without its libraries": (judge_driver(None, "13.0", has_devices=True), "fail", "utility"),
    "gpus": (
        judge_gpus([H100] * 8, ARCHES, 8),
        "ok",
        "8 × NVIDIA H100 80GB HBM3, 80 GiB, compute capability 9.0, bf16",
    ),
    "an older gpu": (judge_gpus([T4], ARCHES, 1), "ok", "Tesla T4, 15 GiB, compute capability 7.5, fp16"),
    "a gpu newer than torch": (judge_gpus([H100._replace(capability=(13, 0))], ARCHES, 1), "ok", "13.0"),
    "no gpu": (judge_gpus([], [], 0), "warn", "on the CPU"),
    "a gpu that torch cannot use": (judge_gpus([], ARCHES, 1), "fail", "the driver has 1, torch can use none"),
    "a gpu too old for torch": (judge_gpus([GTX1080], ARCHES, 1), "fail", "no kernels for NVIDIA GeForce GTX 1080"),
    "nvdec": (judge_nvdec([H100] * 2, True), "ok", "7 engines: h264, hevc, vp8, vp9, mpeg4"),
    "nvdec of a gpu we do not know": (judge_nvdec([GTX1080], True), "ok", "there: h264, hevc"),
    "nvdec of a slice": (judge_nvdec([H100._replace(name="NVIDIA H100 80GB HBM3 MIG 1g.10gb")], False), "warn", "MIG"),
    "no nvdec": (judge_nvdec([], False), "ok", "not needed"),
    "video library": (judge_video_library(True, 1, "all"), "ok", "loads"),
    "no video library": (
        judge_video_library(False, 1, "compute,utility"),
        "fail",
        "NVIDIA_DRIVER_CAPABILITIES is compute,utility",
    ),
    "no video library outside containers": (judge_video_library(False, 1, None), "fail", "install libnvcuvid.so.1"),
    "no video library and no gpu": (judge_video_library(False, 0, None), "ok", "not needed"),
    "shared memory": (judge_shared_memory(8 * GIB, 8 * GIB, 8), "ok", "8.0 GiB"),
    "docker's shared memory": (judge_shared_memory(64 * MIB, 64 * MIB, 1), "ok", "64 MiB"),
    "docker's shared memory for 8 gpus": (judge_shared_memory(64 * MIB, 64 * MIB, 8), "fail", "--shm-size=1g"),
    "full shared memory": (judge_shared_memory(1000, 64 * MIB, 0), "fail", "no process can be started"),
    "no shared memory": (judge_shared_memory(0, 0, 0, "Permission denied"), "fail", "Permission denied"),
    "open files": (judge_open_files(1024, 4096), "ok", "1,024"),
    "any number of open files": (judge_open_files(resource.RLIM_INFINITY, resource.RLIM_INFINITY), "ok", "no limit"),
    "few open files": (judge_open_files(512, 524288), "warn", "ulimit -n 4096"),
    "too few open files": (judge_open_files(64, 128), "fail", "raise the hard limit"),
    "cores": (judge_cores(32, None, 8), "ok", "32 usable"),
    "one core": (judge_cores(1, None, 0), "warn", "two or more"),
    "a quota": (judge_cores(64, 4.0, 0), "warn", "OMP_NUM_THREADS=4"),
    "a quota that allows all": (judge_cores(4, 8.0, 0), "ok", "a quota of 8"),
    "few cores for gpus": (judge_cores(8, None, 8), "warn", "8 usable, for 8 GPUs"),
    "memory": (judge_memory(64 * GIB, 32 * GIB, None, 1), "ok", "64.0 GiB"),
    "little memory": (judge_memory(16 * GIB, GIB, None, 0), "fail", "the demo takes"),
    "a container's memory": (judge_memory(64 * GIB, 60 * GIB, (4 * GIB, 2 * GIB), 0), "warn", "limit of 4.0 GiB, 2.0"),
    "memory of many gpus": (judge_memory(64 * GIB, 20 * GIB, None, 8), "warn", "4.0 GiB"),
    "disk": (judge_run_folder(Path("runs"), 50 * GIB, True), "ok", "50.0 GiB"),
    "little disk": (judge_run_folder(Path("runs"), GIB, True), "warn", "checkpoints"),
    "a full disk": (judge_run_folder(Path("runs"), 3 * MIB, True), "fail", "--run.dir"),
    "a disk that cannot be written": (judge_run_folder(Path("runs"), GIB, False), "fail", "cannot be written"),
    "videos": (judge_data(Path("videos"), 1234, "3 class folders"), "ok", "1,234 videos; 3 class folders"),
    "no videos": (judge_data(Path("videos"), 0, "0 class folders"), "fail", "no videos"),
    "index": (judge_index(INDEX, IndexState(9, {}, {})), "ok", "9 videos, up to date"),
    "no index": (judge_index(INDEX, None), "warn", "python -m pipeline.index videos"),
    "an index of other files": (
        judge_index(INDEX, IndexState(9, {}, {"a.mp4": "new", "b.mp4": "gone", "c.mp4": "new"})),
        "warn",
        "out of date: 1 gone, 2 new, a.mp4 first",
    ),
    "refused videos": (judge_index(INDEX, IndexState(9, {"b.mp4": "is empty"}, {})), "warn", "b.mp4: is empty"),
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_situation_gets_its_verdict_and_whatever_is_not_well_a_remedy(situation: str) -> None:
    finding, verdict, words = SITUATIONS[situation]
    assert finding.verdict == verdict
    assert words in f"{finding.found} → {finding.remedy}"
    assert bool(finding.remedy) == (verdict != "ok")


@pytest.mark.parametrize(
    ("capability", "has_av1", "has_hevc"),
    [
        *(((5, 0), False, False), ((7, 5), False, True), ((8, 0), False, True), ((8, 6), True, True)),
        *(((8, 9), True, True), ((9, 0), False, True), ((10, 0), True, True), ((12, 0), True, True)),
    ],
)
def test_nvdec_takes_what_nvidias_table_says(capability: tuple[int, int], has_av1: bool, has_hevc: bool) -> None:
    codecs = nvdec_codecs(capability)
    assert ("av1" in codecs, "hevc" in codecs, "h264" in codecs) == (has_av1, has_hevc, True)


def test_the_tightest_control_group_counts(tmp_path: Path) -> None:
    inner = tmp_path / "box" / "job"
    inner.mkdir(parents=True)
    for folder, limit in ((tmp_path, "max"), (inner.parent, "4000"), (inner, "1000")):
        (folder / "memory.max").write_text(limit + "\n")
        (folder / "memory.current").write_text("700\n")
        (folder / "memory.stat").write_text("anon 500\ninactive_file 200\n")
    own = tmp_path / "own"
    own.write_text("0::/box/job\n")
    assert memory_limit(tmp_path, own) == (1000, 500)
    own.write_text("0::/\n")
    assert memory_limit(tmp_path, own) is None


def test_control_groups_of_version_1_are_read_too(tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    memory.mkdir()
    (memory / "memory.limit_in_bytes").write_text("9223372036854771712\n")  # no limit
    (memory / "memory.usage_in_bytes").write_text("5\n")
    (memory / "memory.stat").write_text("total_inactive_file 0\n")
    own = tmp_path / "own"
    own.write_text("3:cpu,cpuacct:/docker/abc\n2:memory:/docker/abc\n0::/\n")  # folders that a container does not see
    assert memory_limit(tmp_path, own) is None


def test_a_check_that_raises_or_hangs_is_a_line_like_the_others() -> None:
    def broken() -> Finding:
        raise ImportError("libcudart.so.13: cannot open\nshared object file")

    finding = examine(Check("torch", broken, "install it"))
    assert finding == Finding("fail", "ImportError: libcudart.so.13: cannot open shared object file", "install it")

    forever = threading.Event()
    hanging = Check("disk", lambda: Finding("ok", str(forever.wait())), late="warn", limit_s=0.05)
    began = time.monotonic()
    found = dict(examine_all([hanging, hanging._replace(name="again", imports=True)], import_s=0.2))
    forever.set()
    assert found["disk"].verdict == found["again"].verdict == "warn"
    assert "no answer" in found["disk"].found
    assert 0.25 <= time.monotonic() - began < 3


def test_hidden_gpus_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.doctor_checks.gpu._driver", lambda: NEW)
    for shown, number in ((None, 8), ("", 0), ("-1", 0), ("3", 1), ("0,1", 2)):
        if shown is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
        assert num_gpus() == number


def test_a_folder_is_judged_without_opening_a_video(tmp_path: Path) -> None:
    assert look_at_data(tmp_path / "none").verdict == "fail"
    assert look_at_data(tmp_path).verdict == "fail"
    for name in ("jump", "run"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.mp4").write_bytes(b"no video at all")
    assert look_at_data(tmp_path) == Finding("ok", f"{tmp_path}: 2 videos; 2 class folders")
    (tmp_path / "stray.mp4").touch()
    assert "stray.mp4 lies in no class folder" in look_at_data(tmp_path).found


def test_videos_in_tars_are_counted_and_classed_as_loose_ones_are(tmp_path: Path) -> None:
    loose, packed = tmp_path / "loose", tmp_path / "packed"
    for name in ("jump/a.mp4", "jump/b.mp4", "wave/c.mp4"):
        (loose / name).parent.mkdir(parents=True, exist_ok=True)
        (loose / name).write_bytes(name.encode())
    pack(loose, packed)
    assert look_at_data(packed) == Finding("ok", f"{packed}: 3 videos; 2 class folders")


def test_an_index_is_looked_at_as_runs_would_use_it(tmp_path: Path, video: Callable[..., Path]) -> None:
    (tmp_path / "left").mkdir()
    os.link(video("mjpeg"), tmp_path / "left" / "a.avi")
    VideoIndex.build(tmp_path, num_workers=1, progress=False).save(tmp_path / FILE_NAME)
    assert look_at_index(tmp_path) == Finding("ok", "1 videos, up to date")
    (tmp_path / "left" / "b.avi").write_bytes(b"new")
    assert "out of date: 1 new, left/b.avi first" in look_at_index(tmp_path).found
    (tmp_path / FILE_NAME).write_bytes(b"rubbish")
    assert look_at_index(tmp_path).verdict == "warn"
    assert "runs will not use it" in look_at_index(tmp_path).found


def test_the_table_shows_names_as_they_are() -> None:
    written = io.StringIO()
    show(Console(markup=False, file=written), [("index", Finding("warn", "[red]a.mp4[/red]", "rename [it]"))])
    text = written.getvalue()
    assert "[red]a.mp4[/red]" in text
    assert "→ rename [it]" in text
    assert "0 ok, 1 warnings, 0 failures" in text


def test_the_worst_verdict_is_that_of_all() -> None:
    found = [("a", Finding("ok", "")), ("b", Finding("fail", "", "c")), ("d", Finding("warn", "", "e"))]
    assert describe(found)["verdict"] == "fail"
    assert describe(found[::2])["verdict"] == "warn"


def test_the_exit_status_tells_whether_something_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [Check("a", lambda: Finding("ok", "there")), Check("b", lambda: Finding("warn", "not there", "get it"))]
    monkeypatch.setattr("train.doctor.checks", lambda *args: lines)
    monkeypatch.setattr(sys, "argv", ["doctor", "--json"])
    assert main() == 0
    assert json.loads(capsys.readouterr().out) == {
        "verdict": "warn",
        "checks": [
            {"name": "a", "verdict": "ok", "found": "there", "remedy": ""},
            {"name": "b", "verdict": "warn", "found": "not there", "remedy": "get it"},
        ],
    }
    lines.append(Check("c", lambda: Finding("fail", "broken", "mend it")))
    assert doctor(run_dir=tmp_path) == 1
    monkeypatch.setattr(sys, "argv", ["doctor", "here", "--data.root", "there"])
    assert main() == 2


def test_every_check_has_a_finding_on_this_machine(tmp_path: Path) -> None:
    found = dict(examine_all(checks(tmp_path / "none", tmp_path)))
    assert found["videos"].verdict == "fail"
    assert found["run folder"].verdict != "fail"
    assert all(finding.found for finding in found.values())
    assert found["Python"].verdict == found["DALI"].verdict == found["FFmpeg"].verdict == "ok"


def test_nothing_heavy_is_loaded_before_it_is_looked_at() -> None:
    code = "import sys, train.doctor; print([name for name in ('torch', 'nvidia.dali', 'av') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"
