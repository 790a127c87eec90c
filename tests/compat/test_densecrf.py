"""`fastseg.compat.pydensecrf.densecrf` against the live pydensecrf, and its errors."""

import array
import inspect
import pickle
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from fastseg import crf as native_crf
from fastseg import errors

# Height and width: the number of points is 0, 1, 2 and 3 modulo 4.
SHAPES = [(12, 16), (5, 13), (7, 6), (9, 11)]
COMPATS = ["number", "vector", "matrix"]
NORMALIZATIONS = ["NO_NORMALIZATION", "NORMALIZE_BEFORE", "NORMALIZE_AFTER", "NORMALIZE_SYMMETRIC"]
KERNELS = ["CONST_KERNEL", "DIAG_KERNEL", "FULL_KERNEL"]

# The sums of a raw filter grow with the number of points; its weights must not saturate Q.
WEIGHTS = {"NO_NORMALIZATION": 0.1}

ATOL = 1e-5


def both(peer, ours, build):
    """Q of pydensecrf and of the drop-in for the same calls."""
    theirs, mine = build(peer.densecrf), build(ours.densecrf)
    return np.array(theirs), np.array(mine)


def assert_same(theirs, mine, atol=ATOL):
    assert mine.shape == theirs.shape
    assert mine.dtype == theirs.dtype == np.float32
    np.testing.assert_allclose(mine, theirs, rtol=0, atol=atol)


def basic_crf(module, scene):
    crf = module.DenseCRF2D(scene.width, scene.height, scene.labels)
    crf.setUnaryEnergy(scene.unary)
    crf.addPairwiseGaussian(3, 3)
    crf.addPairwiseBilateral(20, 13, scene.image, 5)
    return crf


