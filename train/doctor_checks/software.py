"""What is installed: Python, torch, DALI, FFmpeg within PyAV, and a compiler."""

import importlib
import platform
import sys
from collections.abc import Collection, Mapping
from importlib.metadata import distributions, version
from typing import NamedTuple

from train.doctor_checks.finding import Finding
from train.doctor_checks.gpu import major, num_gpus

OLDEST_PYTHON = (3, 11)
INSTALL = "install what the trainer needs: pip install -r requirements.txt"

_DALI = "nvidia-dali-cuda"  # names of its packages go on with the version of CUDA: 130, 120
# What videos of any age come in; whatever else FFmpeg decodes is welcome and rare.
CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "mjpeg", "mpeg4")


def look_at_python() -> Finding:
    """The interpreter."""
    return judge_python(sys.version_info[:3])


def judge_python(found: tuple[int, ...]) -> Finding:
    """Judge a version such as (3, 11, 9)."""
    text = f"{'.'.join(map(str, found))} on {platform.machine()}"
    oldest = ".".join(map(str, OLDEST_PYTHON))
    if found[:2] < OLDEST_PYTHON:
        return Finding("fail", text, f"make an environment with Python {oldest} or later")
    return Finding("ok", text)


def look_at_torch() -> Finding:
    """PyTorch, imported."""
    import torch

    return judge_torch(torch.__version__, torch.version.cuda, has_gpu=num_gpus() > 0)


def judge_torch(found: str, cuda: str | None, *, has_gpu: bool) -> Finding:
    """Judge a build.

    Args:
        found: its version.
        cuda: the version of CUDA it is for; None for a build without.
        has_gpu: there is an NVIDIA driver that has a GPU.
    """
    if cuda is None:
        text = f"{found}, built without CUDA"
        remedy = "install PyTorch's build for CUDA: pip install -r requirements.txt"
        return Finding("fail", f"{text}, but there is a GPU", remedy) if has_gpu else Finding("ok", text)
    return Finding("ok", f"{found} for CUDA {cuda}")


def look_at_torchvision() -> Finding:
    """torchvision, which has to fit torch to be imported."""
    importlib.import_module("torchvision")
    return Finding("ok", version("torchvision"))


def look_at_dali() -> Finding:
    """DALI, imported as the data path does."""
    import torch

    installed = {
        found.name.removeprefix(_DALI): found.version for found in distributions() if found.name.startswith(_DALI)
    }
    if len(installed) == 1:
        importlib.import_module("pipeline.graph")
    return judge_dali(installed, torch.version.cuda)


def judge_dali(installed: Mapping[str, str], torch_cuda: str | None) -> Finding:
    """Judge the packages of DALI.

    Args:
        installed: versions by the CUDA they are for, as in the packages' names: {"130": "2.4.0"}.
        torch_cuda: the version of CUDA that torch is for, if any.
    """
    if not installed:
        return Finding("fail", "not installed", INSTALL)
    text = ", ".join(f"{number} for CUDA {cuda[:-1]}" for cuda, number in sorted(installed.items()))
    if len(installed) > 1:
        return Finding(
            "fail",
            f"{text}: they overwrite each other",
            "pip uninstall them all, and install the one for the CUDA of torch",
        )
    (cuda,) = installed
    if torch_cuda is not None and int(cuda[:-1]) != major(torch_cuda):
        return Finding("warn", f"{text}, but torch is for CUDA {torch_cuda}", "install both for one CUDA: see README")
    return Finding("ok", text)


class Ffmpeg(NamedTuple):
    """What PyAV brings: its version, that of FFmpeg's libavcodec, and codecs without a decoder in it."""

    pyav: str
    libavcodec: tuple[int, ...]
    missing: Collection[str]


def look_at_ffmpeg() -> Finding:
    """FFmpeg as the data path uses it."""
    import av
    from av.codec import Codec
    from av.codec.codec import UnknownCodecError

    from pipeline.decode import DECODER_NAMES

    missing = []
    for codec in CODECS:
        try:
            Codec(DECODER_NAMES.get(codec, codec), "r")
        except UnknownCodecError:
            missing.append(codec)
    return judge_ffmpeg(Ffmpeg(av.__version__, av.library_versions["libavcodec"], missing))


def judge_ffmpeg(found: Ffmpeg) -> Finding:
    """Judge the decoders."""
    text = f"PyAV {found.pyav} with libavcodec {'.'.join(map(str, found.libavcodec))}"
    if found.missing:
        remedy = "its videos would be refused: install PyAV's own wheel, pip install --force-reinstall --no-deps av"
        return Finding("fail", f"{text}, without a decoder of {', '.join(found.missing)}", remedy)
    return Finding("ok", f"{text}: {', '.join(CODECS)}")


def look_at_compiler() -> Finding:
    """What torch.compile needs."""
    from pipeline.errors import InputError
    from train.step import check_compiler

    try:
        check_compiler()
    except InputError as error:
        return judge_compiler(str(error), num_gpus())
    return judge_compiler(None, num_gpus())


def judge_compiler(refusal: str | None, num_gpus: int) -> Finding:
    """Judge what :func:`train.step.check_compiler` says: a run compiles its step by default on a GPU only."""
    if refusal is None:
        return Finding("ok", "C++ compiler and Python.h")
    found, _, remedy = refusal.rpartition(": ")
    return Finding("fail" if num_gpus else "warn", found, remedy)
