"""What runs in torch, as on a GPU: equal to the engine, in plain PyTorch, in Triton, on a GPU."""

from __future__ import annotations

import importlib
from contextlib import contextmanager, nullcontext
from unittest import mock

import numpy as np
import pytest

from crf.tolerances import FILTER_RTOL, Q_ATOL, SUM_RTOL, q_atol
from fastseg.crf import DenseCRF, PermutohedralLattice, refine
from fastseg.errors import BackendError, DataError, DtypeError, ParameterError, ShapeError
from references.pictures import made_up_image, made_up_probs

torch = pytest.importorskip("torch")
ops = importlib.import_module("fastseg.ops")

SHAPE = (9, 12)
ATOL = Q_ATOL["float32"]


class Place:
    """Where tensors are, and what computes with them."""

    def __init__(self, name: str) -> None:
        if name == "cuda" and not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        self.device = "cuda" if name == "cuda" else "cpu"
        self.backend = None if name == "cuda" else name

    def tensor(self, array):
        return torch.tensor(np.ascontiguousarray(array), device=self.device)

    def chosen(self):
        return nullcontext() if self.backend is None else ops.use_backend(self.backend)

    @contextmanager
    def alone(self):
        """Computes here, and fails where the engine is run instead."""
        refinement = importlib.import_module("fastseg.crf.refine")
        with self.chosen(), mock.patch.object(refinement, "_refined", None):
            yield


GPU = pytest.param("cuda", marks=pytest.mark.gpu)


@pytest.fixture(params=["torch", GPU])
def place(request):
    """Plain PyTorch on a CPU, or whatever a GPU runs."""
    return Place(request.param)


@pytest.fixture(params=["torch", "triton", GPU])
def any_place(request):
    """The same, and Triton's interpreter."""
    return Place(request.param)


def assert_equals_the_engine(place, probs, image, **keywords):
    expected = refine(probs, image, **keywords)
    given = place.tensor(probs)
    with place.alone():
        actual = refine(given, None if image is None else place.tensor(image), **keywords)
    assert actual.device == given.device
    assert actual.dtype == given.dtype
    assert actual.is_contiguous()
    np.testing.assert_allclose(actual.cpu().numpy(), expected, rtol=0, atol=q_atol(probs.dtype))


@pytest.mark.parametrize("num_labels", [2, 5])
def test_refine_equals_the_engine(num_labels, any_place):
    probs, image = made_up_probs(num_labels, SHAPE), made_up_image(SHAPE)
    assert_equals_the_engine(any_place, probs, image, iterations=3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2), (33, 70)])
@pytest.mark.parametrize("num_labels", [2, 21])
def test_shapes(shape, num_labels, place):
    assert_equals_the_engine(place, made_up_probs(num_labels, shape), made_up_image(shape))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_dtypes(dtype, place):
    probs = made_up_probs(3, SHAPE).astype(dtype)
    assert_equals_the_engine(place, probs, made_up_image(SHAPE))


@pytest.mark.parametrize("normalization", ["none", "before", "after", "symmetric"])
def test_normalizations(normalization, place):
    probs, image = made_up_probs(3, SHAPE), made_up_image(SHAPE)
    weights = {"spatial_weight": 0.5, "bilateral_weight": 0.1} if normalization == "none" else {}
    assert_equals_the_engine(place, probs, image, normalization=normalization, **weights)


@pytest.mark.parametrize("kind", ["labels", "matrix"])
def test_compat(kind, place):
    rng = np.random.default_rng(3)
    compat = rng.uniform(0.2, 2, 4) if kind == "labels" else rng.uniform(-1, 1, (4, 4))
    probs, image = made_up_probs(4, SHAPE), made_up_image(SHAPE)
    assert_equals_the_engine(place, probs, image, compat=compat)


def test_volumes_and_sigmas_for_each_axis(place):
    shape = (4, 7, 8)
    probs, image = made_up_probs(3, shape), made_up_image(shape, channels=1)[..., 0]
    assert_equals_the_engine(
        place,
        probs,
        image,
        spacing=(3.0, 1.0, 1.5),
        spatial_sigma=(6, 2, 3),
        bilateral_sigma=(9, 20, 30),
        color_sigma=20,
    )


def test_foreground(place):
    foreground = made_up_probs(2, SHAPE)[1]
    for given in (foreground, foreground[None]):
        assert_equals_the_engine(place, given, made_up_image(SHAPE))


def test_batches(place):
    probs = np.stack([made_up_probs(3, SHAPE, seed=i) for i in range(2)])
    images = np.stack([made_up_image(SHAPE, seed=i) for i in range(2)])
    assert_equals_the_engine(place, probs, images)
    assert_equals_the_engine(place, probs, None, bilateral_weight=0)


