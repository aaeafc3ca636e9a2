"""Each strong operation does what PIL (hence the reference) does, one set of parameters for all frames of a clip."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from nvidia.dali import fn, pipeline_def, types
from PIL import Image, ImageEnhance, ImageOps

from pipeline import strong
from pipeline.plan import StrongPlan
from pipeline.strong import OPS, cutout_side, strong_inputs, strong_parameters, strong_view
from tests.conftest import moving_frames

SIZE = 64
T = 4
Run = Callable[[list[np.ndarray], list[StrongPlan]], list[np.ndarray]]
CUTOUT_OFF_FRAME = (-9.0, -9.0)  # lets "cutout" stand for "nothing" beside the operation under test


def op(name: str, sign: int = 1, second: str = "cutout", second_sign: int = 1) -> StrongPlan:
    ops = sorted([(OPS.index(name), sign), (OPS.index(second), second_sign)])
    return StrongPlan((ops[0][0], ops[1][0]), (ops[0][1], ops[1][1]), CUTOUT_OFF_FRAME)


@pipeline_def(batch_size=32, num_threads=1, device_id=None, prefetch_queue_depth=1, enable_conditionals=True)
def chain() -> Any:
    frames = fn.external_source(name="frames", dtype=types.UINT8, layout="FHWC", ndim=4)
    return strong_view(frames, strong_inputs(""), SIZE)


@pytest.fixture(scope="module")
def run() -> Run:
    return make_run()


def make_run() -> Run:
    pipeline = chain()
    pipeline.build()

    def call(clips: list[np.ndarray], plans: list[StrongPlan]) -> list[np.ndarray]:
        parameters = [strong_parameters(plan, SIZE) for plan in plans]
        inputs = {name: [getattr(p, name) for p in parameters] for name in parameters[0]._fields}
        (output,) = pipeline.run(frames=clips, **inputs)
        return [np.array(output.at(i)) for i in range(len(clips))]

    return call


def clip(seed: int = 0) -> np.ndarray:
    """Colourful frames of limited range, each with statistics of its own."""
    frames = moving_frames(T, SIZE, SIZE, seed).astype(float)
    scale = np.linspace(0.5, 0.9, T)[:, None, None, None]
    shifted: np.ndarray = np.clip(frames * scale + np.array([5, 20, 40]), 0, 255).astype(np.uint8)
    return shifted


def pil(name: str, frame: np.ndarray) -> np.ndarray:
    image = Image.fromarray(frame)
    done: dict[str, Callable[[], Any]] = {
        "posterize": lambda: ImageOps.posterize(image, 3),
        "solarize": lambda: ImageOps.solarize(image, 231),
        "color": lambda: ImageEnhance.Color(image).enhance(1.72),
        "contrast": lambda: ImageEnhance.Contrast(image).enhance(1.72),
        "brightness": lambda: ImageEnhance.Brightness(image).enhance(1.72),
        "sharpness": lambda: ImageEnhance.Sharpness(image).enhance(1.72),
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: np.stack([equalized(channel) for channel in frame.transpose(2, 0, 1)], axis=-1),
        "invert": lambda: ImageOps.invert(image),
        "shear_x": lambda: affine(image, 1, np.tan(np.radians(15.471)), 0, 1),
        "shear_y": lambda: affine(image, 1, 0, np.tan(np.radians(15.471)), 1),
        "rotate": lambda: image.rotate(-27, Image.Resampling.BILINEAR),
    }
    return np.array(done[name]())


def equalized(channel: np.ndarray) -> np.ndarray:
    """OpenCV's rule, which spreads the occupied levels over 0..255; PIL's differs by up to a histogram bin."""
    total = np.bincount(channel.ravel(), minlength=256).cumsum()
    first = total[channel.min()]
    table = np.rint((total - first) / (channel.size - first) * 255).clip(0).astype(np.uint8)
    return np.asarray(table[channel])


def affine(image: Image.Image, a: float, b: float, d: float, e: float) -> Image.Image:
    """PIL's affine from source to result about the centre."""
    inverse = np.linalg.inv([[a, b], [d, e]])
    center = np.array([SIZE / 2, SIZE / 2])
    offset = center - inverse @ center
    coefficients = (*inverse[0], offset[0], *inverse[1], offset[1])
    return image.transform(image.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)


# PIL truncates where DALI rounds; "color" also multiplies what the two disagree on in a grey value.
TOLERANCE = {"color": 2, "contrast": 1, "autocontrast": 1, "brightness": 1, "sharpness": 1}


