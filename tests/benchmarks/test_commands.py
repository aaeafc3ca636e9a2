"""One way in for all benchmarks."""

import sys
from types import SimpleNamespace

import pytest

import benchmarks.__main__ as commands


def test_a_command_gets_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    module = SimpleNamespace(main=lambda: seen.extend(sys.argv))
    monkeypatch.setattr(commands, "import_module", {"benchmarks.gpu_check": module}.__getitem__)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "gpu-check", "--device", "cpu"])
    commands.main()
    assert seen == ["python -m benchmarks gpu-check", "--device", "cpu"]


@pytest.mark.parametrize(("arguments", "status"), [([], 2), (["no-such-thing"], 2), (["soup"], 2), (["--help"], 0)])
def test_without_a_command_those_that_exist_are_listed(
    arguments: list[str], status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(commands, "COMMANDS", {"peers": "compared", "soup": "not there"})
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit) as caught:
        commands.main()
    assert caught.value.code == status
    output = capsys.readouterr()
    shown = output.err if status else output.out
    assert "peers" in shown
    assert "not there" not in shown
