"""Loss values against numbers worked out by hand, their edge cases, and where their gradients go."""

import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from tests.forks import run_ranks
from train.losses import (
    AlignmentKind,
    StopGradient,
    alignment_loss,
    group_contrast,
    info_nce,
    kept_cross_entropy,
    masked_cross_entropy,
    negative_cross_entropy,
    nt_xent,
    pseudo_labels,
    softmax_mse,
)


def volume(*vectors: tuple[float, ...]) -> Tensor:
    """One clip of one frame whose pixels, side by side, are the given channel vectors: (1, C, 1, 1, W)."""
    return torch.tensor(vectors, dtype=torch.float32).T[None, :, None, None, :].contiguous()


def random_stages(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, c, 2, 3, 3, generator=generator).relu().requires_grad_() for c in (4, 8)]


# --- alignment ---


def test_cosine_alignment_by_hand() -> None:
    rgb = volume((3, 4), (1, 0), (0, 2))
    tg = volume((4, 3), (0, 5), (0, 7))
    # cosines 24/25, 0 and 1
    assert alignment_loss([rgb], [tg]).item() == pytest.approx(1 - (0.96 + 0 + 1) / 3)


def test_l1_and_l2_alignment_by_hand() -> None:
    rgb, tg = volume((3, 4), (1, 0)), volume((4, 2), (1, 5))
    assert alignment_loss([rgb], [tg], kind="l1").item() == pytest.approx((1 + 2 + 0 + 5) / 4)
    assert alignment_loss([rgb], [tg], kind="l2").item() == pytest.approx((1 + 4 + 0 + 25) / 4)


def test_alignment_is_the_sum_over_stages() -> None:
    rgb, tg = random_stages(0), random_stages(1)
    single = sum(alignment_loss([a], [b]).item() for a, b in zip(rgb, tg, strict=True))
    assert alignment_loss(rgb, tg).item() == pytest.approx(single, rel=1e-6)


def test_alignment_may_be_the_mean_over_stages() -> None:
    rgb, tg = random_stages(0), random_stages(1)
    mean = alignment_loss(rgb, tg, reduce="mean").item()
    assert mean == pytest.approx(alignment_loss(rgb, tg).item() / len(rgb), rel=1e-6)
    with pytest.raises(ValueError, match="alignment reduce 'max' is not"):
        alignment_loss(rgb, tg, reduce="max")  # type: ignore[arg-type]


def test_cosine_alignment_equals_the_references_double_normalisation() -> None:
    rgb, tg = random_stages(0), random_stages(1)
    expected = sum(
        1 - F.cosine_similarity(F.normalize(a, dim=1), F.normalize(b, dim=1), dim=1).mean()
        for a, b in zip(rgb, tg, strict=True)
    )
    torch.testing.assert_close(alignment_loss(rgb, tg), torch.as_tensor(expected))


@pytest.mark.parametrize("kind", ["cosine", "l1", "l2"])
def test_identical_features_are_aligned(kind: AlignmentKind) -> None:
    # Strictly positive: a zero vector has no direction and counts as cos 0 even against itself.
    stages = [stage.detach() + 0.1 for stage in random_stages(0)]
    assert alignment_loss(stages, stages, kind=kind).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("rgb", "tg"), [((0, 0), (3, 4)), ((3, 4), (0, 0)), ((0, 0), (0, 0))])
def test_zero_vectors_have_cosine_zero_and_a_bounded_gradient(rgb: tuple[float, ...], tg: tuple[float, ...]) -> None:
    a, b = volume(rgb).requires_grad_(), volume(tg).requires_grad_()
    loss = alignment_loss([a], [b], stop_gradient=None)
    loss.backward()
    assert loss.item() == 1
    for gradient in (a.grad, b.grad):
        assert gradient is not None
        assert gradient.norm() <= 1