@pytest.mark.parametrize(
    "name",
    ["posterize", "solarize", "color", "contrast", "brightness", "sharpness", "autocontrast", "equalize", "invert"],
)
def test_pixel_operation_does_what_pil_does(name: str, run: Run) -> None:
    frames = clip()
    frames[:, :8] = np.maximum(frames[:, :8], 220) if name == "solarize" else frames[:, :8]
    (got,) = run([frames], [op(name)])
    expected = np.stack([pil(name, frame) for frame in frames])
    assert (expected != frames).any(), "the operation changes nothing: the test shows nothing"
    inside = np.s_[:, 1:-1, 1:-1]  # PIL leaves the border out of its sharpening
    difference = np.abs(got[inside].astype(int) - expected[inside])
    assert difference.max() <= TOLERANCE.get(name, 0)


@pytest.mark.parametrize("name", ["shear_x", "shear_y", "rotate"])
def test_geometric_operation_does_what_pil_does(name: str, run: Run) -> None:
    frames = clip()
    (got,) = run([frames], [op(name)])
    expected = np.stack([pil(name, frame) for frame in frames])
    difference = np.abs(got.astype(int) - expected).max(axis=-1)
    assert (difference > 3).mean() < 0.04  # the rim between picture and fill
    assert np.median(difference) <= 1


@pytest.mark.parametrize("plan", [op("rotate", -1), op("shear_x", 1, "shear_y", -1), op("translate_x", 1, "rotate", 1)])
def test_warp_is_exact_bilinear_interpolation_into_black(plan: StrongPlan, run: Run) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (T, SIZE, SIZE, 3), dtype=np.uint8)
    (got,) = run([frames], [plan])
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    target = np.stack([x, y, np.ones_like(x)], axis=-1)
    source_x, source_y = np.moveaxis(target @ strong_parameters(plan, SIZE).matrix[:2].T.astype(float), -1, 0) - 0.5
    black = np.pad(frames.astype(float), [(0, 0), (1, 1), (1, 1), (0, 0)])
    expected = np.zeros(frames.shape)
    for dy, dx in np.ndindex(2, 2):
        row, column = np.floor(source_y) + dy, np.floor(source_x) + dx
        weight = (1 - abs(source_y - row)) * (1 - abs(source_x - column))
        inside = [np.clip(at, -1, SIZE).astype(int) + 1 for at in (row, column)]
        expected += weight[:, :, None] * black[:, inside[0], inside[1]]
    assert np.abs(got - expected).max() < 0.51


@pytest.mark.parametrize("sign", [-1, 1])
def test_translation_shifts_whole_pixels_and_fills_with_black(sign: int, run: Run) -> None:
    frames = clip()
    shift = round(0.18 * SIZE)
    got_x, got_y = run([frames, frames], [op("translate_x", sign), op("translate_y", sign)])
    expected_x, expected_y = np.zeros_like(frames), np.zeros_like(frames)
    to, source = (np.s_[shift:], np.s_[:-shift]) if sign > 0 else (np.s_[:-shift], np.s_[shift:])
    expected_x[:, :, to] = frames[:, :, source]
    expected_y[:, to] = frames[:, source]
    np.testing.assert_array_equal(got_x, expected_x)
    np.testing.assert_array_equal(got_y, expected_y)


