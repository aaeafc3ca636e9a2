"""NVIDIA's driver, its GPUs, and whether they can decode video."""

import ctypes
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from train.doctor_checks.finding import Finding

# The oldest driver for any version of a CUDA generation, on Linux: table "CUDA Toolkit and Minimum Required Driver
# Version for CUDA Minor Version Compatibility" in NVIDIA's CUDA Toolkit release notes.
_OLDEST_DRIVER = {12: 525, 13: 580}
# Engines that decode video: NVIDIA's data sheets, and its Video Encode and Decode GPU Support Matrix.  The driver does
# not tell.
_NUM_ENGINES = {"GH200": 7, "H200": 7, "H100": 7, "A100": 5, "A30": 4, "L40S": 3, "L40": 3, "L4": 4, "A10": 2, "T4": 2}
_NVCUVID = "libnvcuvid.so.1"
_ASK_FOR_GPU = "with a GPU: install NVIDIA's driver; in a container: docker run --gpus all"
_ASK_FOR_VIDEO = "in a container: -e NVIDIA_DRIVER_CAPABILITIES=compute,utility,video; elsewhere: install {} too"
NOT_NEEDED = "not needed without a GPU"


def major(version: str) -> int:
    """13 of "13.0"."""
    return int(version.partition(".")[0])


class Driver(NamedTuple):
    """What NVML says of the driver: its version, that of the CUDA it brings, and how many GPUs it has."""

    version: str
    cuda: str
    num_gpus: int


class Gpu(NamedTuple):
    """What torch says of a GPU: name, memory in bytes, compute capability, number format a run would take."""

    name: str
    memory: int
    capability: tuple[int, int]
    precision: str


def look_at_driver() -> Finding:
    """The driver, and whether it is new enough for torch."""
    driver = _driver()
    has_devices = Path("/dev/nvidiactl").exists()
    if driver is None:  # torch may be what is broken, and is not needed for that
        return judge_driver(None, None, has_devices=has_devices)
    import torch

    return judge_driver(driver, torch.version.cuda, has_devices=has_devices)


def judge_driver(driver: Driver | None, torch_cuda: str | None, *, has_devices: bool) -> Finding:
    """Judge a driver.

    Args:
        driver: None where NVML is not there or finds none.
        torch_cuda: the version of CUDA that torch is for, if any.
        has_devices: the kernel's part is there.
    """
    if driver is None:
        if has_devices:
            remedy = "in a container: -e NVIDIA_DRIVER_CAPABILITIES=compute,utility,video; elsewhere: install it again"
            return Finding("fail", "there are NVIDIA devices, but the driver's libraries do not answer", remedy)
        return Finding("warn", "none: runs train on the CPU", _ASK_FOR_GPU)
    text = f"{driver.version}, for CUDA up to {driver.cuda}"
    if torch_cuda is not None and major(driver.cuda) < major(torch_cuda):
        needed = _OLDEST_DRIVER.get(major(torch_cuda))
        remedy = f"update it to {needed} or later" if needed else "update it"
        return Finding(
            "fail", f"{text}: too old for torch's CUDA {torch_cuda}", f"{remedy}, or install builds for an older CUDA"
        )
    return Finding("ok", text)


def look_at_gpus() -> Finding:
    """The GPUs that torch finds."""
    import torch

    return judge_gpus(gpus(), torch.cuda.get_arch_list(), num_gpus())


def judge_gpus(found: Sequence[Gpu], built_for: Sequence[str], num_driven: int) -> Finding:
    """Judge the GPUs.

    Args:
        found: by torch.
        built_for: what torch has kernels for: "sm_90", "compute_90".
        num_driven: GPUs that the driver has and shows.
    """
    if not found and num_driven:
        remedy = "see the lines of torch and of the driver; try: python -c 'import torch; torch.cuda.init()'"
        return Finding("fail", f"the driver has {num_driven}, torch can use none", remedy)
    if not found:
        return Finding("warn", "none: runs train on the CPU", _ASK_FOR_GPU)
    counts = {gpu: found.count(gpu) for gpu in found}
    text = "; ".join(f"{count} × {_described(gpu)}" if count > 1 else _described(gpu) for gpu, count in counts.items())
    unfit = [gpu for gpu in counts if not _runs_on(gpu.capability, built_for)]
    if unfit:
        remedy = "install a build of torch that has kernels for it, such as that for CUDA 12, or hide it"
        return Finding("fail", f"{text}: torch has no kernels for {unfit[0].name}", remedy)
    return Finding("ok", text)


def _described(gpu: Gpu) -> str:
    capability = ".".join(map(str, gpu.capability))
    return f"{gpu.name}, {gpu.memory / 2**30:.0f} GiB, compute capability {capability}, {gpu.precision}"


