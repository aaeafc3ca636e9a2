"""The checks a GPU is to pass, rehearsed on the CPU: they pass where they should, and fail where something is wrong."""

import json
import re
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import pipeline.strong
from benchmarks import gpu_check
from benchmarks.gpu_checks import CHECKS, decoding, hardware, profiles, ranks, running, steps, views
from benchmarks.gpu_checks.bench import FAIL, INFO, PASS, SKIP, VARIANTS, Bench, Check, Finding, decode, make_bench
from pipeline.errors import InputError
from pipeline.graph import ClipGraph
from pipeline.plan import ClipSpec
from pipeline.record import VideoRecord
from tests.forks import run_ranks
from train.hardware import NAMES, HardwareMonitor
from train.methods import METHODS

SPEC = ClipSpec(clip_len=4, frame_stride=2, size=32, eval_size=40)
# Another name for the CPU: it is told from the CPU that the device is compared with.
DEVICE = "cpu:0"
ON_CPU = {"vp9", "mjpeg", "vp8"}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("bench")
    return make_bench(DEVICE, folder, SPEC, num_frames=40, width=96, height=72)


@pytest.fixture
def mjpeg_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr("benchmarks.gpu_checks.bench.VARIANTS", {"mjpeg": ("mjpeg", 0)})
    return bench


def verdicts(findings: Iterator[Finding]) -> dict[str, str]:
    return {finding.subject: finding.verdict for finding in findings}


def test_graphs_are_built(bench: Bench) -> None:
    assert verdicts(decoding.check_build(bench)) == {"graph with ffmpeg": PASS, "graph with dali": PASS}


def test_slices_pass_for_the_codecs_of_the_device_and_the_others_are_named(bench: Bench) -> None:
    found = verdicts(decoding.check_slices(bench))
    assert found == {variant: PASS if variant in ON_CPU else SKIP for variant in VARIANTS}


