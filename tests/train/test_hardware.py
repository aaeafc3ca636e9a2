"""Numbers of the machine: all a GPU tells, what can be told without one, and never an error."""

from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
import torch

from train.hardware import NAMES, HardwareMonitor
from train.metrics import Meter, loss_names


class FakeNvml:
    """Stands in for the driver; remembers which GPU was asked for and whether it was let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.num_users = 0
        self.uuids: list[str] = []
        for name in ("Init", "Shutdown", "DeviceGetHandleByUUID", "DeviceGetUtilizationRates"):
            monkeypatch.setattr(pynvml, f"nvml{name}", getattr(self, name))
        for name in ("DeviceGetDecoderUtilization", "DeviceGetMemoryInfo", "DeviceGetPowerUsage"):
            monkeypatch.setattr(pynvml, f"nvml{name}", getattr(self, name))
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="abc-1"))

    def Init(self) -> None:  # noqa: N802
        self.num_users += 1

    def Shutdown(self) -> None:  # noqa: N802
        self.num_users -= 1

    def DeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        self.uuids.append(uuid)
        return "handle"

    def DeviceGetUtilizationRates(self, gpu: str) -> Any:  # noqa: N802
        return SimpleNamespace(gpu=93, memory=40)

    def DeviceGetDecoderUtilization(self, gpu: str) -> tuple[int, int]:  # noqa: N802
        return 41, 167_000

    def DeviceGetMemoryInfo(self, gpu: str) -> Any:  # noqa: N802
        return SimpleNamespace(used=3 * 2**29, free=0, total=0)

    def DeviceGetPowerUsage(self, gpu: str) -> int:  # noqa: N802
        return 412_500


def refuse(*args: Any) -> Any:
    raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)


def test_gpu_is_found_by_its_uuid_read_and_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml(monkeypatch)
    monitor = HardwareMonitor("cuda:1")
    found = monitor.sample()
    assert nvml.uuids == ["GPU-abc-1"]
    gpu = {name: found[name] for name in NAMES[:4]}
    assert gpu == {"gpu_pct": 93.0, "nvdec_pct": 41.0, "gpu_memory_gib": 1.5, "gpu_power_w": 412.5}
    assert tuple(found) == NAMES
    assert nvml.num_users == 1
    monitor.close()
    monitor.close()
    assert nvml.num_users == 0
    assert "gpu_pct" not in monitor.sample()
    HardwareMonitor("cuda").sample()
    assert nvml.num_users == 0  # the second was never closed, but nobody holds it


def test_what_a_driver_refuses_is_absent_and_the_rest_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeNvml(monkeypatch)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUtilizationRates", refuse)
    found = HardwareMonitor("cuda").sample()
    assert "gpu_pct" not in found
    assert found["nvdec_pct"] == 41


@pytest.mark.parametrize("missing", ["nvmlInit", "nvmlDeviceGetHandleByUUID"])
def test_without_a_driver_or_its_gpu_the_process_is_told_of_all_the_same(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml = FakeNvml(monkeypatch)
    monkeypatch.setattr(pynvml, missing, refuse)
    found = HardwareMonitor("cuda").sample()
    assert set(found) <= {"cpu_pct", "memory_gib", "peak_memory_gib"}
    assert nvml.num_users == 0


def test_a_training_on_the_cpu_does_not_look_at_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml(monkeypatch)
    found = HardwareMonitor("cpu").sample()
    assert set(found) <= {"cpu_pct", "memory_gib", "peak_memory_gib"}
    assert not nvml.uuids


def test_cpu_and_memory_of_this_process_are_plausible() -> None:
    monitor = HardwareMonitor()
    number = 0
    for i in range(200_000):
        number += i * i
    found = monitor.sample()
    assert 1 < found["cpu_pct"] < 2000
    assert 0.01 < found["memory_gib"] < 100
    before = torch.ones(2**26)  # 256 MiB
    assert monitor.sample()["memory_gib"] - found["memory_gib"] == pytest.approx(before.nbytes / 2**30, abs=0.05)


def test_the_peak_is_what_memory_has_been_though_it_is_given_back() -> None:
    monitor = HardwareMonitor()
    before = monitor.sample()["peak_memory_gib"]
    for _ in range(2):
        torch.ones(2**28)  # 1 GiB, gone at once
        found = monitor.sample()
        assert found["peak_memory_gib"] == pytest.approx(max(before, found["memory_gib"] + 1), rel=0.1)


def test_records_of_training_hold_them_and_none_is_taken_for_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeNvml(monkeypatch)
    record = {"loss": 1.0, **Meter(device="cuda").read()}
    assert set(NAMES) <= set(record)
    assert loss_names(record) == ["loss"]