class TestParity:
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("compat", COMPATS)
    @pytest.mark.parametrize("normalization", NORMALIZATIONS)
    def test_gaussian_and_bilateral(self, peer, ours, make_scene, shape, compat, normalization):
        scene = make_scene(*shape, labels=4)
        weight = WEIGHTS.get(normalization, 2.0)

        def build(module):
            crf = module.DenseCRF2D(scene.width, scene.height, scene.labels)
            crf.setUnaryEnergy(scene.unary)
            mode = getattr(module, normalization)
            crf.addPairwiseGaussian((3, 2), scene.compat(compat, weight), module.DIAG_KERNEL, mode)
            crf.addPairwiseBilateral(
                sxy=(20, 15),
                srgb=(13, 10, 17),
                rgbim=scene.image,
                compat=scene.compat(compat, 2 * weight),
                normalization=mode,
            )
            return crf.inference(5)

        theirs, mine = both(peer, ours, build)
        assert np.abs(theirs - scene.probs.reshape(theirs.shape)).max() > 0.02
        assert_same(theirs, mine)

    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("compat", COMPATS)
    @pytest.mark.parametrize("normalization", NORMALIZATIONS)
    @pytest.mark.parametrize("dimensions", [1, 3, 6])
    def test_features(self, peer, ours, make_scene, shape, compat, normalization, dimensions):
        scene = make_scene(*shape, labels=3)
        features = np.random.default_rng(2).normal(0, 1.5, (dimensions, scene.points))
        features = features.astype(np.float32)
        weight = WEIGHTS.get(normalization, 2.0)

        def build(module):
            crf = module.DenseCRF(scene.points, scene.labels)
            crf.setUnaryEnergy(scene.unary)
            crf.addPairwiseEnergy(
                features,
                scene.compat(compat, weight),
                normalization=getattr(module, normalization),
            )
            return crf.inference(4)

        assert_same(*both(peer, ours, build))

    @pytest.mark.parametrize("dimensions", range(1, 10))
    @pytest.mark.parametrize("sigma", [1, 3])
    def test_points_on_the_borders_of_simplices(self, peer, ours, dimensions, sigma):
        # Features on a grid: the last bit decides into which simplex a point falls.
        rng = np.random.default_rng(dimensions)
        features = rng.integers(0, 4, (dimensions, 300)).astype(np.float32) / np.float32(sigma)
        unary = rng.uniform(0, 2, (3, 300)).astype(np.float32)

        def build(module):
            crf = module.DenseCRF(300, 3)
            crf.setUnaryEnergy(unary)
            crf.addPairwiseEnergy(features, 3)
            return crf.inference(3)

        assert_same(*both(peer, ours, build))

    @pytest.mark.parametrize("kernel", KERNELS)
    def test_kernel_type_does_not_matter(self, peer, ours, make_scene, kernel):
        scene = make_scene(8, 9, labels=3)

        def build(module):
            crf = module.DenseCRF2D(scene.width, scene.height, scene.labels)
            crf.setUnaryEnergy(scene.unary)
            crf.addPairwiseGaussian(2, 3, getattr(module, kernel))
            return crf.inference(3)

        theirs, mine = both(peer, ours, build)
        assert_same(theirs, mine)
        if kernel != "DIAG_KERNEL":
            crf = ours.densecrf.DenseCRF2D(scene.width, scene.height, scene.labels)
            crf.setUnaryEnergy(scene.unary)
            crf.addPairwiseGaussian(2, 3)
            np.testing.assert_array_equal(np.array(crf.inference(3)), mine)

    @pytest.mark.parametrize("labels", [1, 2, 3, 21])
    @pytest.mark.parametrize("shape", [(1, 1), (1, 7), (6, 1), (11, 13)])
    def test_label_counts_and_thin_images(self, peer, ours, make_scene, labels, shape):
        scene = make_scene(*shape, labels=labels)
        assert_same(*both(peer, ours, lambda module: basic_crf(module, scene).inference(5)))

    @pytest.mark.parametrize("shape", [(60, 80), (61, 79)])
    def test_larger_picture_with_the_usual_parameters(self, peer, ours, make_scene, shape):
        scene = make_scene(*shape, labels=5)

        def build(module):
            crf = module.DenseCRF2D(scene.width, scene.height, scene.labels)
            crf.setUnaryEnergy(scene.unary)
            crf.addPairwiseGaussian(sxy=3, compat=3)
            crf.addPairwiseBilateral(sxy=80, srgb=13, rgbim=scene.image, compat=10)
            return crf.inference(5)

        theirs, mine = both(peer, ours, build)
        assert_same(theirs, mine)
        assert (theirs.argmax(0) == mine.argmax(0)).mean() >= 0.9999

    @pytest.mark.parametrize("by_features", [False, True])
    def test_padding_shows_on_a_dark_picture(self, peer, ours, make_scene, by_features):
        # 255 points: the padding's vertices lie next to those of dark pixels near the corner.
        scene = make_scene(17, 15, labels=3)
        scene.image //= 16

        def build(module):
            crf = module.DenseCRF2D(scene.width, scene.height, scene.labels)
            crf.setUnaryEnergy(scene.unary)
            if by_features:
                features = ours.utils.create_pairwise_bilateral((6, 6), 4, scene.image, 2)
                crf.addPairwiseEnergy(features, 10)
            else:
                crf.addPairwiseBilateral(6, 4, scene.image, 10)
            return crf.inference(5)

        theirs, mine = both(peer, ours, build)
        assert_same(theirs, mine)
        if not by_features:
            native = native_crf.DenseCRF(unary=scene.unary.reshape(3, 17, 15))
            native.add_bilateral(scene.image, sigma=6, color_sigma=4, compat=10)
            assert np.abs(native.infer(5).reshape(3, -1) - theirs).max() > 100 * ATOL

    @pytest.mark.parametrize("niter", [0, 1, 2, 10, -3, 2.0, True, np.int64(2)])
    def test_iterations(self, peer, ours, make_scene, niter):
        scene = make_scene(7, 9, labels=3)
        assert_same(*both(peer, ours, lambda module: basic_crf(module, scene).inference(niter)))

    @pytest.mark.parametrize("shape", SHAPES)
    def test_steps_and_divergence(self, peer, ours, make_scene, shape):
        scene = make_scene(*shape, labels=4)
        theirs, mine = basic_crf(peer.densecrf, scene), basic_crf(ours.densecrf, scene)
        q_theirs, *rest_theirs = theirs.startInference()
        q_mine, *rest_mine = mine.startInference()
        for _ in range(5):
            assert_same(np.array(q_theirs), np.array(q_mine))
            assert mine.klDivergence(q_mine) == pytest.approx(
                theirs.klDivergence(q_theirs), rel=1e-4, abs=1e-3
            )
            assert theirs.stepInference(q_theirs, *rest_theirs) is None
            assert mine.stepInference(q_mine, *rest_mine) is None
        assert_same(np.array(q_theirs), np.array(q_mine))

    @pytest.mark.parametrize("compat", COMPATS)
    @pytest.mark.parametrize("normalization", NORMALIZATIONS)
    def test_step_and_divergence_of_any_matrix(self, peer, ours, make_scene, compat, normalization):
        # Rows that don't sum to one, and zeros: whatever a caller may put into Q.
        scene = make_scene(5, 6, labels=3)
        start = np.random.default_rng(3).uniform(0, 2, scene.unary.shape).astype(np.float32)
        start[start < 0.5] = 0
        results = []
        for module in (peer, ours):
            crf = module.densecrf.DenseCRF2D(scene.width, scene.height, scene.labels)
            crf.setUnaryEnergy(scene.unary)
            crf.addPairwiseGaussian(
                2,
                scene.compat(compat, 0.1),
                normalization=getattr(module.densecrf, normalization),
            )
            q = module.eigen.matrixXf(start)
            divergence = crf.klDivergence(q)
            crf.stepInference(q, module.eigen.MatrixXf(), module.eigen.MatrixXf())
            results.append((divergence, np.array(q)))
        assert results[1][0] == pytest.approx(results[0][0], rel=1e-5)
        assert_same(results[0][1], results[1][1])

    def test_without_potentials(self, peer, ours):
        def build(module):
            return module.DenseCRF(10, 4).inference(3)

        theirs, mine = both(peer, ours, build)
        assert_same(theirs, mine)
        np.testing.assert_array_equal(mine, 0.25)

    @pytest.mark.parametrize("pairwise", [False, True])
    def test_without_a_unary(self, peer, ours, make_scene, pairwise):
        scene = make_scene(5, 7, labels=3)
        results = []
        for module in (peer.densecrf, ours.densecrf):
            crf = module.DenseCRF2D(scene.width, scene.height, scene.labels)
            if pairwise:
                crf.addPairwiseGaussian(2, scene.compat("vector", 2.0))
            q, tmp1, tmp2 = crf.startInference()
            first = np.array(q)
            crf.stepInference(q, tmp1, tmp2)
            second = np.array(q)
            crf.stepInference(q, tmp1, tmp2)
            results.append(
                (first, second, np.array(q), np.array(crf.inference(2)), crf.klDivergence(q))
            )
        for theirs, mine in zip(*results, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=ATOL)
        np.testing.assert_array_equal(results[1][0], 0)

    @pytest.mark.parametrize("order", ["unary last", "unary twice", "between inferences"])
    def test_order_of_calls(self, peer, ours, make_scene, order):
        scene, other = make_scene(6, 8, labels=3), make_scene(6, 8, labels=3, seed=5)

        def build(module):
            crf = module.DenseCRF2D(scene.width, scene.height, scene.labels)
            if order == "unary twice":
                crf.setUnaryEnergy(other.unary)
            crf.addPairwiseGaussian(2, 2)
            if order == "between inferences":
                crf.setUnaryEnergy(other.unary)
                crf.inference(2)
            crf.addPairwiseBilateral(10, 13, scene.image, 3)
            crf.setUnaryEnergy(scene.unary)
            return crf.inference(3)

        assert_same(*both(peer, ours, build))

    def test_pairwise_terms_added_after_an_inference(self, peer, ours, make_scene):
        scene = make_scene(6, 8, labels=3)

        def build(module):
            crf = module.DenseCRF2D(scene.width, scene.height, scene.labels)
            crf.setUnaryEnergy(scene.unary)
            crf.inference(5)
            crf.addPairwiseGaussian(2, 2)
            crf.inference(5)
            crf.addPairwiseBilateral(10, 13, scene.image, 3)
            return crf.inference(5)

        assert_same(*both(peer, ours, build))

    @pytest.mark.parametrize("shape", [(6, 8), (5, 7)])
    def test_one_kernel_added_twice_counts_twice(self, peer, ours, make_scene, shape):
        scene = make_scene(*shape, labels=3)

        def build(module):
            crf = module.DenseCRF2D(scene.width, scene.height, scene.labels)
            crf.setUnaryEnergy(scene.unary)
            for _ in range(3):
                crf.addPairwiseGaussian(2, 1)
            return crf.inference(5)

        assert_same(*both(peer, ours, build))

    @pytest.mark.parametrize(
        "compat",
        [
            -1.5,
            0,
            2,
            True,
            np.float32(1.5),
            np.int64(2),
            Decimal("1.5"),
            Fraction(3, 2),
            array.array("f", [-1, -2, 0.5]),
            memoryview(np.array([-1, -2, 0.5], np.float32)),
            np.array([-1, 2, 0], np.float32),
            np.arange(9, dtype=np.float32).reshape(3, 3) / 5 - 1,
        ],
        # Of a memoryview, `str` says where it lies: another test in each process.
        ids=lambda compat: str(getattr(compat, "tolist", lambda: compat)()),
    )
    def test_compat_of_every_type_and_sign(self, peer, ours, make_scene, compat):
        scene = make_scene(6, 8, labels=3)

        def build(module):
            crf = module.DenseCRF2D(scene.width, scene.height, scene.labels)
            crf.setUnaryEnergy(scene.unary)
            crf.addPairwiseGaussian(2, compat)
            return crf.inference(4)

        assert_same(*both(peer, ours, build))

    @pytest.mark.parametrize(
        ("sxy", "srgb"),
        [
            (3, 13),
            (2.5, 7.5),
            ((3, 4), [5, 6, 7]),
            (np.array([3.0, 4.0]), np.float32(9)),
            ((3, 4, 99), (5, 6, 7, 99)),
            (1e4, 1e4),
            (0.3, 0.4),
            ((np.inf, 3), 13),
            (3, (np.inf, 13, np.inf)),
        ],
        ids=str,
    )
    def test_sigma_of_every_type(self, peer, ours, make_scene, sxy, srgb):
        scene = make_scene(6, 8, labels=3)

        def build(module):
            crf = module.DenseCRF2D(scene.width, scene.height, scene.labels)
            crf.setUnaryEnergy(scene.unary)
            crf.addPairwiseGaussian(sxy, 2)
            crf.addPairwiseBilateral(sxy, srgb, scene.image, 3)
            return crf.inference(4)

        assert_same(*both(peer, ours, build))

    def test_boolean_image(self, peer, ours, make_scene):
        scene = make_scene(6, 8, labels=3)
        image = scene.image > 128

        def build(module):
            crf = module.DenseCRF2D(scene.width, scene.height, scene.labels)
            crf.setUnaryEnergy(scene.unary)
            crf.addPairwiseBilateral(5, 0.5, image, 3)
            return crf.inference(4)

        assert_same(*both(peer, ours, build))

    def test_impossible_labels(self, peer, ours, make_scene):
        scene = make_scene(6, 8, labels=3)
        unary = scene.unary.copy()
        unary[0, :20] = np.inf
        unary[1, 10:40] = np.inf

        def build(module):
            crf = module.DenseCRF2D(scene.width, scene.height, scene.labels)
            crf.setUnaryEnergy(unary)
            crf.addPairwiseGaussian(2, 2)
            return crf.inference(4)

        theirs, mine = both(peer, ours, build)
        assert_same(theirs, mine)
        assert mine[np.isinf(unary)].max() < 1e-20

    def test_divergence_with_impossible_labels(self, ours, make_scene):
        scene = make_scene(6, 8, labels=3)
        unary = scene.unary.copy()
        unary[0, :20] = np.inf
        high = np.minimum(unary, 60)
        results = []
        for energies in (unary, high):
            crf = ours.densecrf.DenseCRF2D(scene.width, scene.height, scene.labels)
            crf.setUnaryEnergy(energies)
            crf.addPairwiseGaussian(2, 2)
            results.append(crf.klDivergence(crf.inference(3)))
        assert results[0] == pytest.approx(results[1], rel=1e-5)

    def test_large_energies(self, peer, ours, make_scene):
        scene = make_scene(6, 8, labels=3)

        def build(module):
            crf = module.DenseCRF2D(scene.width, scene.height, scene.labels)
            crf.setUnaryEnergy((scene.unary * 40 - 500).astype(np.float32))
            crf.addPairwiseGaussian(2, 30)
            return crf.inference(3)

        # Differences of numbers near 500 in float32.
        assert_same(*both(peer, ours, build), atol=1e-3)


