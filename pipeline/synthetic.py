"""The embedded data set: videos in which appearance says nothing and motion says everything.

Textured blobs move over a textured background.  Textures, shapes, colours, places, sizes and angles are random; the
class is how the blobs move: left, right, up, down, in (towards the camera), out, clockwise, counter-clockwise.

The promise is exact, not statistical: *no single frame tells the class*.  Place, log-size and angle of a blob live
on a circle each (what leaves the picture comes back on the other side, what has come too near starts again far away),
start uniformly on it and move at constant speed.  A uniform variable on a circle stays uniform under any rotation, so
every frame of every class follows the same distribution.

Blobs are brighter than the background in every class, so that one temporal gradient of an edge shows which way it
moves, while RGB has to find out against a cluttered background.  Left and right are each other's mirror image, as are
clockwise and counter-clockwise: whoever trains on this data set must not flip it horizontally.

The videos are ordinary files, ``ROOT/train/<class>/0000.avi`` and ``ROOT/val/<class>/0000.avi``, and take the same way
through the program as anyone's.  Motion JPEG is the default: it codes every frame by itself, so that compression
cannot carry the motion into a frame, and both decoders take it on a CPU.

    python -m pipeline.synthetic ROOT --videos-per-class 40
"""

import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from rich.progress import track

from pipeline.encode import find_encoder, write_video
from pipeline.errors import InputError

# Signs of the velocity along (x, y, log-size, angle).  y points down, so a growing angle turns clockwise on screen.
MOTIONS: dict[str, tuple[int, int, int, int]] = {
    "clockwise": (0, 0, 0, 1),
    "counter-clockwise": (0, 0, 0, -1),
    "down": (0, 1, 0, 0),
    "in": (0, 0, 1, 0),
    "left": (-1, 0, 0, 0),
    "out": (0, 0, -1, 0),
    "right": (1, 0, 0, 0),
    "up": (0, -1, 0, 0),
}

MANIFEST = "motion.json"
_FORMAT = 1  # goes into the manifest; raise it when the same parameters give other pixels

# Lengths are in widths of the picture.
_MIN_RADIUS, _MAX_RADIUS = 0.12, 0.40
_LOG_RANGE = math.log(_MAX_RADIUS / _MIN_RADIUS)
_TURN_RADIUS = 0.20  # a point this far from the centre of a turning blob moves at the blob's speed
_FADE = 0.12  # share of the size range over which a blob appears or disappears, at either end
_NUM_MOVING = 4
_SPRITE = 64  # texels across a blob
_GRAIN = 0.06  # blur of every texture: fine enough to show motion, coarse enough not to alias from frame to frame


def render_motion(
    motion: str,
    rng: np.random.Generator,
    *,
    size: int,
    num_frames: int,
    speed: tuple[float, float] = (0.020, 0.035),
    noise: float = 2.0,
    num_distractors: int = 2,
) -> NDArray[np.uint8]:
    """Draw one video, (num_frames, size, size, 3) uint8; arguments as in :func:`generate_motion_dataset`."""
    background = _texture(rng, size, _GRAIN * size, mean=(60, 130), contrast=(30, 50))
    pixels = background[None].repeat(num_frames, axis=0)  # (N, 3, size, size)
    for blob in range(num_distractors + _NUM_MOVING):
        # A distractor draws a speed as well: it differs from the others in nothing but motion.
        blob_speed = rng.uniform(*speed) * (blob >= num_distractors)
        states = _trajectory(motion, blob_speed, num_frames, rng)
        color, alpha = _warp(_sprite(rng), states, size)
        pixels += alpha * (color - pixels)
    pixels += noise * rng.standard_normal((num_frames, 1, 1, 1), dtype=np.float32)  # exposure
    pixels += noise * rng.standard_normal(pixels.shape, dtype=np.float32)  # sensor
    return np.ascontiguousarray(np.rint(pixels.clip(0, 255)).astype(np.uint8).transpose(0, 2, 3, 1))


