"""The most clips/s that each stage of training could do, from numbers alone.

Promises pure functions of what a clip takes and what a machine has; nothing is measured here.  What a machine has that
is not here comes from public tables, named where they stand.  A clip is a video that a step consumes, labeled or not,
counted once however many views are made of it.

Two assumptions frame what nobody has measured yet:

    ceiling:   every unit at the rate of its data sheet; an NVDEC engine's is its rate of pixels at 1080p.
    cautious:  an NVDEC engine decodes no more small frames a second than frames of 1080p, and a GPU's step reaches
               the share of its ceiling that SPDL's published run reached (:data:`PUBLISHED_STEP_S`).
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

Assumption = Literal["cautious", "ceiling"]
ASSUMPTIONS: tuple[Assumption, ...] = ("cautious", "ceiling")

FULL_HD = 1920 * 1080

# Frames/s of one engine at 1080p, 4:2:0, 8 bits: NVIDIA Video Codec SDK 13.0, NVDEC application note.  Rates follow the
# GPU's video clock.  A100 (GA100) and Hopper have Turing's engine.
NVDEC_FRAMES_PER_S: dict[str, dict[str, float]] = {
    "Pascal": {"h264": 694, "hevc": 810, "vp9": 846},
    "Turing": {"h264": 771, "hevc": 1316, "vp9": 932},
    "Ampere GA10x": {"h264": 748, "hevc": 1415, "vp9": 1075, "av1": 790},
    "Ada": {"h264": 903, "hevc": 1641, "vp9": 1290, "av1": 1018},
    "Blackwell": {"h264": 2172, "hevc": 1872, "vp9": 1445, "av1": 1119},
}


@dataclass(frozen=True)
class Gpu:
    """A GPU and its share of a node of 8.

    Attributes:
        flops_per_s: dense bf16 (measured ones: of the format that training takes).
        memory_bytes_per_s: reads and writes together.
        nvdec: its engines' row of :data:`NVDEC_FRAMES_PER_S`.
        num_nvdec: engines.
        host_bytes_per_s: from the host's memory, over PCIe.
        node_bytes_per_s: to another GPU of the node, one way.
        net_bytes_per_s: to another node, one way.
        cores: of the host's CPUs.
    """

    flops_per_s: float
    memory_bytes_per_s: float
    nvdec: str
    num_nvdec: int
    host_bytes_per_s: float
    node_bytes_per_s: float
    net_bytes_per_s: float
    cores: float


# NVIDIA's data sheets of A100 80GB SXM, H100 SXM, DGX A100 (2 x 64 cores, 200 Gb/s a GPU) and DGX H100 (2 x 56 cores,
# 400 Gb/s a GPU); PCIe 4.0 and 5.0 x16; engines: NVIDIA's video support matrix.
GPUS = {
    "A100": Gpu(312e12, 2.039e12, "Turing", 5, 31.5e9, 300e9, 25e9, 16),
    "H100": Gpu(989e12, 3.35e12, "Turing", 7, 63e9, 450e9, 50e9, 14),
}
NODE = 8
"""GPUs of a node."""

# SPDL's documentation, July 2026 (facebookresearch.github.io/spdl/main/autoresearch/autoresearch_example_v2.html and
# autoresearch_example.html): R3D-18 at 112 x 112, 16 frames, Kinetics-400, 16 clips on each of 8 H100, bf16 autocast.
PUBLISHED_GPU, PUBLISHED_GPUS, PUBLISHED_BATCH = "H100", 8, 16
PUBLISHED_CLIP_LEN, PUBLISHED_SIZE = 16, 112
PUBLISHED_STEP_S = 0.0376
"""Their step with cached batches: 3,405 clips/s of all 8."""
PUBLISHED_FPS = 30  # Kinetics' commonest; theirs is not published


class Published(NamedTuple):
    """A rate that SPDL's documentation gives, on 8 H100.

    Attributes:
        what: was fed.
        clips_per_s: of all 8.
        frames: least that NVDEC decodes for a clip, by the length of the sub-clip; 0 where it decodes nothing.
    """

    what: str
    clips_per_s: float
    frames: int


PUBLISHED = (
    Published("cached batches: the step alone", PUBLISHED_GPUS * PUBLISHED_BATCH / PUBLISHED_STEP_S, 0),
    Published("NVDEC, sub-clips of 2 s", PUBLISHED_GPUS * PUBLISHED_BATCH / 0.153, 2 * PUBLISHED_FPS),
    Published("NVDEC, sub-clips of 0.5 s, tuned", 1368, PUBLISHED_CLIP_LEN),
)
PUBLISHED_CPU_CLIPS_PER_S = 1060
"""Best of theirs with FFmpeg on the node's CPUs."""

NUM_K400_VIDEOS = 240_000
"""Training videos of Kinetics-400 that can still be had."""


