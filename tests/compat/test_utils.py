"""`fastseg.compat.pydensecrf.utils` against the live pydensecrf, and its errors."""

import inspect
import logging

import numpy as np
import pytest

from fastseg import errors

FUNCTIONS = [
    "compute_unary",
    "create_pairwise_bilateral",
    "create_pairwise_gaussian",
    "softmax_to_unary",
    "unary_from_labels",
    "unary_from_softmax",
]


def assert_same(theirs, mine, rtol=1e-6):
    assert mine.shape == theirs.shape
    assert mine.dtype == theirs.dtype == np.float32
    assert mine.flags.c_contiguous
    np.testing.assert_allclose(mine, theirs, rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_signatures(peer, ours, name):
    def plain(function):
        parameters = inspect.signature(function).parameters.values()
        return [str(p.replace(annotation=p.empty)) for p in parameters]

    assert plain(getattr(ours.utils, name)) == plain(getattr(peer.utils, name))


class TestUnaryFromLabels:
    LABELS = np.array([[0, 1, 2, 3], [3, 2, 1, 0], [2, 2, 0, 1]])

    @pytest.mark.parametrize("dtype", [np.int64, np.int32, np.int8])
    @pytest.mark.parametrize("gt_prob", [0.5, 0.7, 0.999, 1e-3])
    @pytest.mark.parametrize(("n_labels", "zero_unsure"), [(3, True), (4, False), (9, True)])
    def test_parity(self, peer, ours, dtype, gt_prob, n_labels, zero_unsure):
        arguments = (self.LABELS.astype(dtype), n_labels, gt_prob, zero_unsure)
        assert_same(
            peer.utils.unary_from_labels(*arguments), ours.utils.unary_from_labels(*arguments)
        )

    def test_values(self, ours):
        unary = ours.utils.unary_from_labels(np.array([0, 1, 3]), 3, 0.8)
        probs = np.array([[1 / 3, 0.8, 0.1], [1 / 3, 0.1, 0.1], [1 / 3, 0.1, 0.8]])
        np.testing.assert_allclose(np.exp(-unary), probs, rtol=1e-6)

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64])
    def test_unsigned_labels(self, peer, ours, dtype):
        # pydensecrf lets the unsure 0 wrap around here, unless there are as many labels.
        expected = peer.utils.unary_from_labels(self.LABELS, 3, 0.7)
        assert_same(expected, ours.utils.unary_from_labels(self.LABELS.astype(dtype), 3, 0.7))

    def test_boolean_labels(self, peer, ours):
        labels = self.LABELS > 1
        assert_same(
            peer.utils.unary_from_labels(labels, 2, 0.7),
            ours.utils.unary_from_labels(labels, 2, 0.7),
        )
        assert_same(
            peer.utils.unary_from_labels(labels.astype(int), 2, 0.7, False),
            ours.utils.unary_from_labels(labels, 2, 0.7, False),
        )

    def test_layouts_and_lists(self, peer, ours):
        expected = peer.utils.unary_from_labels(self.LABELS.T, 3, 0.7)
        for labels in (self.LABELS.T, self.LABELS.T.tolist(), np.asfortranarray(self.LABELS.T)):
            assert_same(expected, ours.utils.unary_from_labels(labels, 3, 0.7))

    def test_single_class(self, ours):
        unary = ours.utils.unary_from_labels(np.array([0, 1, 1]), 1, 0.5)
        np.testing.assert_allclose(unary, [[0, np.log(2), np.log(2)]], rtol=1e-6)

    def test_no_points(self, peer, ours):
        assert_same(
            peer.utils.unary_from_labels(self.LABELS[:0], 3, 0.7),
            ours.utils.unary_from_labels(self.LABELS[:0], 3, 0.7),
        )

    def test_old_name(self, peer, ours, caplog):
        for module in (peer.utils, ours.utils):
            caplog.clear()
            with caplog.at_level(logging.WARNING):
                default, given = (
                    module.compute_unary(self.LABELS, 3),
                    module.compute_unary(self.LABELS, M=3, GT_PROB=0.8),
                )
            assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
            assert "unary_from_labels" in caplog.text
            assert_same(peer.utils.unary_from_labels(self.LABELS, 3, 0.5), default)
            assert_same(peer.utils.unary_from_labels(self.LABELS, 3, 0.8), given)

    @pytest.mark.parametrize("gt_prob", [0, 1, -0.1, 1.5, np.nan])
    def test_probability_out_of_range(self, peer, ours, gt_prob):
        for module in (peer.utils, ours.utils):
            with pytest.raises(AssertionError, match="gt_prob"):
                module.unary_from_labels(self.LABELS, 3, gt_prob)
        with pytest.raises(errors.ParameterError, match="gt_prob must be in"):
            ours.utils.unary_from_labels(self.LABELS, 3, gt_prob)

    @pytest.mark.parametrize(("n_labels", "zero_unsure"), [(2, True), (3, False)])
    def test_label_out_of_range(self, peer, ours, n_labels, zero_unsure):
        for module in (peer.utils, ours.utils):
            with pytest.raises(IndexError):
                module.unary_from_labels(self.LABELS, n_labels, 0.7, zero_unsure)
        with pytest.raises(errors.LabelError, match=r"0…2 for n_labels=.*got 0…3"):
            ours.utils.unary_from_labels(self.LABELS, n_labels, 0.7, zero_unsure)

    @pytest.mark.parametrize("zero_unsure", [True, False])
    def test_negative_label(self, ours, zero_unsure):
        with pytest.raises(errors.LabelError, match="got -1…2"):
            ours.utils.unary_from_labels(self.LABELS - 1, 5, 0.7, zero_unsure)

    def test_labels_that_are_not_integers(self, peer, ours):
        for module in (peer.utils, ours.utils):
            with pytest.raises(IndexError):
                module.unary_from_labels(self.LABELS.astype(float), 3, 0.7)
        with pytest.raises(errors.DtypeError, match="integers, got float64"):
            ours.utils.unary_from_labels(self.LABELS.astype(float), 3, 0.7)

    def test_number_of_labels(self, ours):
        with pytest.raises(errors.DtypeError, match="n_labels must be an integer"):
            ours.utils.unary_from_labels(self.LABELS, 2.5, 0.7)
        with pytest.raises(errors.ParameterError, match="n_labels must be at least 1"):
            ours.utils.unary_from_labels(self.LABELS, 0, 0.7)