class TestUnary:
    def test_const_unary(self, peer, ours, make_scene):
        scene = make_scene(5, 8, labels=3)

        def build(module):
            crf = module.DenseCRF(scene.points, scene.labels)
            crf.setUnary(module.ConstUnary(scene.unary))
            crf.addPairwiseEnergy(scene.image.reshape(-1, 3).T.astype(np.float32) / 20, 2)
            return crf.inference(3)

        with pytest.raises(ValueError, match="contiguous"):
            build(ours.densecrf)
        scene.image = np.asfortranarray(scene.image.reshape(-1, 3))
        assert_same(*both(peer, ours, build))

    def test_logistic_unary(self, peer, ours):
        rng = np.random.default_rng(0)
        weights = rng.normal(size=(3, 5)).astype(np.float32)
        features = rng.normal(size=(5, 44)).astype(np.float32)

        def build(module):
            crf = module.DenseCRF(44, 3)
            crf.setUnary(module.LogisticUnary(L=weights, f=features))
            crf.addPairwiseEnergy(features, 2)
            return crf.inference(3)

        assert_same(*both(peer, ours, build))

    def test_logistic_through_set_unary_energy(self, peer, ours, make_scene):
        scene = make_scene(4, 5, labels=3)
        features = np.random.default_rng(0).normal(size=(20, 20)).astype(np.float32)

        def build(module):
            crf = module.DenseCRF(20, 3)
            crf.setUnaryEnergy(scene.unary, features)
            return crf.inference(1)

        assert_same(*both(peer, ours, build))

    def test_logistic_weights_of_any_width(self, ours):
        rng = np.random.default_rng(0)
        weights = rng.normal(size=(3, 5)).astype(np.float32)
        features = rng.normal(size=(5, 44)).astype(np.float32)
        direct, through = ours.densecrf.DenseCRF(44, 3), ours.densecrf.DenseCRF(44, 3)
        direct.setUnaryEnergy(weights, features)
        through.setUnary(ours.densecrf.LogisticUnary(weights, features))
        np.testing.assert_array_equal(np.array(direct.inference(0)), np.array(through.inference(0)))

    def test_buffers_of_other_types_and_read_only_arrays(self, ours, make_scene):
        scene = make_scene(4, 5, labels=3)
        crf = ours.densecrf.DenseCRF(20, 3)
        read_only = scene.unary.copy()
        read_only.flags.writeable = False
        for unary in (scene.unary, memoryview(scene.unary), read_only, crf.inference(0)):
            crf.setUnaryEnergy(unary)

    def test_arguments_are_copied(self, ours, make_scene):
        scene = make_scene(6, 8, labels=3)
        expected = np.array(basic_crf(ours.densecrf, scene).inference(3))
        unary, image = scene.unary.copy(), scene.image.copy()
        weights = np.array([-3, -3, -3], np.float32)
        features = np.ones((2, 48), np.float32)
        const = ours.densecrf.ConstUnary(unary)
        crf = ours.densecrf.DenseCRF2D(8, 6, 3)
        crf.setUnary(const)
        crf.addPairwiseGaussian(3, weights)
        crf.addPairwiseBilateral(20, 13, image, 5)
        crf.addPairwiseEnergy(features, 0)
        for changed in (unary, image, weights, features):
            changed.fill(77)
        np.testing.assert_allclose(np.array(crf.inference(3)), expected, rtol=0, atol=1e-6)

    def test_a_unary_can_be_used_twice(self, ours, make_scene):
        scene = make_scene(4, 5, labels=3)
        unary = ours.densecrf.ConstUnary(scene.unary)
        first, second = ours.densecrf.DenseCRF(20, 3), ours.densecrf.DenseCRF(20, 3)
        first.setUnary(unary)
        second.setUnary(unary)
        second.setUnary(unary)
        np.testing.assert_array_equal(np.array(first.inference(0)), np.array(second.inference(0)))