@pytest.mark.parametrize("kind", ["cosine", "l1", "l2"])
@pytest.mark.parametrize(
    ("stop_gradient", "moves"), [("tg", (True, False)), ("rgb", (False, True)), (None, (True, True))]
)
def test_alignment_moves_only_the_modality_that_is_not_stopped(
    kind: AlignmentKind, stop_gradient: StopGradient, moves: tuple[bool, bool]
) -> None:
    rgb, tg = random_stages(0), random_stages(1)
    alignment_loss(rgb, tg, kind, stop_gradient).backward()
    for stages, moved in zip((rgb, tg), moves, strict=True):
        assert all((stage.grad is not None and bool(stage.grad.any())) == moved for stage in stages)


def test_alignment_refuses_what_it_does_not_know() -> None:
    stages = random_stages(0)
    with pytest.raises(ValueError, match="kind 'cos'"):
        alignment_loss(stages, stages, kind="cos")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="stop_gradient 'none'"):
        alignment_loss(stages, stages, stop_gradient="none")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="got 2 and 1"):
        alignment_loss(stages, stages[:1])
    with pytest.raises(ValueError, match="got 0 and 0"):
        alignment_loss([], [])


# --- contrast ---


def test_info_nce_by_hand() -> None:
    rgb = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    tg = torch.tensor([[5.0, 0.0], [1.0, 1.0]])
    half = math.sqrt(0.5)

    def nce(positive: float, negative: float) -> float:
        return -math.log(math.exp(positive / 0.5) / (math.exp(positive / 0.5) + math.exp(negative / 0.5)))

    # cosines RGB x TG: [[1, half], [0, half]]
    rgb_to_tg = (nce(1, half) + nce(half, 0)) / 2
    tg_to_rgb = (nce(1, 0) + nce(half, half)) / 2
    assert info_nce(rgb, tg, temperature=0.5).item() == pytest.approx((rgb_to_tg + tg_to_rgb) / 2)


def test_info_nce_of_embeddings_all_alike_is_log_of_their_number() -> None:
    assert info_nce(torch.ones(6, 4), torch.ones(6, 4), temperature=0.1).item() == pytest.approx(math.log(6))


def test_info_nce_ignores_lengths_and_is_symmetric() -> None:
    torch.manual_seed(0)
    rgb, tg = torch.randn(5, 8), torch.randn(5, 8)
    loss = info_nce(rgb, tg, 0.5)
    torch.testing.assert_close(info_nce(7 * rgb, 0.1 * tg, 0.5), loss)
    torch.testing.assert_close(info_nce(tg, rgb, 0.5), loss)


def test_info_nce_reaches_both_modalities_and_stands_zero_vectors() -> None:
    torch.manual_seed(0)
    rgb, tg = torch.randn(4, 8).requires_grad_(), torch.randn(4, 8)
    tg[2] = 0
    tg.requires_grad_()
    info_nce(rgb, tg, 0.5).backward()
    for embedding in (rgb, tg):
        assert embedding.grad is not None
        assert embedding.grad.any(dim=1).all()
        assert embedding.grad.norm() < 10


def test_info_nce_over_two_processes_is_that_of_one(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    rgb, tg, weight = (torch.randn(*shape, generator=generator) for shape in [(6, 8), (6, 8), (8, 4)])
    torch.save((rgb, tg, weight), tmp_path / "inputs.pt")
    run_ranks(two_process_worker, (str(tmp_path),))

    weight.requires_grad_()
    loss = info_nce(rgb @ weight, tg @ weight, 0.5)
    loss.backward()
    assert weight.grad is not None
    losses, gradients = zip(*(torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)), strict=True)
    assert losses[0] != losses[1]
    torch.testing.assert_close(torch.stack(losses).mean(), loss.detach())
    torch.testing.assert_close(torch.stack(gradients).mean(0), weight.grad)


