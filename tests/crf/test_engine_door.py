"""The compiled module refuses what `fastseg.crf` would not pass, without a panic."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from fastseg import _rust

WORKSPACE = _rust.Workspace(0)
F32 = np.float32


def zeros(*shape, dtype=F32):
    return np.zeros(shape, dtype)


def infer(unary, shape, kernels=(), **options):
    options = {
        "clip": None,
        "iterations": 1,
        "tolerance": None,
        "labels": False,
        "progress": None,
        **options,
    }
    return _rust.infer(unary, shape, kernels=list(kernels), workspace=WORKSPACE, **options)


def update(unary, q, shape, kernels=()):
    return _rust.update(unary, q, shape, kernels=list(kernels), workspace=WORKSPACE)


def messages(q, shape, kernels=()):
    return _rust.messages(q, shape, kernels=list(kernels), workspace=WORKSPACE)


def free_energy(unary, q, shape, kernels=()):
    return _rust.free_energy(unary, q, shape, kernels=list(kernels), workspace=WORKSPACE)


def lattice(features, shape):
    return _rust.Lattice(features, shape, WORKSPACE)


def spatial(shape, sigmas):
    return _rust.Kernel.spatial(shape, sigmas, normalization="symmetric", workspace=WORKSPACE)


def bilateral(shape, sigmas, image, color_sigmas):
    return _rust.Kernel.bilateral(
        shape, sigmas, image, color_sigmas, normalization="symmetric", workspace=WORKSPACE
    )


def features_kernel(features, shape):
    return _rust.Kernel.features(
        features, shape, normalization="none", with_origin=True, workspace=WORKSPACE
    )


@pytest.fixture
def kernel():
    return spatial([2, 3], [1.0, 1.0])


def test_what_is_right_passes(kernel):
    result, done, energies = infer(zeros(4, 6), [2, 3], [(kernel, 1.0)])
    assert result.shape == (4, 6)
    assert done == 1
    assert energies == []
    # Axes of one point change nothing.
    same, _, _ = infer(zeros(4, 6), [1, 2, 1, 3, 1], [(kernel, 1.0)])
    np.testing.assert_array_equal(same, result)


@pytest.mark.parametrize("call", [infer, messages])
@pytest.mark.parametrize(
    ("rows", "shape"),
    [
        (zeros(0, 6), [2, 3]),  # no labels
        (zeros(2, 0), [0]),  # no points
        (zeros(2, 0), [2**63, 0]),
        (zeros(2, 6), [7]),
        (zeros(2, 0), [2**63, 2]),  # wraps to none
        (zeros(2, 4), [2**62 + 1, 4]),  # wraps to 4
        (np.asfortranarray(np.arange(12, dtype=F32).reshape(2, 6)), [6]),
        (zeros(2, 12)[:, ::2], [6]),
    ],
)
def test_labels_and_points(call, rows, shape):
    with pytest.raises(ValueError, match=r"no labels|shape|not contiguous"):
        call(rows, shape)


@pytest.mark.parametrize("q", [zeros(6, 2), zeros(2, 5), zeros(3, 6), zeros(2, 12)[:, ::2]])
def test_q_of_another_shape(q):
    for call in (update, free_energy):
        with pytest.raises(ValueError, match="q "):
            call(zeros(2, 6), q, [6])


@pytest.mark.parametrize("shape", [[6], [3, 2], [1, 6], [3, 1, 2]])
def test_kernel_of_another_shape(kernel, shape):
    for call in (
        lambda: infer(zeros(2, 6), shape, [(kernel, 1.0)]),
        lambda: messages(zeros(2, 6), shape, [(kernel, 1.0)]),
        lambda: update(zeros(2, 6), zeros(2, 6), shape, [(kernel, 1.0)]),
        lambda: free_energy(zeros(2, 6), zeros(2, 6), shape, [(kernel, 1.0)]),
    ):
        with pytest.raises(ValueError, match="kernel of shape"):
            call()


@pytest.mark.parametrize(
    "compat",
    [zeros(0), zeros(1), zeros(3), zeros(2, 3), zeros(4, 1), zeros(0, 0), zeros(2, 4)[:, ::2]],
)
def test_compatibility_of_another_shape(kernel, compat):
    with pytest.raises(ValueError, match=r"weights for 2 labels|matrix"):
        infer(zeros(2, 6), [2, 3], [(kernel, compat)])


@pytest.mark.parametrize(
    "options",
    [
        {"clip": float("nan")},
        {"clip": -0.1},
        {"clip": 1.5},
        {"tolerance": float("nan")},
        {"tolerance": -1.0},
    ],
)
def test_options_out_of_range(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        infer(np.full((2, 6), 0.5, F32), [6], **options)


def test_more_labels_than_fit_their_type():
    unary = zeros(2**16, 1)
    assert infer(unary, [1], labels=True)[0].dtype == np.uint16
    with pytest.raises(ValueError, match="65537 labels"):
        infer(zeros(2**16 + 1, 1), [1], labels=True)


@pytest.mark.parametrize(
    ("features", "shape"),
    [
        (zeros(0, 6), [6]),
        (zeros(2, 0), [0]),
        (zeros(0, 0), [0]),
        (zeros(2, 6), [5]),
        (zeros(2, 0), [2**32, 2**32]),
        (zeros(2, 4), [2**62 + 1, 4]),
        (np.asfortranarray(zeros(2, 6)), [6]),
        (zeros(300, 2), [2]),  # more than a vertex can hold
        (np.full((1, 2), 1e30, F32), [2]),
        (np.full((1, 2), np.nan, F32), [2]),
    ],
)
def test_features(features, shape):
    for build in (lattice, features_kernel):
        with pytest.raises(
            ValueError, match=r"rows|shape|contiguous|words|out of range|not finite"
        ):
            build(features, shape)


@pytest.mark.parametrize("values", [zeros(6), zeros(2, 5), zeros(6, 2), zeros(2, 12)[:, ::2]])
def test_filtered_values(values):
    built = lattice(zeros(2, 6), [6])
    assert built.filter(zeros(0, 6), False).shape == (0, 6)
    with pytest.raises((ValueError, TypeError), match=r"values|cannot be cast|contiguous"):
        built.filter(values, False)


@pytest.mark.parametrize(
    ("shape", "sigmas"),
    [
        ([4, 4], [1.0]),
        ([4], [1.0, 1.0]),
        ([], []),
        ([0], [1.0]),
        ([4, 0], [1.0, 1.0]),
        ([4], [0.0]),
        ([4], [-1.0]),
        ([4], [float("nan")]),
        ([4], [1e-38]),
        ([2**63, 2], [1.0, 1.0]),
        ([2**62], [1.0]),  # more than memory holds
        ([2**31], [1.0]),
    ],
)
def test_spatial(shape, sigmas):
    with pytest.raises(ValueError, match=r"sigmas|axis|shape|points|out of range|not finite"):
        spatial(shape, sigmas)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, F32])
@pytest.mark.parametrize(
    ("shape", "sigmas", "image_shape", "color_sigmas"),
    [
        ([2, 3], [1.0, 1.0], (6, 3), [1.0, 1.0]),
        ([2, 3], [1.0, 1.0], (6, 2), [1.0, 1.0, 1.0]),
        ([2, 3], [1.0, 1.0], (3, 6), [1.0, 1.0, 1.0]),
        ([2, 3], [1.0, 1.0], (6, 0), []),
        ([2, 3], [1.0], (6, 3), [1.0, 1.0, 1.0]),
        ([0, 3], [1.0, 1.0], (0, 3), [1.0, 1.0, 1.0]),
        ([2**63, 2], [1.0, 1.0], (0, 3), [1.0, 1.0, 1.0]),
        ([2, 3], [1.0, 1.0], (6, 1), [0.0]),
        ([2, 3], [1.0, 1.0], (6, 1), [float("nan")]),
    ],
)
def test_bilateral(dtype, shape, sigmas, image_shape, color_sigmas):
    with pytest.raises(ValueError, match=r"sigmas|channel|shape|not finite"):
        bilateral(shape, sigmas, np.zeros(image_shape, dtype), color_sigmas)


@pytest.mark.parametrize("threads", [0, 1025, 2**40])
def test_number_of_threads(threads):
    before = _rust.num_threads()
    with pytest.raises(ValueError, match="threads must be in"):
        _rust.set_num_threads(threads)
    assert _rust.num_threads() == before


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_threads_that_cannot_be_started():
    """An explicit number is refused and changes nothing; the pool of first use becomes smaller."""
    script = """
        import os, re, resource
        import numpy as np
        os.environ["FASTSEG_NUM_THREADS"] = "1024"
        import fastseg
        from fastseg.errors import BackendError
        size = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1]) << 10
        resource.setrlimit(resource.RLIMIT_AS, (size + (288 << 20), resource.RLIM_INFINITY))
        probs = np.full((2, 9, 9), 0.5, np.float32)
        fastseg.crf.refine(probs, np.zeros((9, 9, 3), np.uint8))
        started = fastseg.get_num_threads()
        assert 1 <= started < 1024, started
        try:
            fastseg.set_num_threads(1024)
        except BackendError as error:
            assert "1024 threads" in str(error)
        else:
            raise AssertionError("1024 threads in 288 MiB")
        assert fastseg.get_num_threads() == started
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
        fastseg.set_num_threads(2)
        fastseg.crf.refine(probs, np.zeros((9, 9, 3), np.uint8))
        print("fine")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        # Four stacks fit and a fifth does not, which leaves half of one: small allocations of
        # the threads that did start must not fail. Arenas would take the room of two.
        env={**os.environ, "RUST_MIN_STACK": str(64 << 20), "MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "fine\n", done.stdout + done.stderr