class TestSurface:
    def test_every_public_name_of_theirs_exists(self, peer, ours):
        for module in ("densecrf", "eigen", "utils"):
            for name in vars(getattr(peer, module)):
                # What they import for themselves.
                if name.startswith("_") or name in {"np", "Number", "warning"}:
                    continue
                theirs = getattr(getattr(peer, module), name)
                mine = getattr(getattr(ours, module), name)
                if not inspect.isclass(theirs):
                    continue
                for method in vars(theirs):
                    assert method.startswith("_") or hasattr(mine, method)

    def test_enumerations(self, peer, ours):
        for name in (*NORMALIZATIONS, *KERNELS):
            theirs, mine = getattr(peer.densecrf, name), getattr(ours.densecrf, name)
            assert int(mine) == int(theirs)
            assert mine.name == theirs.name
            assert type(mine).__name__ == type(theirs).__name__

    def test_signatures(self, ours):
        module = ours.densecrf
        tail = "kernel=1, normalization=3"
        for function, expected in {
            module.DenseCRF: "nvar, nlabels, *_, **__",
            module.DenseCRF2D: "w, h, nlabels, *_, **__",
            module.DenseCRF.setUnaryEnergy: "self, u, f=None",
            module.DenseCRF.setUnary: "self, u",
            module.DenseCRF.addPairwiseEnergy: f"self, features, compat, {tail}",
            module.DenseCRF2D.addPairwiseGaussian: f"self, sxy, compat, {tail}",
            module.DenseCRF2D.addPairwiseBilateral: f"self, sxy, srgb, rgbim, compat, {tail}",
            module.DenseCRF.inference: "self, niter",
            module.DenseCRF.startInference: "self",
            module.DenseCRF.stepInference: "self, Q, tmp1, tmp2",
            module.DenseCRF.klDivergence: "self, Q",
            module.ConstUnary: "u",
            module.LogisticUnary: "L, f",
        }.items():
            parameters = inspect.signature(function).parameters.values()
            found = ", ".join(
                str(
                    p.replace(
                        annotation=p.empty,
                        default=p.default if p.default in (p.empty, None) else int(p.default),
                    )
                )
                for p in parameters
            )
            assert found == expected

    def test_numbers_of_points_as_any_number(self, ours):
        for nvar in (6, 6.0, np.int64(6), np.float32(6), np.prod((2, 3)), np.array(6)):
            assert np.array(ours.densecrf.DenseCRF(nvar, 2.0).inference(1)).shape == (2, 6)

    def test_further_arguments_are_ignored(self, ours):
        assert np.shape(ours.densecrf.DenseCRF(6, 2, "x", y=1).inference(0)) == (2, 6)
        assert np.shape(ours.densecrf.DenseCRF2D(3, 2, 2, "x", y=1).inference(0)) == (2, 6)

    def test_classes_can_be_extended(self, ours, make_scene):
        scene = make_scene(4, 5, labels=3)

        class Mine(ours.densecrf.DenseCRF2D):
            def __init__(self, image):
                super().__init__(image.shape[1], image.shape[0], 3)
                self.addPairwiseBilateral(5, 13, image, 2)

        crf = Mine(scene.image)
        crf.setUnaryEnergy(scene.unary)
        assert isinstance(crf, ours.densecrf.DenseCRF)
        assert np.shape(crf.inference(1)) == (3, 20)


