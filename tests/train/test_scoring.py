"""Accuracies against numbers worked out by hand, and the network left as it was found."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model import normalize
from pipeline.batch import Modality, Views
from tests.train.standins import CLASS_NAMES, TinyRecognizer
from train.scoring import accuracy, predict_center, predict_test


def one_hot(guesses: list[int], num_classes: int) -> Tensor:
    return nn.functional.one_hot(torch.tensor(guesses), num_classes).float()


def test_top1_and_mean_of_classes_by_hand() -> None:
    # class 0: 3 of 4 right; class 1: 0 of 1; class 2 is only guessed; class 3 occurs nowhere
    result = accuracy(one_hot([0, 0, 0, 2, 2], 4), torch.tensor([0, 0, 0, 0, 1]))
    assert result.top1 == pytest.approx(3 / 5)
    assert result.mean_class == pytest.approx((3 / 4 + 0 + 0) / 3)
    assert result.num_videos == 5


def test_top5_by_hand() -> None:
    logits = torch.tensor([[6.0, 5, 4, 3, 2, 1, 0]]).repeat(3, 1)
    assert accuracy(logits, torch.tensor([0, 4, 5])).top5 == pytest.approx(2 / 3)


def test_top5_of_fewer_classes_is_all_of_them() -> None:
    assert accuracy(torch.randn(4, 3), torch.tensor([0, 1, 2, 0])).top5 == 1.0


def _views(row: int, num_clips: int) -> Views:
    pixels = torch.randint(0, 256, (num_clips, 2, 6, 6, 3), generator=torch.Generator().manual_seed(row))
    return Views(pixels.to(torch.uint8), None)


@pytest.mark.parametrize("training", [True, False])
def test_center_evaluation_matches_the_network_and_leaves_its_state_alone(training: bool) -> None:
    torch.manual_seed(0)
    network = TinyRecognizer().train(training)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    rows = [torch.tensor([4, 1]), torch.tensor([3])]
    clips = [_views(7, 2), _views(8, 1)]
    labels = np.array([-1, 0, -1, 1, 2])
    result = predict_center({"rgb": network}, zip(rows, clips, strict=True))["rgb"].accuracy(labels)

    assert network.training is training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    logits = network.eval()(normalize(torch.cat([view.rgb for view in clips])))[0]
    assert result == accuracy(logits, torch.tensor([2, 0, 1]))


class Readout(nn.Module):
    """Logits are the first clip pixels as they came, so that a test can choose them."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, clip: Tensor) -> tuple[Tensor, list[Tensor]]:
        return self.scale * clip[:, 0, 0, 0, : len(CLASS_NAMES)], []


def test_test_evaluation_averages_logits_not_votes() -> None:
    # Two views lean to class 0 a little, one is for class 1 by far: votes say 0, the mean of the logits says 1.
    pixels = torch.zeros(3, 1, 1, 3, 3, dtype=torch.uint8)
    pixels[:, 0, 0, :, 0] = torch.tensor([[60, 50, 0], [60, 50, 0], [0, 200, 0]])

    def views() -> Iterator[tuple[int, Views]]:
        yield 1, Views(pixels, None)

    predictions = predict_test({"rgb": Readout()}, views())["rgb"]
    assert predictions.accuracy(np.array([0, 1])).top1 == 1.0
    assert predictions.accuracy(np.array([1, 0])).top1 == 0.0


def test_training_mode_returns_when_the_views_break_off() -> None:
    network = TinyRecognizer().train()

    def broken() -> Iterator[tuple[int, Views]]:
        yield 0, _views(0, 2)
        raise RuntimeError("disk gone")

    with pytest.raises(RuntimeError, match="disk gone"):
        predict_test({"rgb": network}, broken())
    assert network.training


def test_each_network_sees_its_own_modality() -> None:
    rgb, tg = (torch.full((2, 1, 1, 3, 3), value, dtype=torch.uint8) for value in (50, 200))
    networks: dict[Modality, nn.Module] = {"rgb": Readout(), "tg": Readout()}
    predictions = predict_center(networks, [(torch.tensor([3, 1]), Views(rgb, tg))])
    for modality, pixels in (("rgb", rgb), ("tg", tg)):
        assert torch.equal(predictions[modality].logits, normalize(pixels)[:, 0, 0, 0])  # type: ignore[index]
        assert predictions[modality].rows.tolist() == [3, 1]  # type: ignore[index]