def two_process_worker(rank: int, folder: str) -> None:
    """Save this rank's loss and gradient for its half of the rows, computed by a compiled step as in training."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    rgb, tg, weight = torch.load(Path(folder) / "inputs.pt")
    weight.requires_grad_()
    rows = slice(3 * rank, 3 * rank + 3)
    step = torch.compile(info_nce, backend="eager", fullgraph=True)
    loss = step(rgb[rows] @ weight, tg[rows] @ weight, 0.5)
    loss.backward()
    torch.save((loss.detach(), weight.grad), Path(folder) / f"rank{rank}.pt")
    dist.destroy_process_group()


# --- contrast of two views ---


def test_nt_xent_by_hand() -> None:
    first = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    second = torch.tensor([[5.0, 0.0], [1.0, 1.0]])
    half = math.sqrt(0.5)

    def nce(positive: float, *negatives: float) -> float:
        return math.log(sum(math.exp(cosine / 0.5) for cosine in (positive, *negatives))) - positive / 0.5

    # Of each row the cosine to its other view, then those to both views of the other clip.
    rows = [nce(1, 0, half), nce(half, 0, 0), nce(1, 0, half), nce(half, half, half)]
    assert nt_xent(first, second, temperature=0.5).item() == pytest.approx(sum(rows) / 4)


def test_nt_xent_ignores_lengths_and_is_symmetric() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(5, 8), torch.randn(5, 8)
    loss = nt_xent(first, second, 0.5)
    torch.testing.assert_close(nt_xent(7 * first, 0.1 * second, 0.5), loss)
    torch.testing.assert_close(nt_xent(second, first, 0.5), loss)


def test_nt_xent_of_embeddings_all_alike_is_log_of_the_others() -> None:
    assert nt_xent(torch.ones(6, 4), torch.ones(6, 4), 0.1).item() == pytest.approx(math.log(11))


def test_nt_xent_of_one_clip_is_exactly_zero() -> None:
    assert nt_xent(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.3, 0.7]]), 0.5).item() == 0


def test_nt_xent_stands_zero_vectors() -> None:
    first, second = torch.randn(4, 8).requires_grad_(), torch.zeros(4, 8, requires_grad=True)
    nt_xent(first, second, 0.5).backward()
    for embedding in (first, second):
        assert embedding.grad is not None
        assert embedding.grad.isfinite().all()


def grouped(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Group contrast as it is defined, class by class."""
    views = [{k: view[view.argmax(dim=1) == k] for k in view.argmax(dim=1).tolist()} for view in (first, second)]
    common = [k for k in views[0] if k in views[1]]
    means = [torch.stack([groups[k].mean(dim=0) for k in common]) for groups in views]
    return nt_xent(means[0], means[1], temperature)


@pytest.mark.parametrize(("num_clips", "num_classes"), [(4, 3), (12, 3), (12, 10), (40, 101)])
def test_group_contrast_is_that_of_the_means_of_groups_both_views_have(num_clips: int, num_classes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (3 * torch.randn(2, num_clips, num_classes, generator=generator)).softmax(dim=2)
    ours, theirs = second.clone().requires_grad_(), second.clone().requires_grad_()
    loss, expected = group_contrast(first, ours, 0.5), grouped(first, theirs, 0.5)
    assert loss > 0
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    assert ours.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_classes_of_which_one_view_has_no_group_are_left_out() -> None:
    first = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])
    second = torch.tensor([[0.7, 0.2, 0.1], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1]]).requires_grad_()
    loss = group_contrast(first, second, 0.5)
    two = torch.stack([(second[0] + second[2]) / 2, second[1]])
    torch.testing.assert_close(loss, nt_xent(first[:2], two, 0.5))