class TestResult:
    def test_behaves_like_theirs(self, peer, ours, make_scene):
        scene = make_scene(5, 8, labels=3)
        theirs = basic_crf(peer.densecrf, scene).inference(3)
        mine = basic_crf(ours.densecrf, scene).inference(3)
        assert_same(np.array(theirs), np.array(mine))
        for view in (memoryview(theirs), memoryview(mine)):
            assert view.format == "f"
            assert view.shape == (3, 40)
            assert not view.readonly
        for function in (
            lambda q: np.argmax(q, axis=0),
            lambda q: np.argmax(q, axis=0).reshape(5, 8),
            lambda q: np.max(q),
            lambda q: np.sum(q, axis=0),
            lambda q: np.float32(2) * np.log(q),
            lambda q: np.ones((3, 40)) - q,
            lambda q: np.stack([q, q]),
            lambda q: np.asarray(q, dtype=np.float64),
            lambda q: np.reshape(q, (3, 5, 8)),
            lambda q: np.array(q).reshape((3, 5, 8)).transpose(1, 2, 0),
        ):
            left, right = function(theirs), function(mine)
            assert type(left) is type(right)
            np.testing.assert_allclose(right, left, rtol=1e-3, atol=ATOL)

    def test_is_an_array_of_its_own_type(self, ours, make_scene):
        q = basic_crf(ours.densecrf, make_scene(5, 8, labels=3)).inference(3)
        assert type(q) is ours.eigen.MatrixXf
        assert q.shape == (3, 40)
        assert type(q[0]) is np.ndarray
        assert type(q + 1) is np.ndarray
        assert (q == np.array(q)).all()
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(q)), np.array(q))

    def test_step_changes_q_in_place(self, ours, make_scene):
        crf = basic_crf(ours.densecrf, make_scene(5, 8, labels=3))
        q, tmp1, tmp2 = crf.startInference()
        view, before = np.asarray(q), np.array(q)
        crf.stepInference(q, tmp1, tmp2)
        assert np.abs(view - before).max() > 0.01
        np.testing.assert_allclose(view, np.array(crf.inference(1)), rtol=0, atol=1e-6)
        assert np.shape(tmp1) == np.shape(tmp2) == (0, 0)

    def test_start_of_one_does_not_touch_another(self, ours, make_scene):
        crf = basic_crf(ours.densecrf, make_scene(5, 8, labels=3))
        first, *tmp = crf.startInference()
        second, *_ = crf.startInference()
        kept = np.array(second)
        crf.stepInference(first, *tmp)
        np.testing.assert_array_equal(np.array(second), kept)