def _texture(
    rng: np.random.Generator, size: int, blur: float, *, mean: tuple[float, float], contrast: tuple[float, float]
) -> NDArray[np.float32]:
    """Periodic smooth noise, (3, size, size) float32 grey levels; mean and standard deviation drawn from ranges."""
    frequency = np.fft.fftfreq(size)
    gain = np.exp(-((np.pi * blur) ** 2) / 2 * (frequency[:, None] ** 2 + frequency**2))  # a Gaussian, sigma blur / 2
    gain[0, 0] = 0  # the mean is drawn below
    waves = np.fft.ifft2(np.fft.fft2(rng.standard_normal((3, size, size))) * gain).real
    waves /= waves.std(axis=(1, 2), keepdims=True)
    return (rng.uniform(*mean, (3, 1, 1)) + rng.uniform(*contrast) * waves).astype(np.float32)


def _sprite(rng: np.random.Generator) -> NDArray[np.float32]:
    """A textured blob, (4, texels, texels) float32: RGB and coverage 0..1.  It fits into the circle of radius 1."""
    ticks = (np.arange(_SPRITE) + 0.5) / _SPRITE * 2 - 1
    radius, angle = np.hypot(ticks[:, None], ticks), np.arctan2(ticks[:, None], ticks)
    outline = np.full_like(radius, 0.7)
    for lobes, strength in ((2, (0.2, 0.28)), (3, (0.0, 0.02))):
        outline += rng.uniform(*strength) * np.cos(lobes * angle + rng.uniform(0, 2 * np.pi))
    coverage = ((outline - radius) * _SPRITE / 2 + 0.5).clip(0, 1)  # one texel of soft edge
    texels_per_width = _SPRITE / (2 * _TURN_RADIUS)
    color = _texture(rng, _SPRITE, _GRAIN * texels_per_width, mean=(150, 230), contrast=(10, 25))
    return np.concatenate([color, coverage[None].astype(np.float32)])


