"""What every accumulator shares, without torch: update, compute, reset, merge, states."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest

from fastseg import metrics
from fastseg.errors import DtypeError, ParameterError, ShapeError

MAKE = {
    "MeanIoU": {},
    "MeanIoU, image": {"over": "image"},
    "MeanIoU, worst": {"over": ("image", "class"), "worst": 0.4},
    "IoU": {},
    "Dice": {"average": "macro"},
    "F1": {},
    "Precision": {},
    "Recall": {"average": "weighted"},
    "Accuracy": {"average": "micro"},
    "FrequencyWeightedIoU": {},
    "CohenKappa": {"weights": "linear"},
    "MatthewsCorrCoef": {},
    "ConfusionMatrix": {},
}


@pytest.fixture(params=MAKE)
def make(request, monkeypatch):
    """Makes an accumulator, plain whether torchmetrics is loaded by another test or not."""
    monkeypatch.delitem(sys.modules, "torchmetrics", raising=False)
    cls = getattr(metrics, request.param.split(",")[0])
    return lambda: cls(num_classes=4, ignore_index=9, **MAKE[request.param])


@pytest.fixture
def batches():
    rng = np.random.default_rng(0)
    preds, targets = rng.integers(0, 4, (2, 3, 5, 8, 9))
    targets[..., 0] = 9
    return list(zip(preds, targets, strict=True))


def values(score):
    """A score as one flat array."""
    return np.concatenate(
        [np.ravel(x) for x in score.values()] if isinstance(score, dict) else [np.ravel(score)]
    )


def filled(make, batches):
    m = make()
    for batch in batches:
        m.update(*batch)
    return m


def test_batches_add_up(make, batches):
    whole = make()
    whole.update(*(np.concatenate(x) for x in zip(*batches, strict=True)))
    found = values(filled(make, batches).compute())
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, values(whole.compute()), rtol=1e-14)


def test_results_are_floats_or_arrays(make, batches):
    score = filled(make, batches).compute()
    scores = score.values() if isinstance(score, dict) else [score]
    for one in scores:
        assert type(one) is float or one.dtype in (np.float64, np.int64)


def test_reset_forgets(make, batches):
    m = filled(make, batches)
    m.reset()
    m.update(*batches[0])
    np.testing.assert_array_equal(values(m.compute()), values(filled(make, batches[:1]).compute()))


def test_merge_adds(make, batches):
    m, other = filled(make, batches[:1]), filled(make, batches[1:])
    before = values(other.compute())
    m.merge(other)
    expected = values(filled(make, batches).compute())
    np.testing.assert_allclose(values(m.compute()), expected, rtol=1e-14)
    np.testing.assert_array_equal(values(other.compute()), before)


def test_states_travel(make, batches):
    m = filled(make, batches[:2])
    state = m.state_dict()
    assert all(isinstance(value, np.ndarray) for value in state.values())
    fresh = make()
    fresh.load_state_dict(state)
    fresh.update(*batches[2])
    expected = values(filled(make, batches).compute())
    np.testing.assert_allclose(values(fresh.compute()), expected, rtol=1e-14)
    # The states that were given away are copies.
    np.testing.assert_array_equal(values(m.compute()), values(filled(make, batches[:2]).compute()))


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_go_their_own_way(make, batches, how):
    m = filled(make, batches[:1])
    before = values(m.compute())
    other = how(m)
    np.testing.assert_array_equal(values(other.compute()), before)
    if how is not copy.copy:
        other.update(*batches[1])
        np.testing.assert_array_equal(values(m.compute()), before)


def test_nothing_yet_is_nan_or_zero(make):
    found = values(make().compute())
    assert np.isnan(found).all() or not found.any()


def test_says_what_it_is(make):
    text = repr(make())
    assert "num_classes=4" in text
    assert "ignore_index=9" in text
    assert make().config["num_classes"] == 4


def test_loads_no_torch():
    code = """
import sys
import numpy as np
from fastseg import metrics
m = metrics.MeanIoU(num_classes=2, over=("dataset", "image"))
m.update(np.array([[0, 1]]), np.array([[0, 1]]))
m.merge(m)
m.load_state_dict(m.state_dict())
assert m.compute() == {"dataset": 1.0, "image": 1.0}
print(*{name.split('.')[0] for name in sys.modules})
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "torchmetrics", "scipy"} & set(run.stdout.split())


class TestBadInput:
    @pytest.fixture(autouse=True)
    def _plain(self, monkeypatch):
        monkeypatch.delitem(sys.modules, "torchmetrics", raising=False)

    def test_merging_something_else(self):
        m = metrics.MeanIoU(num_classes=3)
        with pytest.raises(ParameterError, match="only another MeanIoU"):
            m.merge(metrics.Dice(num_classes=3))
        with pytest.raises(ParameterError, match="only another MeanIoU"):
            m.merge(None)
        with pytest.raises(ParameterError, match="same parameters"):
            m.merge(metrics.MeanIoU(num_classes=3, ignore_index=0))

    def test_states_of_something_else(self):
        m = metrics.MeanIoU(num_classes=3)
        state = m.state_dict()
        with pytest.raises(ParameterError, match="counts otherwise"):
            m.load_state_dict(metrics.MeanIoU(num_classes=3, ignore_index=7).state_dict())
        with pytest.raises(ParameterError, match=r"missing: \['confusion'\]"):
            m.load_state_dict({"counting": state["counting"]})
        with pytest.raises(ParameterError, match=r"unknown: \['more'\]"):
            m.load_state_dict({**state, "more": 1})
        m.load_state_dict({**state, "more": 1}, strict=False)
        with pytest.raises(ShapeError, match="state 'confusion'"):
            m.load_state_dict({"confusion": np.zeros((4, 5), int)})

    def test_options_of_torchmetrics_without_it(self):
        with pytest.raises(ParameterError, match="no parameter 'sync_on_compute'"):
            metrics.MeanIoU(num_classes=3, sync_on_compute=False)

    def test_states_that_would_not_be_exact(self):
        with pytest.raises(DtypeError, match="int64 or float64"):
            metrics.State(np.zeros(3, np.float32))
        with pytest.raises(ShapeError, match="rows start with none"):
            metrics.State(np.zeros((2, 3)), "rows")

    def test_updates_are_checked_as_functions_are(self):
        m = metrics.Dice(num_classes=3)
        with pytest.raises(ShapeError, match="same shape"):
            m.update(np.zeros(3, int), np.zeros(4, int))
        with pytest.raises(DtypeError, match="integer type"):
            m.update(np.zeros(3), np.zeros(3, int))


def test_a_metric_of_one_s_own(monkeypatch):
    monkeypatch.delitem(sys.modules, "torchmetrics", raising=False)

    class Share(metrics.Accumulator):
        def __init__(self):
            states = {"pixels": metrics.State(np.zeros(2, np.int64))}
            super().__init__(states, counting={}, scoring={}, options={})

        def update(self, mask):
            self._accumulate(pixels=np.array([mask.sum(), mask.size]))

        def compute(self):
            foreground, size = self._states()["pixels"]
            return self._result(foreground / size)

        def wrong(self):
            self._accumulate(pixels=np.zeros(3, int))

    m = Share()
    m.update(np.array([True, False]))
    assert m.compute() == 0.5
    with pytest.raises(ShapeError, match="state 'pixels'"):
        m.wrong()