def test_cutout_is_one_grey_square_even_at_the_border(run: Run) -> None:
    frames = clip()
    side = cutout_side(SIZE)
    inside = StrongPlan((OPS.index("equalize"), OPS.index("cutout")), (1, 1), (0.5, 0.25))
    corner = StrongPlan((OPS.index("equalize"), OPS.index("cutout")), (1, 1), (0.0, 0.99))
    got, at_corner = run([frames, frames], [inside, corner])
    grey = (got == 128).all(axis=(0, 3))
    rows, columns = np.flatnonzero(grey.sum(1) >= side), np.flatnonzero(grey.sum(0) >= side)
    assert (len(rows), len(columns)) == (side, side)
    assert abs(rows.mean() + 0.5 - 0.5 * SIZE) <= 1
    assert abs(columns.mean() + 0.5 - 0.25 * SIZE) <= 1
    assert (at_corner[:, : side // 2, -side // 2 :] == 128).all()


def rounded(numerator: np.ndarray, denominator: np.ndarray | int) -> np.ndarray:
    """The nearest integer, halves upward, clipped to a byte; exact, since all is done in integers."""
    nearest: np.ndarray = np.clip((2 * numerator + denominator) // (2 * denominator), 0, 255)
    return nearest


def test_brightness_and_contrast_are_exact(run: Run) -> None:
    darker = np.arange(1, T + 1)[:, None, None, None]
    grey = np.random.default_rng(0).integers(0, 256, (T, SIZE, SIZE, 1)) // darker
    frames = np.repeat(grey, 3, axis=-1).astype(np.uint8)
    bright, contrast = run([frames, frames], [op("brightness"), op("contrast")])
    mean = rounded(grey.sum(axis=(1, 2, 3), keepdims=True), SIZE * SIZE)
    np.testing.assert_array_equal(bright, rounded(172 * frames.astype(int), 100))
    np.testing.assert_array_equal(contrast, rounded(172 * frames.astype(int) - 72 * mean, 100))


@pytest.mark.parametrize("form", [strong._stretch_on_cpu, strong._stretch_on_gpu])
def test_autocontrast_is_exact_in_both_forms_for_every_range(form: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strong, "_stretch", form)
    side = 16
    low, high = (bound.ravel() for bound in np.triu_indices(256))
    low, high = (np.resize(bound, 3 * -(-len(low) // 3))[:, None] for bound in (low, high))  # whole frames of three
    planes = np.clip(np.arange(side * side), low, high)
    expected = np.where(low == high, planes, rounded((planes - low) * 255, np.maximum(high - low, 1)))

    @pipeline_def(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1)
    def autocontrast() -> Any:
        frames = fn.external_source(name="frames", dtype=types.UINT8, layout="FHWC", ndim=4)
        return strong._autocontrast(frames, side)

    pipeline = autocontrast()
    pipeline.build()
    frames = planes.reshape(-1, 3, side, side).transpose(0, 2, 3, 1).astype(np.uint8)
    (output,) = pipeline.run(frames=[np.ascontiguousarray(frames)])
    got = np.array(output.at(0)).transpose(0, 3, 1, 2).reshape(planes.shape)
    np.testing.assert_array_equal(got, expected)


def test_both_forms_of_the_stretch_give_the_same_bits(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = [clip(seed) for seed in range(8)]
    plans = [op("contrast"), op("autocontrast"), op("contrast", second="autocontrast"), op("color", second="contrast")]
    plans *= 2
    on_cpu = run(clips, plans)
    monkeypatch.setattr(strong, "_stretch_on_cpu", strong._stretch_on_gpu)
    for one, other in zip(on_cpu, make_run()(clips, plans), strict=True):
        np.testing.assert_array_equal(one, other)


def test_operations_apply_in_list_order(run: Run) -> None:
    frames = clip()
    (got,) = run([frames], [op("invert", second="solarize")])
    solarized = np.where(frames >= 231, 255 - frames, frames)
    np.testing.assert_array_equal(got, 255 - solarized)
    # Geometry comes first, hence the fill is inverted too.
    (got,) = run([frames], [op("translate_x", second="invert")])
    assert (got[:, :, 0] == 255).all()


def test_two_geometric_operations_become_one_interpolation(run: Run) -> None:
    shear, turn = op("shear_x", -1), op("rotate", 1)
    both = strong_parameters(op("shear_x", -1, "rotate", 1), SIZE).matrix
    square = [strong_parameters(plan, SIZE).matrix for plan in (shear, turn)]
    np.testing.assert_allclose(both, square[0] @ square[1], atol=1e-4)  # result to source: last drawn first
    assert strong_parameters(op("translate_x", 1, "translate_y", -1), SIZE).switches[:2].tolist() == [True, False]
    assert strong_parameters(op("translate_x", 1, "rotate", -1), SIZE).switches[:2].tolist() == [False, True]


@pytest.mark.parametrize("name", OPS)
def test_all_frames_of_a_clip_get_the_same_operation(name: str, run: Run) -> None:
    frames = np.repeat(clip()[:1], T, axis=0)
    plan = StrongPlan((OPS.index(name), OPS.index(name)), (-1, -1), (0.4, 0.6)) if name == "cutout" else op(name, -1)
    (got,) = run([frames], [plan])
    assert (got == got[:1]).all()


def test_a_sample_is_untouched_by_what_its_neighbours_drew(run: Run) -> None:
    clips = [clip(seed) for seed in range(len(OPS))]
    plans = [op(name, -1) if name != "cutout" else op("invert") for name in OPS]
    together = run(clips, plans)
    for frames, plan, expected in zip(clips, plans, together, strict=True):
        np.testing.assert_array_equal(run([frames], [plan])[0], expected)