class TestUnaryFromSoftmax:
    @pytest.fixture
    def probs(self):
        probs = np.random.default_rng(0).dirichlet(np.full(4, 0.2), (6, 5)).transpose(2, 0, 1)
        probs[0, 0, 0] = 0
        return probs

    @pytest.mark.parametrize("dtype", [np.float64, np.float32])
    @pytest.mark.parametrize("scale", [None, 1, 0.5, 1e-3])
    @pytest.mark.parametrize("clip", [1e-5, 1e-2, 1e-12])
    def test_parity(self, peer, ours, probs, dtype, scale, clip):
        arguments = (probs.astype(dtype), scale, clip)
        assert_same(
            peer.utils.unary_from_softmax(*arguments), ours.utils.unary_from_softmax(*arguments)
        )

    @pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 30), (4, 2, 3, 5)])
    def test_any_number_of_axes(self, peer, ours, probs, shape):
        probs = np.resize(probs, shape)
        assert_same(peer.utils.unary_from_softmax(probs), ours.utils.unary_from_softmax(probs))

    def test_no_clipping(self, peer, ours, probs):
        with pytest.warns(RuntimeWarning, match="divide by zero"):
            theirs = peer.utils.unary_from_softmax(probs, clip=None)
        with pytest.warns(RuntimeWarning, match="divide by zero"):
            mine = ours.utils.unary_from_softmax(probs, clip=None)
        assert np.isinf(mine[0, 0])
        assert_same(theirs, mine)

    def test_half_precision(self, peer, ours, probs):
        half = probs.astype(np.float16)
        expected = peer.utils.unary_from_softmax(half.astype(np.float64))
        assert_same(expected, ours.utils.unary_from_softmax(half), rtol=1e-5)

    def test_layouts(self, peer, ours, probs):
        for view in (
            probs.transpose(0, 2, 1),
            probs[:, ::2, ::-1],
            probs.reshape(4, -1).T.copy().T,
        ):
            theirs = np.ascontiguousarray(peer.utils.unary_from_softmax(view))
            assert_same(theirs, ours.utils.unary_from_softmax(view))

    def test_one_hot(self, peer, ours):
        one_hot = np.eye(4, dtype=np.uint8)
        for values in (one_hot, one_hot.astype(int), one_hot.astype(float)):
            assert_same(
                peer.utils.unary_from_softmax(values), ours.utils.unary_from_softmax(values)
            )

    def test_input_is_left_alone(self, ours, probs):
        kept = probs.copy()
        ours.utils.unary_from_softmax(probs, scale=0.5)
        ours.utils.unary_from_softmax(probs)
        np.testing.assert_array_equal(probs, kept)

    def test_lists(self, ours, probs):
        assert_same(
            ours.utils.unary_from_softmax(probs), ours.utils.unary_from_softmax(probs.tolist())
        )

    def test_old_name(self, peer, ours, probs, caplog):
        probs = np.clip(probs, 1e-9, 1)
        for module in (peer.utils, ours.utils):
            caplog.clear()
            with caplog.at_level(logging.WARNING):
                default, given = (
                    module.softmax_to_unary(probs),
                    module.softmax_to_unary(probs, GT_PROB=0.6),
                )
            assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
            assert "unary_from_softmax" in caplog.text
            assert_same(
                ours.utils.unary_from_softmax(probs, clip=None), np.array(default, order="C")
            )
            assert_same(
                ours.utils.unary_from_softmax(probs, 0.6, clip=None), np.array(given, order="C")
            )

    @pytest.mark.parametrize("scale", [0, -0.5, 1.5, np.nan])
    def test_scale_out_of_range(self, peer, ours, probs, scale):
        for module in (peer.utils, ours.utils):
            with pytest.raises(AssertionError, match="scale"):
                module.unary_from_softmax(probs, scale)
        with pytest.raises(errors.ParameterError, match="scale must be in"):
            ours.utils.unary_from_softmax(probs, scale)

    def test_scores_instead_of_probabilities(self, peer, ours):
        scores = np.random.default_rng(0).normal(size=(3, 4, 5))
        with pytest.warns(UserWarning, match="softmax"):
            mine = ours.utils.unary_from_softmax(scores)
        assert_same(peer.utils.unary_from_softmax(scores), mine)

    def test_wrong_types(self, ours):
        with pytest.raises(errors.DtypeError, match="complex128"):
            ours.utils.unary_from_softmax(np.ones((2, 3), complex))
        with pytest.raises(errors.DtypeError, match="object"):
            ours.utils.unary_from_softmax(np.ones((2, 3), object))
        with pytest.raises(errors.ShapeError, match="first axis"):
            ours.utils.unary_from_softmax(0.5)