@pytest.mark.parametrize("weights", [(0, 10), (3, 0), (0, 0), (-3, 5)])
def test_weights(weights, place):
    spatial, bilateral = weights
    assert_equals_the_engine(
        place,
        made_up_probs(3, SHAPE),
        made_up_image(SHAPE),
        spatial_weight=spatial,
        bilateral_weight=bilateral,
    )


@pytest.mark.parametrize("iterations", [0, 1])
def test_few_iterations(iterations, place):
    probs, image = made_up_probs(3, SHAPE), made_up_image(SHAPE)
    probs[:, 2, 3] = 0
    probs[:, 4, 5] = (1, 0, 0)
    for clip in (0.0, 1e-5, 0.2):
        assert_equals_the_engine(place, probs, image, iterations=iterations, clip=clip)


def test_tolerance_stops_where_the_engine_stops(place):
    probs, image = made_up_probs(3, SHAPE), made_up_image(SHAPE)
    for tolerance in (1e-1, 1e-3):
        counts = []
        for given in (probs, place.tensor(probs)):
            done = []
            with place.chosen() if given is not probs else nullcontext():
                refine(
                    given,
                    image,
                    iterations=50,
                    tolerance=tolerance,
                    progress=lambda i, n, done=done: done.append((i, n)),
                )
            counts.append(done[-1][0])
            assert done == [(i + 1, 50) for i in range(len(done))]
        assert counts[0] == counts[1] < 50
        assert_equals_the_engine(place, probs, image, iterations=50, tolerance=tolerance)


def test_logits(place):
    probs, image = made_up_probs(3, SHAPE), made_up_image(SHAPE)
    logits = np.log(probs)
    logits[1, 2, 3] = -np.inf
    for given in (logits, logits[0] - logits[2]):
        expected = refine(logits=given, image=image)
        with place.alone():
            actual = refine(logits=place.tensor(given), image=image)
        np.testing.assert_allclose(actual.cpu().numpy(), expected, rtol=0, atol=ATOL)


@pytest.mark.parametrize(("num_labels", "dtype"), [(3, torch.uint8), (257, torch.int32)])
def test_labels(num_labels, dtype, place):
    probs, image = made_up_probs(num_labels, SHAPE), made_up_image(SHAPE)
    with place.alone():
        actual = refine(place.tensor(probs), place.tensor(image), return_="labels")
        refined = refine(place.tensor(probs), place.tensor(image))
    assert actual.dtype == dtype
    np.testing.assert_array_equal(actual.cpu().numpy(), refined.cpu().numpy().argmax(0))
    with place.alone():
        mask = refine(place.tensor(probs[0]), place.tensor(image), return_="labels")
    np.testing.assert_array_equal(mask.cpu(), refine(probs[0], image, return_="labels"))


def test_a_point_whose_sum_has_no_inverse_is_undecided(place):
    probs, image = made_up_probs(2, SHAPE), made_up_image(SHAPE)
    probs[:, 0, 0] = [1e-40, 3e-40]
    with place.alone():
        actual = refine(place.tensor(probs), place.tensor(image))
    np.testing.assert_allclose(actual.cpu().numpy(), refine(probs, image), atol=1e-5)