@pytest.mark.parametrize(
    ("wrong", "note"),
    [("slice", "slice and whole file differ"), ("whole", "frames .* are not those asked for")],
)
def test_a_decoder_that_delivers_another_frame_fails(
    wrong: str, note: str, mjpeg_alone: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = decode

    def one_late(record: VideoRecord, numbers: np.ndarray, device: str) -> torch.Tensor:
        late = numbers.copy()
        late[5] += record.sliceable == (wrong == "slice")
        return right(record, late, device)

    monkeypatch.setattr(decoding, "decode", one_late)
    (finding,) = decoding.check_slices(mjpeg_alone)
    assert finding.verdict == FAIL
    assert re.search(note, finding.note)


def test_two_ranks_pass_and_one_gpu_is_too_few(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "spawn", run_ranks)
    assert verdicts(ranks.check_ranks(bench)) == {"terms": PASS, "gradients": PASS, "buffers": PASS}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert verdicts(ranks.check_ranks(replace(bench, device="cuda"))) == {"two ranks": SKIP}


def test_what_a_rank_has_not_got_or_got_wrong_is_an_error() -> None:
    expected = {"a": torch.tensor([0.0, 2.0]), "b": torch.tensor(torch.nan)}
    assert ranks.relative_error(expected, {**expected, "a": torch.tensor([0.5, 2.0])}) == 0.25
    assert ranks.relative_error(expected, {**expected, "a": torch.tensor([0.5, torch.nan])}) > 1e9


def test_a_decoder_that_fails_is_a_verdict(mjpeg_alone: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(record: VideoRecord, numbers: np.ndarray, device: str) -> torch.Tensor:
        raise RuntimeError("Critical error in pipeline:\nno session left")

    monkeypatch.setattr(decoding, "decode", fail)
    (finding,) = decoding.check_slices(mjpeg_alone)
    assert finding == Finding("mjpeg", FAIL, "the whole file does not decode: no session left")


def test_pixels_and_seeking_are_measured(bench: Bench) -> None:
    assert verdicts(decoding.check_pixels(bench)) == dict.fromkeys(ON_CPU, PASS)
    found = list(decoding.check_seeking(bench))
    assert {finding.subject: finding.verdict for finding in found} == dict.fromkeys(ON_CPU, INFO)
    assert all("frame 30" in finding.note for finding in found)


def test_operations_pass_and_one_that_is_off_fails_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    right = views._graph

    def off(spec: ClipSpec, device: str) -> ClipGraph:
        with monkeypatch.context() as patch:
            if device == DEVICE:
                patch.setattr(pipeline.strong, "CUTOUT_FILL", 125)
            return right(spec, device)

    assert set(verdicts(views.check_operations(bench)).values()) == {PASS}
    monkeypatch.setattr(views, "_graph", off)
    found = verdicts(views.check_operations(bench))
    assert len(found) == 17
    assert [subject for subject, verdict in found.items() if verdict == FAIL] == ["cutout"]


def test_views_that_are_overwritten_fail(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(verdicts(views.check_lifetime(bench)).values()) == {PASS}
    run = ClipGraph.__call__
    kept: list[torch.Tensor] = []

    def reuse(graph: ClipGraph, samples: list[dict[str, np.ndarray]]) -> object:
        weak, strong = run(graph, samples)
        kept.append(weak.rgb)
        kept[0].copy_(weak.rgb)  # all share the first one's memory
        return weak._replace(rgb=kept[0]), strong

    monkeypatch.setattr(ClipGraph, "__call__", reuse)
    assert verdicts(views.check_lifetime(bench))["views that are kept"] == FAIL


def test_faults_pass_and_a_video_left_out_unjustly_fails(mjpeg_alone: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    (finding,) = running.check_faults(mjpeg_alone)
    assert finding.verdict == PASS, finding
    assert finding.note.endswith("deleted video named, damaged one named")

    def damage_another(path: Path, record: VideoRecord) -> None:
        path.with_name("10.avi").write_bytes(b"")

    monkeypatch.setattr(running, "damage_packets", damage_another)
    (finding,) = running.check_faults(mjpeg_alone)
    assert finding.verdict == FAIL
    assert "left out: ['03.avi', '10.avi']" in finding.note


def test_steps_pass_in_every_form_of_the_cpu_and_one_that_computes_something_else_fails(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "BACKEND", "aot_eager")
    monkeypatch.setattr(steps, "METHODS", {"supervised": METHODS["supervised"]})
    expected = {"waiting": SKIP, "bf16": PASS, "fp16": PASS, "compiled": PASS, "compiled, bf16, CUDA graphs": SKIP}
    expected = {f"supervised: {form}": verdict for form, verdict in expected.items()}
    assert verdicts(steps.check_steps(bench)) == expected
    monkeypatch.setattr(steps, "SAME", {"fp32": 1e-3, "bf16": 0.0, "fp16": 2e-2})
    assert verdicts(steps.check_steps(bench)) == expected | {"supervised: bf16": FAIL}


def test_a_profile_passes_and_one_without_a_range_or_of_an_idle_gpu_fails(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = {"ranges": PASS, "the GPU's work": SKIP, "NVTX": SKIP}
    assert verdicts(profiles.check_profile(bench)) == passed
    monkeypatch.setattr("train.methods.temporal_gradient.eager_range", lambda name: nullcontext())
    monkeypatch.setattr(Bench, "device_type", "cuda")
    monkeypatch.setattr(torch.cuda.nvtx, "range_push", lambda name: -1)
    monkeypatch.setattr(torch.cuda.nvtx, "range_pop", lambda: -1)
    assert verdicts(profiles.check_profile(bench)) == dict.fromkeys(passed, FAIL)


def test_threads_are_swept(mjpeg_alone: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "THREADS", (1, 2))
    monkeypatch.setattr(running, "_SPEED_S", 0.1)
    monkeypatch.setattr(running, "_SPEED_WARMUP_S", 0.1)
    found = verdicts(running.check_threads(mjpeg_alone))
    assert found == dict.fromkeys(("1 threads", "2 threads", "best", "decoder ffmpeg"), INFO)


def test_numbers_of_the_machine_are_told_and_missing_ones_fail(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_BUSY_S", 0.05)
    on_gpu = ("gpu_pct", "nvdec_pct", "gpu_memory_gib", "gpu_power_w", "gpu_peak_memory_gib")
    on_cpu = ("cpu_pct", "memory_gib", "peak_memory_gib")
    assert verdicts(hardware.check_hardware(bench)) == {**dict.fromkeys(on_gpu, SKIP), **dict.fromkeys(on_cpu, PASS)}
    sample = {**dict.fromkeys(NAMES, 1.0), "gpu_pct": 0.0}
    del sample["memory_gib"]
    monkeypatch.setattr(HardwareMonitor, "sample", lambda self: sample)
    found = verdicts(hardware.check_hardware(bench))
    assert [name for name, verdict in found.items() if verdict == FAIL] == ["gpu_pct", "memory_gib"]


def test_memory_that_grows_fails_and_too_few_batches_tell_nothing(
    mjpeg_alone: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "_MEMORY_S", 0.2)
    assert verdicts(running.check_memory(mjpeg_alone)) == {"host": SKIP}
    flat = [1000.0 + n % 7 for n in range(200)]
    warming_up = [*range(500, 1000, 10), *flat[50:]]
    assert running.memory_finding("device", flat).verdict == PASS
    assert running.memory_finding("device", warming_up).verdict == PASS
    assert running.memory_finding("device", [1000.0 + n for n in range(200)]).verdict == FAIL


def test_without_a_gpu_it_says_so_and_exits_with_3(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_check.run(gpu_check.GpuCheck(results=tmp_path)) == 3
    lines = capsys.readouterr().out.splitlines()
    assert "no GPU" in lines[0]
    assert json.loads(lines[-1])["findings"] == []
    assert not list(tmp_path.iterdir())


def passes_then_dies(bench: Bench) -> Iterator[Finding]:
    yield Finding(bench.device, PASS, "[as] it is")
    raise RuntimeError("the end")


@pytest.mark.parametrize("budget_s", [60.0, 0.0])
def test_a_check_that_fails_or_has_no_time_left_is_in_the_table_and_in_the_result(
    budget_s: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, bench: Bench
) -> None:
    monkeypatch.setattr(gpu_check, "CHECKS", {"build": Check(passes_then_dies, limit_s=60)})
    monkeypatch.setattr(gpu_check, "make_bench", lambda device, folder: bench)
    options = gpu_check.GpuCheck(device="cpu", budget_s=budget_s, results=tmp_path)
    exit_status = gpu_check.run(options)
    output = capsys.readouterr().out
    result = json.loads(output.splitlines()[-1])
    assert result == json.loads((tmp_path / "gpu-check-rehearsal.json").read_text())
    if budget_s:
        assert exit_status == 1
        assert [(found["verdict"], found["note"]) for found in result["findings"]["findings"]] == [
            (PASS, "[as] it is"),
            (FAIL, "RuntimeError: the end"),
        ]
        assert "[as] it is" in output
    else:
        assert exit_status == 0
        assert [found["verdict"] for found in result["findings"]["findings"]] == [SKIP]


def test_wrong_options_are_refused_by_name() -> None:
    with pytest.raises(InputError, match="no check 'bild': choose of build"):
        gpu_check.GpuCheck(only=("bild",))
    with pytest.raises(InputError, match="unknown device 'tpu'"):
        gpu_check.GpuCheck(device="tpu")


def test_the_checks_fit_into_five_minutes_only_if_none_hangs_but_the_budget_holds_in_any_case() -> None:
    assert gpu_check.GpuCheck().budget_s < 300
    assert all(check.limit_s < gpu_check.GpuCheck().budget_s for check in CHECKS.values())