class TestCreatePairwiseGaussian:
    @pytest.mark.parametrize(
        ("sdims", "shape"),
        [
            ((3, 4), (5, 7)),
            ([3, 4], [5, 7]),
            (np.array([3.3, 4.7]), np.array([5, 7])),
            (np.array([3.3, 4.7], np.float32), (5, 7)),
            ((2.5,), (9,)),
            ((1, 2, 3), (4, 3, 5)),
            ((1, 2, 3, 4), (2, 3, 2, 3)),
            ((1, np.inf), (4, 4)),
        ],
        ids=str,
    )
    def test_parity(self, peer, ours, sdims, shape):
        theirs = peer.utils.create_pairwise_gaussian(sdims, shape)
        mine = ours.utils.create_pairwise_gaussian(sdims, shape)
        assert_same(theirs, mine)
        # Equal to the bit: a point that changes its simplex would show in the messages.
        np.testing.assert_array_equal(mine, theirs)

    def test_rows_before_columns(self, ours):
        features = ours.utils.create_pairwise_gaussian((2, 4), (2, 3))
        np.testing.assert_array_equal(
            features, [[0, 0, 0, 0.5, 0.5, 0.5], [0, 0.25, 0.5, 0, 0.25, 0.5]]
        )

    @pytest.mark.parametrize("sdims", [(3,), (3, 4, 5)])
    def test_number_of_sigmas(self, ours, sdims):
        with pytest.raises(errors.ShapeError, match="one value per axis"):
            ours.utils.create_pairwise_gaussian(sdims, (5, 7))

    @pytest.mark.parametrize("sdims", [(0, 1), (1, -2), (np.nan, 1)])
    def test_sigma_out_of_range(self, ours, sdims):
        with pytest.raises(errors.ParameterError, match="sdims must be positive"):
            ours.utils.create_pairwise_gaussian(sdims, (5, 7))

    @pytest.mark.parametrize("sdims", [3, None, "ab"])
    def test_sigma_of_another_kind(self, peer, ours, sdims):
        for module in (peer.utils, ours.utils):
            with pytest.raises(TypeError):
                module.create_pairwise_gaussian(sdims, (5, 7))