@dataclass(frozen=True)
class ClipCost:
    """What it takes to get a clip from its file.

    Attributes:
        frames: that are decoded.
        pixels: of a frame.
        packet_bytes: read from the file.
        host_s: CPU seconds to plan it and cut its packets, where NVDEC decodes.
        decode_s: CPU seconds to plan, cut, decode, crop and scale it, where FFmpeg does.
        on_nvdec: whether DALI takes such files on a GPU; FFmpeg on the CPU decodes them if not.
        pixel_bytes: of its decoded frames, cropped and scaled, that go to a GPU where FFmpeg decodes.
    """

    frames: float
    pixels: float
    packet_bytes: float
    host_s: float
    decode_s: float
    on_nvdec: bool
    pixel_bytes: float


@dataclass(frozen=True)
class StepCost:
    """What a training step takes on one GPU.

    Attributes:
        clips: that it consumes.
        flops: of its matrix products and convolutions, backward pass included.
        product_bytes: that these read and write.
        other_bytes: that all other operations read and write, the optimizer included; uncompiled.
        gradient_bytes: that ranks exchange.
    """

    clips: int
    flops: float
    product_bytes: float
    other_bytes: float
    gradient_bytes: float


def step_s(step: StepCost, flops_per_s: float, memory_bytes_per_s: float) -> float:
    """Least seconds of a step: products at the slower of arithmetic and memory, then all else at memory's rate."""
    products = max(step.flops / flops_per_s, step.product_bytes / memory_bytes_per_s)
    return products + step.other_bytes / memory_bytes_per_s


def all_reduce_s(num_bytes: float, gpu: Gpu, num_gpus: int) -> float:
    """Least seconds to sum gradients over GPUs in a ring, of which the slowest link counts."""
    link = gpu.node_bytes_per_s if num_gpus <= NODE else gpu.net_bytes_per_s
    return 2 * (num_gpus - 1) / num_gpus * num_bytes / link


def nvdec_frames_per_s(gpu: Gpu, pixels: float, assumption: Assumption, codec: str = "h264") -> float:
    """Frames/s of all engines of a GPU."""
    frames = NVDEC_FRAMES_PER_S[gpu.nvdec][codec]
    # Frames larger than 1080p take longer under either assumption.
    factor = FULL_HD / pixels
    return gpu.num_nvdec * frames * (factor if assumption == "ceiling" else min(1.0, factor))


def gpu_stages(
    gpu: Gpu, num_gpus: int, clip: ClipCost, step: StepCost, assumption: Assumption, published_share: float
) -> dict[str, float]:
    """Clips/s of all GPUs together that each stage could do; stages overlap, so that the least binds.

    Args:
        gpu: the GPU.
        num_gpus: how many, in nodes of 8.
        clip: what getting a clip takes.
        step: what training on it takes.
        assumption: see the module.
        published_share: of its ceiling that a step reaches under "cautious".

    Returns:
        "host CPUs", "PCIe", "NVDEC" where it decodes, and "step": networks, optimizer and exchange of gradients.
    """
    share = published_share if assumption == "cautious" else 1.0
    seconds = step_s(step, gpu.flops_per_s, gpu.memory_bytes_per_s) / share
    seconds += all_reduce_s(step.gradient_bytes, gpu, num_gpus)
    stages = {
        "host CPUs": num_gpus * gpu.cores / (clip.host_s if clip.on_nvdec else clip.decode_s),
        "PCIe": num_gpus * gpu.host_bytes_per_s / (clip.packet_bytes if clip.on_nvdec else clip.pixel_bytes),
        "step": num_gpus * step.clips / seconds,
    }
    if clip.on_nvdec:
        stages["NVDEC"] = num_gpus * nvdec_frames_per_s(gpu, clip.pixels, assumption) / clip.frames
    return stages


def cpu_stages(
    cores: int, clip: ClipCost, views_s: float, step: StepCost, flops_per_s: float, memory_bytes_per_s: float
) -> dict[str, float]:
    """Clips/s that each stage could do on a machine without a GPU if it had all cores to itself.

    Args:
        cores: of the machine.
        clip: what getting a clip takes.
        views_s: CPU seconds of a clip's temporal gradients and strong views.
        step: what training on it takes.
        flops_per_s: of all cores.
        memory_bytes_per_s: of all cores, reads and writes together.

    Returns:
        "plan, slice", "decode, crop, scale", "views", "step", and "all", which share the cores.
    """
    seconds = {
        "plan, slice": clip.host_s / cores,
        "decode, crop, scale": max(0.0, clip.decode_s - clip.host_s) / cores,
        "views": views_s / cores,
        "step": step_s(step, flops_per_s, memory_bytes_per_s) / step.clips,
    }
    seconds["all"] = sum(seconds.values())
    return {name: 1 / value if value else float("inf") for name, value in seconds.items()}


def binding(stages: dict[str, float]) -> tuple[str, float]:
    """The stage that binds, and its clips/s."""
    return min(stages.items(), key=lambda stage: stage[1])


def epoch_hours(clips_per_s: float, num_videos: int = NUM_K400_VIDEOS) -> float:
    """Hours in which every training video is seen once as unlabeled, beside as many labeled clips."""
    return 2 * num_videos / clips_per_s / 3600
