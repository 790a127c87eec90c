"""`fastseg.compat.pydensecrf.eigen`: the matrices that pydensecrf hands out."""

import numpy as np
import pytest


@pytest.mark.parametrize("shape", [(3,), (1,), (2, 3), (1, 1)])
def test_round_trip(ours, peer, shape):
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    name = "vectorXf" if len(shape) == 1 else "matrixXf"
    for module in (peer.eigen, ours.eigen):
        wrapped = getattr(module, name)(values)
        assert type(wrapped) is getattr(module, name[0].upper() + name[1:])
        result = np.array(wrapped)
        assert type(result) is np.ndarray
        assert result.dtype == np.float32
        np.testing.assert_array_equal(result, values)


def test_wrapping_copies(ours):
    values = np.ones((2, 3), np.float32)
    wrapped = ours.eigen.matrixXf(values)
    values.fill(5)
    np.testing.assert_array_equal(np.array(wrapped), 1)


@pytest.mark.parametrize("arguments", [(), (1,)])
def test_empty(ours, peer, arguments):
    for module in (peer.eigen, ours.eigen):
        assert np.array(module.MatrixXf(*arguments)).shape == (0, 0)
        assert np.array(module.VectorXf(*arguments)).shape == (0,)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.ones((3, 3, 3), np.float32), ValueError),
        (np.ones((3, 3), np.float64), ValueError),
        (None, TypeError),
        ([[1.0]], TypeError),
    ],
    ids=["3-D", "float64", "None", "list"],
)
def test_errors(ours, peer, values, kind):
    for module in (peer.eigen, ours.eigen):
        for wrap in (module.matrixXf, module.vectorXf):
            with pytest.raises(kind):
                wrap(values)
