"""Ceilings follow from their numbers: each against a case worked out by hand."""

from dataclasses import replace

import pytest

from benchmarks import ceilings
from benchmarks.ceilings import FULL_HD, ClipCost, Gpu, StepCost

# Engines do 2 x 771 frames/s at 1080p.
GPU = Gpu(
    flops_per_s=100,
    memory_bytes_per_s=10,
    nvdec="Turing",
    num_nvdec=2,
    host_bytes_per_s=50,
    node_bytes_per_s=8,
    net_bytes_per_s=4,
    cores=3,
)
CLIP = ClipCost(
    frames=10,
    pixels=FULL_HD / 4,
    packet_bytes=5,
    host_s=0.5,
    decode_s=2.0,
    on_nvdec=True,
    pixel_bytes=25,
)
STEP = StepCost(clips=16, flops=400, product_bytes=30, other_bytes=20, gradient_bytes=64)


def test_a_step_waits_for_the_slower_of_arithmetic_and_memory_and_then_for_what_is_no_product() -> None:
    assert ceilings.step_s(STEP, 100, 10) == 4 + 2
    assert ceilings.step_s(replace(STEP, product_bytes=90), 100, 10) == 9 + 2


def test_gradients_go_twice_around_a_ring_over_its_slowest_link() -> None:
    assert ceilings.all_reduce_s(64, GPU, 1) == 0
    assert ceilings.all_reduce_s(64, GPU, 8) == 2 * 7 / 8 * 64 / 8
    assert ceilings.all_reduce_s(64, GPU, 64) == 2 * 63 / 64 * 64 / 4


@pytest.mark.parametrize(
    ("pixels", "cautious", "ceiling"), [(FULL_HD / 4, 1, 4), (FULL_HD, 1, 1), (2 * FULL_HD, 0.5, 0.5)]
)
def test_only_at_the_ceiling_are_small_frames_decoded_faster(pixels: float, cautious: float, ceiling: float) -> None:
    assert ceilings.nvdec_frames_per_s(GPU, pixels, "cautious") == 2 * 771 * cautious
    assert ceilings.nvdec_frames_per_s(GPU, pixels, "ceiling") == 2 * 771 * ceiling


def test_stages_of_gpus_by_hand() -> None:
    stages = ceilings.gpu_stages(GPU, 8, CLIP, STEP, "ceiling", published_share=0.25)
    assert stages == {
        "host CPUs": 8 * 3 / 0.5,
        "PCIe": 8 * 50 / 5,
        "step": 8 * 16 / (6 + 14),
        "NVDEC": 8 * 4 * 1542 / 10,
    }
    assert ceilings.binding(stages) == ("step", 6.4)
    cautious = ceilings.gpu_stages(GPU, 8, CLIP, STEP, "cautious", published_share=0.25)
    assert cautious == stages | {"step": 8 * 16 / (6 / 0.25 + 14), "NVDEC": 8 * 1542 / 10}


def test_what_nvdec_does_not_take_is_decoded_by_cpus_and_crosses_the_bus_as_pixels() -> None:
    stages = ceilings.gpu_stages(GPU, 1, replace(CLIP, on_nvdec=False), STEP, "ceiling", published_share=1)
    assert stages == {"host CPUs": 3 / 2.0, "PCIe": 50 / 25, "step": 16 / 6}


def test_without_a_gpu_all_stages_share_the_cores() -> None:
    stages = ceilings.cpu_stages(2, CLIP, 1.0, STEP, flops_per_s=100, memory_bytes_per_s=10)
    assert stages == {
        "plan, slice": 4.0,
        "decode, crop, scale": 2 / 1.5,
        "views": 2.0,
        "step": 16 / 6,
        "all": 1 / (0.25 + 0.75 + 0.5 + 6 / 16),
    }


def test_an_epoch_takes_each_video_and_as_many_labeled_clips() -> None:
    assert ceilings.epoch_hours(1000) == pytest.approx(480 / 3600)


def test_every_listed_gpu_has_its_engines_row() -> None:
    assert all("h264" in ceilings.NVDEC_FRAMES_PER_S[gpu.nvdec] for gpu in ceilings.GPUS.values())