def _trajectory(motion: str, speed: float, num_frames: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Four circle positions in [0, 1) over time, (4, num_frames): x, y, log-size, angle; uniform in every frame."""
    turns_per_width = np.array([1, 1, 1 / (_MAX_RADIUS * _LOG_RANGE), 1 / (_TURN_RADIUS * 2 * np.pi)])
    velocity = speed * turns_per_width * MOTIONS[motion]
    return (rng.uniform(size=(4, 1)) + velocity[:, None] * np.arange(num_frames)) % 1


def _warp(
    sprite: NDArray[np.float32], states: NDArray[np.float64], size: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw a sprite in every state: its colour (N, 3, size, size) and coverage (N, 1, size, size), both float32."""
    x, y, log_size, angle = states.astype(np.float32)[:, :, None, None]
    ticks = (np.arange(size, dtype=np.float32) + 0.5) / size
    dx = (ticks[None, None, :] - x + 0.5) % 1 - 0.5  # the nearest copy on the circle
    dy = (ticks[None, :, None] - y + 0.5) % 1 - 0.5
    scale = _MIN_RADIUS * np.exp(_LOG_RANGE * log_size)
    cos, sin = np.cos(2 * np.pi * angle) / scale, np.sin(2 * np.pi * angle) / scale
    grid = np.stack([cos * dx + sin * dy, cos * dy - sin * dx], axis=-1)  # (N, size, size, 2) in sprite coordinates
    source = torch.from_numpy(sprite).expand(len(grid), -1, -1, -1)
    drawn = torch.nn.functional.grid_sample(source, torch.from_numpy(grid), align_corners=False).numpy()
    fade = (np.minimum(log_size, 1 - log_size) / _FADE).clip(0, 1)
    # At the outline grid_sample blends colours with the black beyond the sprite only where coverage is 0 anyway.
    return drawn[:, :3], drawn[:, 3:] * fade[:, None]


def generate_motion_dataset(
    root: Annotated[Path, tyro.conf.Positional],
    *,
    motions: tuple[str, ...] = tuple(MOTIONS),
    videos_per_class: int = 40,
    val_videos_per_class: int = 20,
    size: int = 64,
    num_frames: int = 32,
    seed: int = 0,
    codec: str = "mjpeg",
    speed: tuple[float, float] = (0.020, 0.035),
    noise: float = 2.0,
    num_distractors: int = 2,
) -> None:
    """Generate the motion data set: videos whose class shows in their motion alone.

    A second call with the same arguments does nothing.  The folder appears whole or not at all.

    Args:
        root: folder to make; it gets train/<class>/, val/<class>/ and a manifest.
        motions: the classes, out of :data:`MOTIONS`.
        videos_per_class: training videos of each class.
        val_videos_per_class: validation videos of each class.
        size: height and width in pixels.
        num_frames: frames of each video.
        seed: another seed gives other videos.
        codec: one of mjpeg, mpeg4, vp8, vp9, h264, hevc, av1.
        speed: range of the blobs' speeds, in widths of the picture per frame.
        noise: standard deviation of the camera's noise and of its exposure, in grey levels.
        num_distractors: blobs that stand still beside the 4 that move.

    Raises:
        InputError: an argument is out of range, or ``root`` holds something else.
    """
    parameters = {"format": _FORMAT} | {name: value for name, value in locals().items() if name != "root"}
    _check_parameters(parameters)
    suffix = find_encoder(codec, size, size).suffix
    if _already_there(root, parameters):
        print(f"{root} already holds this data set")
        return
    counts = {"train": videos_per_class, "val": val_videos_per_class}
    with _atomic_folder(root) as folder, _worker_pool() as pool:
        jobs = []
        for subset, count in counts.items():
            for label, motion in enumerate(MOTIONS):
                if motion not in motions:
                    continue
                (folder / subset / motion).mkdir(parents=True)
                for video in range(count):
                    path = folder / subset / motion / f"{video:04d}{suffix}"
                    rng = np.random.default_rng([seed, list(counts).index(subset), label, video])
                    jobs.append(pool.submit(_write_motion, path, motion, rng, parameters))
        for job in track(jobs, description="Generating videos"):
            job.result()
        (folder / MANIFEST).write_text(json.dumps(parameters, indent=2) + "\n")


def _write_motion(path: Path, motion: str, rng: np.random.Generator, parameters: dict[str, Any]) -> None:
    scene = {name: parameters[name] for name in ("size", "num_frames", "speed", "noise", "num_distractors")}
    write_video(path, render_motion(motion, rng, **scene), parameters["codec"])


def _check_parameters(parameters: dict[str, Any]) -> None:
    least = {"videos_per_class": 1, "val_videos_per_class": 1, "size": 16, "num_frames": 2}
    least |= {"seed": 0, "noise": 0, "num_distractors": 0}
    for name, minimum in least.items():
        if parameters[name] < minimum:
            raise InputError(f"{name} is {parameters[name]}: use {minimum} or more")
    unknown = [motion for motion in parameters["motions"] if motion not in MOTIONS]
    if unknown or len(set(parameters["motions"])) < 2:
        raise InputError(f"motions are {parameters['motions']}: use two or more of {', '.join(MOTIONS)}")
    slowest, fastest = parameters["speed"]
    if not 0 < slowest <= fastest:
        raise InputError(f"speed is {slowest} to {fastest}: use two rising numbers above 0, such as 0.01 0.02")


def _already_there(root: Path, parameters: dict[str, Any]) -> bool:
    """Whether ``root`` was generated with these parameters; InputError when it holds anything else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = json.loads((root / MANIFEST).read_text())
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{root} exists and is no generated data set: choose another folder")
    wanted = json.loads(json.dumps(parameters))
    differing = [
        f"{name} {found.get(name)} there, {wanted[name]} here" for name in wanted if found.get(name) != wanted[name]
    ]
    if differing:
        raise InputError(
            f"{root} was generated with other parameters ({'; '.join(differing)}): remove it or choose another folder"
        )
    return True


@contextmanager
def _atomic_folder(root: Path) -> Iterator[Path]:
    """A new folder beside ``root`` that becomes ``root`` if the body succeeds and vanishes if it does not."""
    root = root.absolute()
    root.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        yield folder
        folder.chmod(0o755)  # mkdtemp makes it private
        folder.replace(root)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _worker_pool() -> Iterator[ThreadPoolExecutor]:
    """Threads, as drawing and encoding release the GIL; leaving with an exception drops what has not begun."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def main() -> None:
    """Command line: arguments of :func:`generate_motion_dataset`."""
    try:
        tyro.cli(generate_motion_dataset)
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
