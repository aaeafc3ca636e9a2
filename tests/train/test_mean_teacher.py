"""Mean Teacher: who sees which clips, how the teacher follows, what is its own, and how the weight rises."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from model import R3D18, normalize
from pipeline.batch import ClipBatch
from pipeline.errors import InputError
from tests.train.method_cases import (
    EPOCH_0,
    EPOCH_1,
    EPOCH_2,
    NUM_CLASSES,
    NUM_LABELED,
    NUM_UNLABELED,
    capture_logits,
    make_batch,
    make_method,
    new_method,
    outputs_of,
)
from tests.train.test_methods import Steps
from tests.train.test_step import NoHostSync
from train.methods.mean_teacher import Config, MeanTeacher


def new_teacher(**options: Any) -> MeanTeacher:
    method = make_method("mean_teacher", **options)
    assert isinstance(method, MeanTeacher)
    return method


def weights(network: R3D18) -> Tensor:
    """All parameters in one row."""
    return torch.cat([parameter.detach().double().flatten() for parameter in network.parameters()])


def clips(batch: ClipBatch) -> tuple[Tensor, Tensor]:
    """What the student sees, and what the teacher sees."""
    assert batch.weak is not None
    assert batch.labeled_second is not None
    assert batch.second is not None
    return (
        torch.cat([batch.labeled.rgb, batch.weak.rgb]),
        torch.cat([batch.labeled_second.rgb, batch.second.rgb]),
    )


# --- the definition: in eval mode BatchNorm does not tie the views together ---


def test_the_student_is_drawn_to_what_the_teacher_says_of_other_clips_of_all_videos() -> None:
    method = new_teacher(consistency_weight=7.0).eval()
    for seed, network in enumerate((method.student, method.teacher)):
        nn.init.normal_(network.classifier.weight, std=0.1, generator=torch.Generator().manual_seed(seed))
    batch = make_batch(method)
    ours, theirs = (
        torch.cat([network(normalize(clip[None]))[0] for clip in seen])
        for network, seen in zip((method.student, method.teacher), clips(batch), strict=True)
    )
    outputs = method(batch, EPOCH_0)
    num_values = NUM_CLASSES * (NUM_LABELED + NUM_UNLABELED)
    consistency = (ours.softmax(dim=1) - theirs.softmax(dim=1)).square().sum() / num_values
    torch.testing.assert_close(outputs["consistency"], consistency)
    torch.testing.assert_close(outputs["supervised"], F.cross_entropy(ours[:NUM_LABELED], batch.labels))
    torch.testing.assert_close(outputs["loss"], outputs["supervised"] + 7 * outputs["consistency"])


def test_all_clips_of_a_network_are_one_batch() -> None:
    method = new_teacher()
    captured = [capture_logits(network) for network in (method.student, method.teacher)]
    method(make_batch(method), EPOCH_0)
    (ours,), (theirs,) = captured
    assert len(ours) == len(theirs) == MeanTeacher.smallest_batch(Config(), NUM_LABELED, NUM_UNLABELED)


# --- the teacher ---


def test_the_teacher_is_what_is_evaluated_and_begins_as_a_copy() -> None:
    method = new_teacher()
    assert method.recognizer is method.teacher
    assert method.networks == {"rgb": method.teacher}
    assert torch.equal(weights(method.teacher), weights(method.student))


def test_at_first_the_teacher_is_the_mean_of_all_weights_so_far() -> None:
    method = new_teacher()
    steps, past = Steps(method), [weights(method.student)]
    for _ in range(3):
        steps.run(1)
        past.append(weights(method.student))
        torch.testing.assert_close(weights(method.teacher), torch.stack(past).mean(dim=0), rtol=1e-5, atol=1e-7)
    assert not torch.equal(past[0], past[-1])
    assert not any(parameter.requires_grad for parameter in method.teacher.parameters())


def test_then_the_teacher_is_an_exponential_average() -> None:
    method = new_teacher(decay=0.75)
    steps, expected = Steps(method), weights(method.student)
    for decay in (1 / 2, 2 / 3, 0.75, 0.75, 0.75):
        steps.run(1)
        expected = decay * expected + (1 - decay) * weights(method.student)
        torch.testing.assert_close(weights(method.teacher), expected, rtol=1e-5, atol=1e-7)


def test_the_teacher_forgets_faster_while_the_weight_rises() -> None:
    method = new_teacher(rampup_epochs=2, rampup_decay=0.25, decay=0.375)
    batch = make_batch(method)
    for epoch, decay in ((EPOCH_0, 0.25), (EPOCH_1, 0.25), (EPOCH_2, 0.375)):
        method(batch, epoch)
        with torch.no_grad():
            for parameter in method.student.parameters():
                parameter.fill_(1.0)
            for parameter in method.teacher.parameters():
                parameter.fill_(0.0)
        method.stepped()
        assert (weights(method.teacher) == 1 - decay).all()


def test_the_teacher_has_running_averages_of_its_own() -> None:
    method = new_teacher()
    alone = R3D18(NUM_CLASSES, width=8, dropout=0.0).to(memory_format=torch.channels_last_3d)
    alone.load_state_dict(method.teacher.state_dict())
    batch = make_batch(method)
    method(batch, EPOCH_0)
    alone(normalize(clips(batch)[1]))
    seen = {name: buffer.clone() for name, buffer in method.teacher.named_buffers()}
    torch.testing.assert_close(seen, dict(alone.named_buffers()))
    with torch.no_grad():
        for buffer in method.student.buffers():
            buffer.zero_()
    method.stepped()
    assert all(torch.equal(buffer, seen[name]) for name, buffer in method.teacher.named_buffers())


def test_the_teacher_too_has_dropout_on() -> None:
    method = new_teacher(dropout=0.5)
    captured = capture_logits(method.teacher)
    for _ in range(2):
        method(make_batch(method), EPOCH_0)
    assert not torch.equal(*captured)


def test_the_teachers_move_makes_the_host_wait_nowhere() -> None:
    """On a GPU that is only pretended, so that what would be copied there is seen too."""
    with FakeTensorMode(), torch.device("cuda"):
        method = new_method("mean_teacher")
        with NoHostSync():
            method.stepped()


# --- the weight ---


def test_the_weight_rises_as_a_bell() -> None:
    method = new_teacher(rampup_epochs=4).eval()
    nn.init.normal_(method.student.classifier.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    batch = make_batch(method)
    values = [method(batch, torch.tensor(float(epoch)))["consistency"].item() for epoch in range(7)]
    expected = [math.exp(-5 * (1 - min(1, epoch / 4)) ** 2) for epoch in range(7)]
    assert values == pytest.approx([share * values[-1] for share in expected])
    assert expected[0] == pytest.approx(0.0067, abs=1e-4)


# --- options ---


def test_the_defaults_are_the_authors_in_a_mean_over_labeled_clips() -> None:
    assert Config() == Config(consistency_weight=100.0, rampup_epochs=48, rampup_decay=0.99, decay=0.999)
    outputs = outputs_of("mean_teacher")
    torch.testing.assert_close(outputs["loss"], outputs["supervised"] + 100 * outputs["consistency"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rampup_epochs": -1}, "rampup_epochs -1 is negative"),
        ({"rampup_decay": -0.1}, "rampup_decay -0.1"),
        ({"decay": 1.5}, "decay 1.5"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(Config(), **options)