@pytest.mark.parametrize("classes", [(0, 0, 0), (0, 1, 2), (2, 2, 1)])
def test_group_contrast_of_fewer_than_two_common_classes_is_exactly_zero(classes: tuple[int, ...]) -> None:
    first = torch.tensor([[0.9, 0.06, 0.04], [0.8, 0.1, 0.1], [0.7, 0.2, 0.1]])  # class 0 alone
    second = (F.one_hot(torch.tensor(classes), 3) + torch.rand(3, 3) / 2).softmax(dim=1).requires_grad_()
    loss = group_contrast(first, second, 0.5)
    loss.backward()
    assert loss.item() == 0
    assert second.grad is not None
    assert not second.grad.any()


@pytest.mark.parametrize("contrast", ["instances", "groups"])
def test_contrast_of_views_over_two_processes_is_that_of_one(contrast: str, views_of_ranks: Path) -> None:
    first, second, weight = torch.load(views_of_ranks / "inputs.pt")
    loss, gradient = contrasted(first, second, weight)[contrast]
    losses, gradients = zip(
        *(torch.load(views_of_ranks / f"rank{rank}.pt")[contrast] for rank in range(2)), strict=True
    )
    halves = [contrasted(first[rows], second[rows], weight)[contrast][0] for rows in (slice(3), slice(3, 6))]
    assert loss > 0
    assert not torch.stack(halves).isclose(loss).any(), "each rank must see the clips of the other"
    torch.testing.assert_close(torch.stack(losses).mean(), loss)
    torch.testing.assert_close(torch.stack(gradients).mean(0), gradient)


@pytest.fixture(scope="module")
def views_of_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs of two views, and what two processes made of half of the clips each."""
    folder = tmp_path_factory.mktemp("views")
    generator = torch.Generator().manual_seed(0)
    torch.save([torch.randn(*shape, generator=generator) for shape in [(6, 8), (6, 8), (8, 4)]], folder / "inputs.pt")
    run_ranks(views_worker, (str(folder),))
    return folder


def views_worker(rank: int, folder: str) -> None:
    """Save this rank's losses and gradients for its half of the clips, computed by a compiled step as in training."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    first, second, weight = torch.load(Path(folder) / "inputs.pt")
    rows = slice(3 * rank, 3 * rank + 3)
    torch.save(contrasted(first[rows], second[rows], weight), Path(folder) / f"rank{rank}.pt")
    dist.destroy_process_group()