BAD_ARRAYS = {
    "float64": (lambda a: a.astype(np.float64), ValueError, "float32.*float64"),
    "float16": (lambda a: a.astype(np.float16), ValueError, "float32.*float16"),
    "integers": (lambda a: a.astype(np.int32), ValueError, "float32.*int32"),
    "objects": (lambda a: a.astype(object), ValueError, "float32.*object"),
    "complex": (lambda a: a.astype(np.complex64), ValueError, "float32.*complex64"),
    "foreign byte order": (
        lambda a: a.astype(a.dtype.newbyteorder()),
        ValueError,
        "byte order",
    ),
    "Fortran order": (np.asfortranarray, ValueError, "contiguous.*ascontiguousarray"),
    "strided": (lambda a: np.repeat(a, 2, axis=1)[:, ::2], ValueError, "contiguous"),
    "1-D": (np.ravel, ValueError, "2 dimensions, got 1"),
    "3-D": (lambda a: a.reshape(len(a), 4, -1), ValueError, "2 dimensions, got 3"),
    "None": (lambda a: None, TypeError, "not None"),
    "list": (np.ndarray.tolist, TypeError, "list.*asarray"),
    "string": (lambda a: "abc", TypeError, "str"),
    "too few columns": (lambda a: a[:, :-1].copy(), ValueError, "shape"),
    "transposed": (lambda a: a.T.copy(), ValueError, "shape"),
}


IMAGES = {
    "float": (np.zeros((3, 4, 3), np.float32), ValueError, "uint8.*float32"),
    "int8": (np.zeros((3, 4, 3), np.int8), ValueError, "uint8.*int8"),
    "uint16": (np.zeros((3, 4, 3), np.uint16), ValueError, "uint8.*uint16"),
    "strided": (np.zeros((3, 4, 6), np.uint8)[..., ::2], ValueError, "contiguous"),
    "Fortran order": (np.zeros((3, 4, 3), np.uint8, order="F"), ValueError, "contiguous"),
    "gray": (np.zeros((3, 4), np.uint8), ValueError, "3 dimensions, got 2"),
    "one channel": (np.zeros((3, 4, 1), np.uint8), ValueError, "create_pairwise_bilateral"),
    "four channels": (np.zeros((3, 4, 4), np.uint8), ValueError, "create_pairwise_bilateral"),
    "width and height swapped": (np.zeros((4, 3, 3), np.uint8), ValueError, r"\(3, 4, 3\)"),
    "None": (None, TypeError, "not None"),
    "list": ([[[0, 0, 0]]], TypeError, "list"),
}