@pytest.mark.parametrize("kind", ["numpy", "chw", "uint16", "float64", "bfloat16", "requires grad"])
def test_kinds_of_images(kind, place):
    probs, image = made_up_probs(3, SHAPE), made_up_image(SHAPE)
    expected = refine(probs, image)
    given, picture = place.tensor(probs), place.tensor(image)
    if kind == "numpy":
        picture = np.asfortranarray(image.astype(">f4"))
        picture.flags.writeable = False
    elif kind == "chw":
        picture = picture.permute(2, 0, 1)
    elif kind == "uint16":
        picture = place.tensor(image.astype(np.uint16))
    elif kind == "bfloat16":
        picture = (picture // 2 * 2).bfloat16()
        expected = refine(probs, picture.float().cpu().numpy())
    else:
        picture = picture.to(torch.float64 if kind == "float64" else torch.float32)
        given.requires_grad_(kind == "requires grad")
    with place.alone():
        actual = refine(given, picture)
    assert not actual.requires_grad
    np.testing.assert_allclose(actual.cpu().numpy(), expected, rtol=0, atol=ATOL)


def test_autocast_changes_nothing(place):
    probs, image = place.tensor(made_up_probs(3, SHAPE)), place.tensor(made_up_image(SHAPE))
    compat = np.ones((3, 3)) - np.eye(3)
    with place.alone():
        expected = refine(probs, image, compat=compat)
        with torch.autocast(place.device, dtype=torch.bfloat16):
            actual = refine(probs, image, compat=compat)
    assert torch.equal(actual, expected)


def test_progress_may_cancel(place):
    def progress(done, total):
        raise KeyboardInterrupt

    with place.alone(), pytest.raises(KeyboardInterrupt):
        refine(place.tensor(made_up_probs(3, SHAPE)), made_up_image(SHAPE), progress=progress)


def test_the_engine_says_what_is_wrong(place):
    probs, image = made_up_probs(3, SHAPE), made_up_image(SHAPE)
    bad = probs.copy()
    bad[1, 2, 3] = np.nan
    holes = image.astype(np.float32)
    holes[0, 0, 2] = np.inf
    small = {"color_sigma": 1e-9}
    cases = [
        (DataError, r"probs\[1, 2, 3\] is nan", (bad, image), {}),
        (DataError, "pass them as logits", (probs * 3, image), {}),
        (DataError, "image holds NaN or infinity in channel 2", (probs, holes), {}),
        (ParameterError, "color_sigma of channel 0 is too small", (probs, image), small),
        (ShapeError, "image must have the shape", (probs, image[:, :-1]), {}),
        (DtypeError, "image must be of a real", (probs, image > 3), {}),
        (ShapeError, "color_sigma must be one number", (probs, image), {"color_sigma": (1, 2)}),
    ]
    for error, words, (first, second), keywords in cases:
        with place.chosen(), pytest.raises(error, match=words):
            refine(place.tensor(first), place.tensor(second), **keywords)
    logits = np.full((3, *SHAPE), -np.inf)
    with place.chosen(), pytest.raises(DataError, match="not all of a"):
        refine(logits=place.tensor(logits), image=image)
    with place.chosen(), pytest.raises(DtypeError, match="probs must be float16"):
        refine(place.tensor(probs > 0.5), image)


def test_features_that_need_wider_keys(place):
    """Named, a backend refuses them; a GPU leaves them to the engine."""
    probs, image = made_up_probs(3, SHAPE), made_up_image(SHAPE, channels=9)
    given = place.tensor(probs)
    with place.chosen():
        if place.backend is None:
            actual = refine(given, image, color_sigma=0.01)
            np.testing.assert_array_equal(actual.cpu(), refine(probs, image, color_sigma=0.01))
        else:
            with pytest.raises(BackendError, match="63"):
                refine(given, image, color_sigma=0.01)


def test_sparse_tensors_are_refused(place):
    probs = place.tensor(made_up_probs(3, SHAPE))
    with place.chosen(), pytest.raises(DtypeError, match="probs must be a dense tensor"):
        refine(probs.to_sparse(), made_up_image(SHAPE))


def test_the_rust_backend_is_the_engine():
    probs, image = made_up_probs(3, SHAPE), made_up_image(SHAPE)
    with ops.use_backend("rust"):
        actual = refine(torch.from_numpy(probs), image)
    np.testing.assert_array_equal(actual.numpy(), refine(probs, image))


def test_lattices_filter_where_they_are(any_place):
    rng = np.random.default_rng(0)
    features = rng.normal(0, 1.2, (3, 5, 8)).astype(np.float32)
    values = rng.normal(size=(2, 5, 8)).astype(np.float32)
    engine = PermutohedralLattice(features)
    with any_place.chosen():
        lattice = PermutohedralLattice(any_place.tensor(features))
        assert repr(lattice) == repr(engine)
        for name in ("filter", "transpose"):
            expected = getattr(engine, name)(values)
            atol = FILTER_RTOL * np.abs(expected).max()
            for given in (any_place.tensor(values), values):
                actual = getattr(lattice, name)(given)
                assert type(actual) is type(given)
                if isinstance(actual, torch.Tensor):
                    assert actual.is_contiguous()
                    assert actual.device == given.device
                    actual = actual.cpu().numpy()
                np.testing.assert_allclose(actual, expected, rtol=0, atol=atol)
        one = lattice.filter(any_place.tensor(values[0]))
    assert one.shape == (5, 8)


def test_lattices_are_adjoint_to_their_transpose(place):
    rng = np.random.default_rng(1)
    lattice = PermutohedralLattice(place.tensor(rng.normal(0, 1.2, (4, 200))))
    a, b = (place.tensor(rng.uniform(size=200)) for _ in range(2))
    with place.chosen():
        left, right = (lattice.filter(a) * b).sum(), (a * lattice.transpose(b)).sum()
    assert abs(left - right) <= SUM_RTOL * abs(left)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_lattices_keep_the_dtype_of_the_values(dtype, place):
    with place.chosen():
        lattice = PermutohedralLattice(torch.rand(2, 30, device=place.device))
        values = torch.rand(3, 30, device=place.device).to(dtype)
        assert lattice.filter(values).dtype == dtype
        assert lattice.filter(values[:0]).shape == (0, 30)


def test_lattices_say_what_is_wrong(place):
    with place.chosen():
        for features, error, words in [
            (torch.zeros(3), ShapeError, "at least one feature"),
            (torch.full((2, 3), torch.nan), DataError, r"features\[0\] holds NaN"),
            (torch.full((2, 3), 1e20), DataError, "reaches"),
        ]:
            with pytest.raises(error, match=words):
                PermutohedralLattice(features.to(place.device))
        lattice = PermutohedralLattice(torch.rand(2, 30, device=place.device))
        with pytest.raises(ShapeError, match=r"\(30,\) or \(C, 30\)"):
            lattice.filter(torch.rand(30, 3, device=place.device))
        with pytest.raises(DtypeError, match="int64"):
            lattice.filter(torch.zeros(30, dtype=torch.int64, device=place.device))


def both_models(place, **keywords):
    """The same CRF on the engine and in place, from probabilities or energies."""
    image = made_up_image(SHAPE)
    rng = np.random.default_rng(4)
    features = np.stack([*np.indices(SHAPE) / 4, rng.normal(size=SHAPE)]).astype(np.float32)
    models = []
    for convert in (np.asarray, place.tensor):
        with nullcontext() if convert is np.asarray else place.chosen():
            model = DenseCRF(**{name: convert(value) for name, value in keywords.items()})
            model.add_gaussian(sigma=(3, 2), compat=3)
            model.add_bilateral(convert(image), sigma=20, color_sigma=13, compat=[1, 2, 3])
            model.add_pairwise(convert(features), compat=1 - np.eye(3), normalization="after")
        models.append(model)
    return models


@pytest.mark.parametrize("given", ["probs", "unary"])
def test_dense_crfs_compute_what_the_engine_does(given, place):
    value = made_up_probs(3, SHAPE)
    if given == "unary":
        value = -np.log(value) + 2
        value[0, 1, 2] = np.inf
    engine, model = both_models(place, **{given: value})
    q = made_up_probs(3, SHAPE, seed=5)
    with place.chosen():
        assert repr(model) == repr(engine)
        pairs = [
            (model.infer(4), engine.infer(4)),
            (model.update(place.tensor(q)), engine.update(q)),
            (model.update(q), engine.update(q)),
            *zip(model.steps(3), engine.steps(3), strict=True),
        ]
        messages, energies = model.messages(place.tensor(q)), model.energies()
        free = (
            model.free_energy(place.tensor(q)),
            model.free_energy(),
            model.free_energy(model.infer(3)),
        )
    for actual, expected in pairs:
        assert actual.device.type == place.device
        np.testing.assert_allclose(actual.cpu().numpy(), expected, rtol=0, atol=ATOL)
    np.testing.assert_allclose(messages.cpu().numpy(), engine.messages(q), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(energies.cpu().numpy(), engine.energies(), rtol=1e-6, atol=1e-6)
    if given == "probs":
        assert free[0] == pytest.approx(engine.free_energy(q), rel=SUM_RTOL)
    assert free[1] == free[2] == pytest.approx(engine.free_energy(), rel=SUM_RTOL)


def test_steps_are_the_callers_to_write(place):
    _, model = both_models(place, probs=made_up_probs(3, SHAPE))
    with place.chosen():
        expected = [q.clone() for q in model.steps(3)]
        for q, wanted in zip(model.steps(3), expected, strict=True):
            assert torch.equal(q, wanted)
            q.zero_()


def test_dense_crfs_say_what_is_wrong(place):
    probs, image = place.tensor(made_up_probs(3, SHAPE)), made_up_image(SHAPE)
    _, model = both_models(place, probs=made_up_probs(3, SHAPE))
    with place.chosen():
        for error, words, call in [
            (DataError, r"probs\[0, 0, 0\]", lambda: DenseCRF(probs - 2)),
            (ShapeError, "probs must be", lambda: DenseCRF(probs[0, 0])),
            (ShapeError, "q must be", lambda: model.update(probs[:2])),
            (DtypeError, "q must be float16", lambda: model.update(probs.long())),
            (DataError, "q must be finite", lambda: model.messages(probs / 0)),
            (DataError, "summing to one", lambda: model.free_energy(probs * 2)),
            (ParameterError, "sigma along", lambda: model.add_gaussian(sigma=1e-9)),
            (
                DtypeError,
                "features must be float16",
                lambda: model.add_pairwise(probs.long(), compat=1),
            ),
            (ShapeError, "features must be", lambda: model.add_pairwise(probs[0], compat=1)),
            (
                ShapeError,
                "image must have",
                lambda: model.add_bilateral(image[1:], sigma=3, color_sigma=3),
            ),
        ]:
            with pytest.raises(error, match=words):
                call()
        wide = np.concatenate([image, image, image], axis=2)
        with pytest.raises(BackendError, match="63"):
            model.add_bilateral(wide, sigma=3, color_sigma=0.01)
    assert "kernels=3" in repr(model)