def _runs_on(capability: tuple[int, int], built_for: Sequence[str]) -> bool:
    """Kernels run on their generation from their own capability on; intermediate code on whatever is newer."""
    for target in built_for:
        kind, _, digits = target.rstrip("af").partition("_")
        wanted = int(digits[:-1]), int(digits[-1])
        if wanted <= capability and (kind == "compute" or wanted[0] == capability[0]):
            return True
    return False


def look_at_nvdec() -> Finding:
    """What decodes video on the GPUs."""
    return judge_nvdec(gpus(), _decoder_answers())


def judge_nvdec(found: Sequence[Gpu], answers: bool) -> Finding:
    """Judge the decoders.

    Args:
        found: by torch.
        answers: whether the driver tells how busy they are, as it does not on most slices of a GPU.
    """
    if not found:
        return Finding("ok", NOT_NEEDED)
    kinds = {(gpu.name, gpu.capability): None for gpu in found}
    texts = []
    for name, capability in kinds:
        counts = [number for model, number in _NUM_ENGINES.items() if re.search(rf"\b{model}\b(?!.* MIG )", name)]
        texts.append(f"{f'{counts[0]} engines' if counts else 'there'}: {', '.join(nvdec_codecs(capability))}")
    text = "; ".join(dict.fromkeys(texts))
    if not answers:
        return Finding(
            "warn", f"{text}, by its kind; the driver does not tell of it", "on a MIG slice: take a larger one"
        )
    return Finding("ok", text)


def nvdec_codecs(capability: tuple[int, int]) -> tuple[str, ...]:
    """What NVDEC takes, in 8 bits and 4:2:0, by compute capability.

    Table "NVDEC Hardware Capabilities" of NVIDIA's NVDEC Application Note, Video Codec SDK 13.0; motion JPEG is not in
    it.
    """
    if capability < (6, 0):
        return "h264", "mpeg4"
    has_av1 = capability >= (8, 6) and capability[0] != 9  # not GA100 and Hopper
    return "h264", "hevc", "vp8", "vp9", *(["av1"] if has_av1 else []), "mpeg4"


def look_at_video_library() -> Finding:
    """The driver's library for decoding, which containers are given only if they ask for it."""
    try:
        ctypes.CDLL(_NVCUVID)
    except OSError:
        loads = False
    else:
        loads = True
    return judge_video_library(loads, num_gpus(), os.environ.get("NVIDIA_DRIVER_CAPABILITIES"))


def judge_video_library(loads: bool, num_gpus: int, capabilities: str | None) -> Finding:
    """Judge it.

    Args:
        loads: whether it can be loaded.
        num_gpus: GPUs there are.
        capabilities: what the container was started with, None where that is not set.
    """
    if loads:
        return Finding("ok", f"{_NVCUVID} loads")
    if not num_gpus:
        return Finding("ok", NOT_NEEDED)
    asked = f"; NVIDIA_DRIVER_CAPABILITIES is {capabilities}" if capabilities is not None else ""
    return Finding(
        "fail", f"{_NVCUVID} cannot be loaded: the GPU decodes nothing{asked}", _ASK_FOR_VIDEO.format(_NVCUVID)
    )


def gpus() -> tuple[Gpu, ...]:
    """What torch can use."""
    import torch

    from train.precision import best_precision

    found = []
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(number)
        with torch.cuda.device(number):
            precision = best_precision("cuda")
        found.append(Gpu(properties.name, properties.total_memory, (properties.major, properties.minor), precision))
    return tuple(found)


def num_gpus() -> int:
    """How many GPUs the driver has and CUDA_VISIBLE_DEVICES shows, whatever torch makes of them."""
    driver, shown = _driver(), os.environ.get("CUDA_VISIBLE_DEVICES")
    if driver is None or shown is None:
        return driver.num_gpus if driver else 0
    return min(driver.num_gpus, len([name for name in shown.split(",") if name.strip() not in ("", "-1")]))


def _driver() -> Driver | None:
    with _nvml() as nvml:
        if nvml is None:
            return None
        cuda = nvml.nvmlSystemGetCudaDriverVersion_v2()
        return Driver(
            nvml.nvmlSystemGetDriverVersion(), f"{cuda // 1000}.{cuda % 1000 // 10}", nvml.nvmlDeviceGetCount()
        )


def _decoder_answers() -> bool:
    """Whether the driver tells of the first GPU's decoder."""
    with _nvml() as nvml:
        if nvml is None:
            return False
        try:
            nvml.nvmlDeviceGetDecoderUtilization(nvml.nvmlDeviceGetHandleByIndex(0))
        except nvml.NVMLError:
            return False
        return True


@contextmanager
def _nvml() -> Iterator[Any]:
    """NVML for the block, None where there is no driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()