class TestErrors:
    """Each bad call raises what pydensecrf raises, or a clear error where that one crashes."""

    @pytest.fixture(params=["peer", "ours"])
    def module(self, request):
        """Both, so that the errors are shown to be of the same kind."""
        return request.getfixturevalue(request.param)

    def raises(self, module, kind, match, call, *args, **kwargs):
        if module.densecrf.__name__.startswith("fastseg"):
            with pytest.raises(kind, match=match) as caught:
                call(*args, **kwargs)
            assert isinstance(caught.value, errors.FastsegError)
        else:
            with pytest.raises(kind):
                call(*args, **kwargs)

    @pytest.mark.parametrize("case", BAD_ARRAYS)
    def test_unary(self, module, case):
        spoil, kind, match = BAD_ARRAYS[case]
        crf = module.densecrf.DenseCRF2D(4, 3, 2)
        bad = spoil(np.ones((2, 12), np.float32))
        self.raises(module, kind, match, crf.setUnaryEnergy, bad)

    @pytest.mark.parametrize("case", BAD_ARRAYS)
    def test_features(self, module, case):
        spoil, kind, match = BAD_ARRAYS[case]
        crf = module.densecrf.DenseCRF2D(4, 3, 2)
        bad = spoil(np.ones((2, 12), np.float32))
        self.raises(module, kind, match, crf.addPairwiseEnergy, bad, 3)

    @pytest.mark.parametrize("case", sorted(set(BAD_ARRAYS) - {"too few columns", "transposed"}))
    def test_unary_objects_and_matrices(self, module, case):
        spoil, kind, match = BAD_ARRAYS[case]
        good = np.ones((2, 12), np.float32)
        bad = spoil(good)
        self.raises(module, kind, match, module.densecrf.ConstUnary, bad)
        self.raises(module, kind, match, module.densecrf.LogisticUnary, bad, good)
        self.raises(module, kind, match, module.densecrf.LogisticUnary, good, bad)
        self.raises(module, kind, match, module.eigen.matrixXf, bad)

    @pytest.mark.parametrize("case", ["float64", "integers", "Fortran order", "list", "None"])
    @pytest.mark.parametrize("ndim", [1, 2])
    def test_compat(self, module, case, ndim):
        spoil, kind, match = BAD_ARRAYS[case]
        good = np.arange(3**ndim, dtype=np.float32).reshape((3,) * ndim)
        if case == "Fortran order" and ndim == 1:
            spoil = lambda a: np.repeat(a, 2)[::2]  # noqa: E731
        if case in ("list", "None"):
            match = "compat must be a number or a float32 array"
        crf = module.densecrf.DenseCRF2D(4, 3, 3)
        bad = spoil(good)
        image = np.zeros((3, 4, 3), np.uint8)
        self.raises(module, kind, match, crf.addPairwiseGaussian, 3, bad)
        self.raises(module, kind, match, crf.addPairwiseBilateral, 3, 3, image, bad)
        self.raises(module, kind, match, crf.addPairwiseEnergy, np.ones((2, 12), np.float32), bad)

    @pytest.mark.parametrize(
        ("compat", "kind"),
        [
            (1j, TypeError),
            ("3", TypeError),
            (np.array(1, np.float32), ValueError),
            (np.ones((3, 3, 3), np.float32), ValueError),
        ],
        ids=str,
    )
    def test_compat_of_another_kind(self, module, compat, kind):
        crf = module.densecrf.DenseCRF2D(4, 3, 3)
        self.raises(module, kind, "compat must", crf.addPairwiseGaussian, 3, compat)

    @pytest.mark.parametrize("case", IMAGES)
    def test_image(self, module, case):
        image, kind, match = IMAGES[case]
        crf = module.densecrf.DenseCRF2D(4, 3, 2)
        self.raises(module, kind, match, crf.addPairwiseBilateral, 3, 3, image, 3)

    @pytest.mark.parametrize("value", ["3", None, [3]])
    def test_integers(self, module, value):
        name = "must be"
        self.raises(module, TypeError, name, module.densecrf.DenseCRF, value, 2)
        self.raises(module, TypeError, name, module.densecrf.DenseCRF2D, 3, 4, value)
        crf = module.densecrf.DenseCRF2D(4, 3, 2)
        self.raises(module, TypeError, name, crf.inference, value)
        self.raises(module, TypeError, name, crf.addPairwiseGaussian, 3, 3, value)
        self.raises(module, TypeError, name, crf.addPairwiseGaussian, 3, 3, 1, value)

    def test_missing_arguments(self, module):
        with pytest.raises(TypeError):
            module.densecrf.DenseCRF(4)
        with pytest.raises(TypeError):
            module.densecrf.DenseCRF2D(4, 3)
        with pytest.raises(TypeError):
            module.densecrf.DenseCRF2D(4, 3, 2).addPairwiseGaussian(3)

    def test_matrices(self, module):
        crf = module.densecrf.DenseCRF2D(4, 3, 2)
        q, tmp1, tmp2 = crf.startInference()
        plain = np.array(q)
        self.raises(module, TypeError, "MatrixXf", crf.klDivergence, plain)
        self.raises(module, TypeError, "MatrixXf", crf.stepInference, plain, tmp1, tmp2)
        self.raises(module, TypeError, "MatrixXf", crf.stepInference, q, plain, tmp2)
        self.raises(module, TypeError, "MatrixXf", crf.stepInference, q, tmp1, plain)

    def test_an_array_is_not_a_unary(self, module):
        crf = module.densecrf.DenseCRF2D(4, 3, 2)
        unary = np.ones((2, 12), np.float32)
        self.raises(module, TypeError, "setUnaryEnergy", crf.setUnary, unary)

    def test_a_crf_of_points_has_no_image_methods(self, module):
        with pytest.raises(AttributeError):
            module.densecrf.DenseCRF(12, 2).addPairwiseGaussian(3, 3)

    # From here on pydensecrf crashes or computes with undefined memory, NaN or infinity.

    @pytest.mark.parametrize("bad", [np.nan, -np.inf])
    def test_unary_that_is_not_finite(self, ours, bad):
        crf = ours.densecrf.DenseCRF(12, 2)
        unary = np.ones((2, 12), np.float32)
        unary[1, 7] = bad
        with pytest.raises(errors.DataError, match="point 7"):
            crf.setUnaryEnergy(unary)
        with pytest.raises(errors.DataError, match="point 7"):
            crf.setUnary(ours.densecrf.ConstUnary(unary))

    def test_point_without_a_possible_label(self, ours):
        unary = np.ones((2, 12), np.float32)
        unary[:, 3] = np.inf
        with pytest.raises(errors.DataError, match="point 3"):
            ours.densecrf.DenseCRF(12, 2).setUnaryEnergy(unary)

    def test_unary_objects_of_another_shape(self, ours):
        crf = ours.densecrf.DenseCRF(12, 2)
        with pytest.raises(errors.ShapeError, match=r"\(2, 12\), got \(3, 12\)"):
            crf.setUnary(ours.densecrf.ConstUnary(np.ones((3, 12), np.float32)))
        with pytest.raises(errors.ShapeError, match=r"\(2, 5\) and \(4, 12\)"):
            ours.densecrf.LogisticUnary(np.ones((2, 5), np.float32), np.ones((4, 12), np.float32))
        with pytest.raises(errors.ShapeError, match=r"\(2, 12\) and \(4, 12\)"):
            crf.setUnaryEnergy(np.ones((2, 12), np.float32), np.ones((4, 12), np.float32))

    def test_bare_unary_and_none(self, ours):
        crf = ours.densecrf.DenseCRF(12, 2)
        for bad in (ours.densecrf.Unary(), None):
            with pytest.raises(errors.DtypeError, match="ConstUnary"):
                crf.setUnary(bad)

    def test_matrices_of_another_shape(self, ours):
        crf = ours.densecrf.DenseCRF(12, 2)
        other, tmp1, tmp2 = ours.densecrf.DenseCRF(13, 2).startInference()
        with pytest.raises(errors.ShapeError, match=r"\(2, 12\), got \(2, 13\)"):
            crf.stepInference(other, tmp1, tmp2)
        with pytest.raises(errors.ShapeError, match=r"\(2, 12\), got \(0, 0\)"):
            crf.klDivergence(tmp1)

    @pytest.mark.parametrize("compat", [np.ones(2), np.ones(4), np.ones((2, 2)), np.ones((3, 2))])
    def test_compat_of_another_number_of_labels(self, ours, compat):
        crf = ours.densecrf.DenseCRF2D(4, 3, 3)
        with pytest.raises(errors.ShapeError, match="compat must have shape"):
            crf.addPairwiseGaussian(3, compat.astype(np.float32))

    @pytest.mark.parametrize("sigma", [0, -3, np.nan, (3, 0)])
    def test_sigma_out_of_range(self, ours, sigma):
        crf = ours.densecrf.DenseCRF2D(4, 3, 3)
        image = np.zeros((3, 4, 3), np.uint8)
        with pytest.raises(errors.ParameterError, match="sxy must be positive"):
            crf.addPairwiseGaussian(sigma, 3)
        with pytest.raises(errors.ParameterError, match="sxy must be positive"):
            crf.addPairwiseBilateral(sigma, 3, image, 3)
        if np.ndim(sigma) == 0:
            with pytest.raises(errors.ParameterError, match="srgb must be positive"):
                crf.addPairwiseBilateral(3, sigma, image, 3)

    @pytest.mark.parametrize("sigma", [1e-30, 1e-9])
    def test_tiny_sigma_is_computed_or_refused(self, ours, make_scene, sigma):
        scene = make_scene(3, 4, labels=3)
        crf = ours.densecrf.DenseCRF2D(4, 3, 3)
        crf.setUnaryEnergy(scene.unary)
        try:
            crf.addPairwiseGaussian(sigma, 3)
            q = np.array(crf.inference(2))
        except errors.FastsegError:
            return
        np.testing.assert_allclose(q.sum(0), 1, rtol=1e-5)

    @pytest.mark.parametrize(
        ("sxy", "srgb", "kind"),
        [
            ((3,), 3, ValueError),
            (3, (3, 3), ValueError),
            ("ab", 3, TypeError),
            (None, 3, TypeError),
        ],
    )
    def test_sigma_of_another_kind(self, ours, sxy, srgb, kind):
        crf = ours.densecrf.DenseCRF2D(4, 3, 3)
        with pytest.raises(kind, match="must be a"):
            crf.addPairwiseBilateral(sxy, srgb, np.zeros((3, 4, 3), np.uint8), 3)

    @pytest.mark.parametrize("value", [-1, 0, 4.7])
    def test_sizes_out_of_range(self, ours, value):
        with pytest.raises(errors.ParameterError, match="nvar must be"):
            ours.densecrf.DenseCRF(value, 2)
        with pytest.raises(errors.ParameterError, match="nlabels must be"):
            ours.densecrf.DenseCRF(2, value)
        with pytest.raises(errors.ParameterError, match="w must be"):
            ours.densecrf.DenseCRF2D(value, 2, 2)
        with pytest.raises(errors.ParameterError, match="h must be"):
            ours.densecrf.DenseCRF2D(2, value, 2)

    def test_values_that_are_not_in_the_enumerations(self, ours):
        crf = ours.densecrf.DenseCRF2D(4, 3, 3)
        with pytest.raises(errors.ParameterError, match="kernel must be a KernelType"):
            crf.addPairwiseGaussian(3, 3, 7)
        with pytest.raises(errors.ParameterError, match="normalization must be"):
            crf.addPairwiseGaussian(3, 3, 1, -1)

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_values_that_are_not_finite(self, ours, bad):
        crf = ours.densecrf.DenseCRF2D(4, 3, 3)
        features = np.ones((2, 12), np.float32)
        features[1, 5] = bad
        with pytest.raises(errors.FastsegError):
            crf.addPairwiseEnergy(features, 3)
        for compat in (bad, np.full(3, bad, np.float32), np.full((3, 3), bad, np.float32)):
            with pytest.raises(errors.FastsegError):
                crf.addPairwiseGaussian(3, compat)

    def test_empty_features(self, ours):
        with pytest.raises(errors.ShapeError, match=r"\(d, 12\)"):
            ours.densecrf.DenseCRF(12, 3).addPairwiseEnergy(np.ones((0, 12), np.float32), 3)

    def test_a_failed_call_changes_nothing(self, ours, make_scene):
        scene = make_scene(3, 4, labels=3)
        crf = basic_crf(ours.densecrf, scene)
        before = np.array(crf.inference(2))
        for call in (
            lambda: crf.setUnaryEnergy(scene.unary * np.float32(np.nan)),
            lambda: crf.addPairwiseGaussian(3, np.ones(2, np.float32)),
            lambda: crf.addPairwiseGaussian(3, 3, 1, 9),
            lambda: crf.addPairwiseEnergy(np.full((2, 12), np.nan, np.float32), 3),
        ):
            with pytest.raises(errors.FastsegError):
                call()
        np.testing.assert_array_equal(np.array(crf.inference(2)), before)