class TestCreatePairwiseBilateral:
    IMAGE = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)

    @pytest.mark.parametrize(
        ("schan", "image", "chdim"),
        [
            ((13, 14, 15), IMAGE, 2),
            ([13.5, 14.5, 15.5], IMAGE, 2),
            (np.array([13.3, 14.7, 15.1]), IMAGE, 2),
            (13, IMAGE, 2),
            (np.float32(1.3), IMAGE, 2),
            (13, IMAGE.transpose(2, 0, 1), 0),
            (13, IMAGE.transpose(0, 2, 1), 1),
            (13, IMAGE.transpose(2, 1, 0), -3),
            (13, IMAGE[..., 0], -1),
            ((13,), IMAGE[..., 0], -1),
            (13, IMAGE[..., :1], 2),
            (0.1, IMAGE / 255.0, 2),
            (20, IMAGE.astype(np.int32) - 128, 2),
            (700, IMAGE.astype(np.uint16) * 257, 2),
            (0.5, IMAGE > 128, 2),
            (13, np.tile(IMAGE, (1, 1, 3)), 2),
            (13, IMAGE[::-1, ::2], 2),
        ],
    )
    def test_parity(self, peer, ours, schan, image, chdim):
        arguments = ((3, 4.5), schan, image, chdim)
        theirs = peer.utils.create_pairwise_bilateral(*arguments)
        mine = ours.utils.create_pairwise_bilateral(*arguments)
        assert_same(theirs, mine)
        np.testing.assert_array_equal(mine, theirs)

    @pytest.mark.parametrize(
        ("sdims", "shape", "chdim"),
        [
            ((3,), (9,), -1),
            ((3,), (9, 2), 1),
            ((3, 4, 5), (3, 4, 5), -1),
            ((3, 4, 5), (2, 3, 4, 5), 0),
        ],
    )
    def test_other_numbers_of_dimensions(self, peer, ours, sdims, shape, chdim):
        image = np.random.default_rng(0).uniform(0, 1, shape)
        arguments = (sdims, 0.2, image, chdim)
        theirs = peer.utils.create_pairwise_bilateral(*arguments)
        np.testing.assert_array_equal(ours.utils.create_pairwise_bilateral(*arguments), theirs)

    def test_image_is_left_alone(self, ours):
        image = self.IMAGE.astype(np.float32)
        kept = image.copy()
        ours.utils.create_pairwise_bilateral((3, 4), 13, image, 2)
        np.testing.assert_array_equal(image, kept)

    def test_last_axis_is_not_minus_one(self, peer, ours):
        with pytest.warns(UserWarning, match="2 values for 3 spatial axes"):
            mine = ours.utils.create_pairwise_bilateral((3, 4), 13, self.IMAGE)
        assert mine.shape == (4, 90)
        np.testing.assert_array_equal(
            mine, peer.utils.create_pairwise_bilateral((3, 4), 13, self.IMAGE)
        )

    def test_fewer_sigmas_than_channels(self, peer, ours):
        with pytest.warns(UserWarning, match="2 values for 3 channels"):
            mine = ours.utils.create_pairwise_bilateral((3, 4), (13, 14), self.IMAGE, 2)
        np.testing.assert_array_equal(
            mine, peer.utils.create_pairwise_bilateral((3, 4), (13, 14), self.IMAGE, 2)
        )

    def test_more_sigmas_than_axes(self, ours):
        with pytest.raises(errors.ShapeError, match="4 values for 3 channels"):
            ours.utils.create_pairwise_bilateral((3, 4), (1, 2, 3, 4), self.IMAGE, 2)
        with pytest.raises(errors.ShapeError, match="3 values for 2 spatial axes"):
            ours.utils.create_pairwise_bilateral((3, 4, 5), 13, self.IMAGE, 2)

    @pytest.mark.parametrize("chdim", [3, -4])
    def test_axis_out_of_range(self, peer, ours, chdim):
        for module in (peer.utils, ours.utils):
            with pytest.raises(ValueError, match="axis"):
                module.create_pairwise_bilateral((3, 4), 13, self.IMAGE, chdim)

    def test_sigma_out_of_range(self, ours):
        with pytest.raises(errors.ParameterError, match="schan must be positive"):
            ours.utils.create_pairwise_bilateral((3, 4), 0, self.IMAGE, 2)
        with pytest.raises(errors.ParameterError, match="sdims must be positive"):
            ours.utils.create_pairwise_bilateral((0, 4), 1, self.IMAGE, 2)

    def test_image_of_another_kind(self, ours):
        with pytest.raises(errors.DtypeError, match="complex128"):
            ours.utils.create_pairwise_bilateral((3, 4), 1, self.IMAGE * 1j, 2)
