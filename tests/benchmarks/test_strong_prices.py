"""Every strong operation has a price, beside that of a strong view that draws none."""

import pytest

from benchmarks import strong_prices
from benchmarks.strong_prices import NONE
from benchmarks.training import Training
from pipeline.graph import ClipGraph, Sample
from pipeline.strong import OPS, STAGES


def test_every_operation_has_a_price_of_its_own(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    def charge(graph: ClipGraph, samples: list[Sample]) -> float:
        """A tenth for a strong view, and for each of its stages by its place."""
        graph(samples)
        if not graph.spec.strong:
            return 0.0
        assert len(samples) == 2
        return 0.1 + sum(place + 1 for place, on in enumerate(samples[0]["rgb_switches"]) if on)

    monkeypatch.setattr(strong_prices, "_cpu_ms", charge)
    prices = strong_prices.strong_prices(training, num_clips=2, repeats=1)
    assert list(prices) == [*OPS, NONE]
    assert prices[NONE].values == pytest.approx((0.1,))
    for name in OPS[5:]:
        assert prices[name].values == pytest.approx((STAGES.index(name) + 1,))
    assert prices["rotate"].values == pytest.approx((STAGES.index("warp") + 1,))
    assert prices["translate_x"].values == pytest.approx((STAGES.index("shift") + 1,))