def contrasted(first: Tensor, second: Tensor, weight: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Losses and gradients of a linear layer whose outputs for the first view are fixed, those for the second not."""
    results = {}
    for name, contrast in (("instances", nt_xent), ("groups", group_contrast)):
        layer = weight.clone().requires_grad_()
        fixed, moving = (first @ weight).softmax(dim=1), (second @ layer).softmax(dim=1)
        loss = torch.compile(contrast, backend="eager", fullgraph=True)(fixed, moving, 0.5)
        loss.backward()
        assert layer.grad is not None
        results[name] = loss.detach(), layer.grad
    return results


# --- pseudo-labels ---


def logits_of(*probabilities: tuple[float, ...]) -> Tensor:
    return torch.tensor(probabilities).log()


def test_averages_of_logits_and_of_probabilities_differ_where_the_networks_do() -> None:
    rgb, tg = logits_of((0.8, 0.19, 0.01)), logits_of((0.01, 0.29, 0.70))
    assert pseudo_labels(rgb, tg, "average", "probabilities")[0].tolist() == [0]
    assert pseudo_labels(rgb, tg, "average", "logits")[0].tolist() == [1]


def test_confidence_is_that_of_the_average() -> None:
    rgb, tg = logits_of((0.98, 0.01, 0.01)), logits_of((0.02, 0.49, 0.49))
    # The geometric means 0.14, 0.07, 0.07 make 1/2, 1/4, 1/4; so do the means of the probabilities.
    for fuse in ("logits", "probabilities"):
        assert pseudo_labels(rgb, tg, "average", fuse, threshold=0.499)[1].tolist() == [True]
        assert pseudo_labels(rgb, tg, "average", fuse, threshold=0.501)[1].tolist() == [False]


def test_a_single_source_asks_no_other() -> None:
    rgb, tg = logits_of((0.9, 0.1), (0.4, 0.6)), logits_of((0.2, 0.8), (0.3, 0.7))
    for fuse in ("logits", "probabilities"):
        labels, mask = pseudo_labels(rgb, tg, "rgb", fuse, threshold=0.75)
        assert (labels.tolist(), mask.tolist()) == ([0, 1], [True, False])
        labels, mask = pseudo_labels(rgb, tg, "tg", fuse, threshold=0.75)
        assert (labels.tolist(), mask.tolist()) == ([1, 1], [True, False])
    assert pseudo_labels(rgb, None, "rgb")[0].tolist() == [0, 1]


def test_a_confidence_at_the_threshold_is_kept() -> None:
    even = torch.zeros(1, 4)  # four classes at exactly 0.25
    assert pseudo_labels(even, even, threshold=0.25)[1].tolist() == [True]
    above = math.nextafter(0.25, 1) + 1e-6
    assert pseudo_labels(even, even, threshold=above)[1].tolist() == [False]


def test_a_tie_between_classes_goes_to_the_first() -> None:
    assert pseudo_labels(torch.tensor([[1.0, 3.0, 3.0]]), None, "rgb")[0].tolist() == [1]


def test_labels_and_mask_are_what_cross_entropy_takes_and_carry_no_gradient() -> None:
    logits = torch.randn(3, 5, requires_grad=True)
    labels, mask = pseudo_labels(logits, logits)
    assert (labels.dtype, mask.dtype) == (torch.int64, torch.bool)
    assert labels.shape == mask.shape == (3,)
    assert not labels.requires_grad
    assert not mask.requires_grad


def test_pseudo_labels_refuse_what_they_do_not_know() -> None:
    logits = torch.zeros(1, 2)
    for source in ("average", "tg"):
        with pytest.raises(ValueError, match=f"source '{source}' needs TG logits"):
            pseudo_labels(logits, None, source)
    with pytest.raises(ValueError, match="source 'avg'"):
        pseudo_labels(logits, logits, "avg")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="fuse 'probs'"):
        pseudo_labels(logits, logits, "average", "probs")  # type: ignore[arg-type]


# --- masked cross-entropy ---


def test_masked_cross_entropy_divides_by_the_batch() -> None:
    logits = logits_of((0.5, 0.5), (0.2, 0.8), (0.9, 0.1), (0.25, 0.75))
    labels = torch.tensor([0, 0, 1, 1])
    mask = torch.tensor([True, False, True, False])
    expected = -(math.log(0.5) + math.log(0.1)) / 4
    assert masked_cross_entropy(logits, labels, mask).item() == pytest.approx(expected)


def test_nothing_kept_is_exactly_zero_in_value_and_gradient() -> None:
    logits = torch.randn(3, 4, requires_grad=True)
    loss = masked_cross_entropy(logits, torch.tensor([0, 1, 2]), torch.zeros(3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_all_kept_is_plain_cross_entropy() -> None:
    logits, labels = torch.randn(3, 4), torch.tensor([0, 1, 2])
    kept = torch.ones(3, dtype=torch.bool)
    torch.testing.assert_close(masked_cross_entropy(logits, labels, kept), F.cross_entropy(logits, labels))


# --- soft targets ---


def test_kept_cross_entropy_divides_by_the_kept_rows() -> None:
    logits = logits_of((0.5, 0.5), (0.2, 0.8), (0.9, 0.1), (0.25, 0.75))
    targets = torch.tensor([(0.3, 0.7), (1.0, 0.0), (0.0, 1.0), (0.5, 0.5)])
    mask = torch.tensor([True, False, True, False])
    expected = -(0.3 * math.log(0.5) + 0.7 * math.log(0.5) + math.log(0.1)) / 2
    assert kept_cross_entropy(logits, targets, mask).item() == pytest.approx(expected)


def test_without_a_kept_row_kept_cross_entropy_is_exactly_zero_in_value_and_gradient() -> None:
    logits = torch.randn(3, 4, requires_grad=True)
    loss = kept_cross_entropy(logits, torch.full((3, 4), 0.25), torch.zeros(3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_softmax_mse_is_the_mean_over_classes_and_rows_and_moves_the_first_alone() -> None:
    ours, theirs = (logits_of(*rows).requires_grad_() for rows in (((0.5, 0.5), (0.2, 0.8)), ((0.6, 0.4), (0.9, 0.1))))
    loss = softmax_mse(ours, theirs)
    assert loss.item() == pytest.approx((2 * 0.1**2 + 2 * 0.7**2) / 4)
    loss.backward()
    assert ours.grad is not None
    assert ours.grad.any(dim=1).all()
    assert theirs.grad is None


# --- negative cross-entropy ---


def test_negative_cross_entropy_is_a_mean_over_each_clip_s_negatives() -> None:
    logits = logits_of((0.5, 0.3, 0.2), (0.1, 0.2, 0.7), (0.6, 0.3, 0.1))
    negatives = torch.tensor([[False, True, True], [False, False, False], [True, False, False]])
    losses = negative_cross_entropy(logits, negatives)
    expected = [-(math.log(0.7) + math.log(0.8)) / 2, 0, -math.log(0.4)]
    assert losses.tolist() == pytest.approx(expected)
    assert losses[1] == 0


def test_negative_cross_entropy_makes_its_classes_less_probable_and_stands_certainty() -> None:
    logits = torch.tensor([[0.0, 1.0, 0.0], [200.0, 0.0, 0.0]], requires_grad=True)
    losses = negative_cross_entropy(logits, torch.tensor([[False, True, False], [True, False, False]]))
    assert losses.isfinite().all()
    losses.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad[0, 1] > 0
    assert logits.grad[0, 0] < 0


# --- precision ---


def test_losses_compute_in_float32_under_autocast_and_from_bfloat16() -> None:
    torch.manual_seed(0)
    rgb, tg = torch.randn(2, 4, 8, 2, 3, 3).bfloat16()
    pooled = rgb.mean(dim=(2, 3, 4)), tg.mean(dim=(2, 3, 4))
    labels, mask = torch.tensor([0, 1, 2, 3]), torch.ones(4, dtype=torch.bool)

    def losses(cast: torch.dtype) -> list[Tensor]:
        features, embeddings = (rgb.to(cast), tg.to(cast)), [p.to(cast) for p in pooled]
        return [
            alignment_loss([features[0]], [features[1]]),
            alignment_loss([features[0]], [features[1]], kind="l1"),
            alignment_loss([features[0]], [features[1]], kind="l2"),
            info_nce(embeddings[0], embeddings[1], 0.1),
            nt_xent(embeddings[0], embeddings[1], 0.1),
            group_contrast(embeddings[0], embeddings[1], 0.1),
            masked_cross_entropy(embeddings[0], labels, mask),
            kept_cross_entropy(embeddings[0], F.one_hot(labels, 8).float(), mask),
            softmax_mse(embeddings[0], embeddings[1]),
            negative_cross_entropy(embeddings[0], embeddings[1] > 0).sum(),
        ]

    expected = losses(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for value, exact in zip(losses(torch.bfloat16) + losses(torch.float32), expected + expected, strict=True):
            assert value.dtype == torch.float32
            torch.testing.assert_close(value, exact, rtol=1e-6, atol=0)
        confidence_at_threshold = torch.zeros(1, 3, dtype=torch.bfloat16)
        assert pseudo_labels(confidence_at_threshold, None, "rgb", threshold=1 / 3 - 1e-6)[1].item()
        assert not pseudo_labels(confidence_at_threshold, None, "rgb", threshold=1 / 3 + 1e-6)[1].item()
