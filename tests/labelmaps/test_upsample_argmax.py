"""upsample_argmax: against torch, against the definition, on real scores, and on odd arrays."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastseg
from fastseg.errors import DtypeError, ParameterError, ShapeError
from fastseg.labelmaps import upsample_argmax
from references.plain_upsample import clear_pixels, plain_upsample

torch = pytest.importorskip("torch")

# Of the largest logit: float32 arithmetic in another order.
ROUNDING = 1e-6


def interpolated(logits, size, align_corners=False):
    """(B, K, h, w) as torch resamples them, in float32."""
    values = torch.as_tensor(np.ascontiguousarray(logits)).float()
    return torch.nn.functional.interpolate(
        values, size=size, mode="bilinear", align_corners=align_corners
    ).numpy()


def assert_like_torch(logits, size, align_corners=False):
    ids = upsample_argmax(logits, size, align_corners=align_corners)
    for one, enlarged in zip(ids, interpolated(logits, size, align_corners), strict=True):
        clear = clear_pixels(enlarged, ROUNDING)
        np.testing.assert_array_equal(one[clear], enlarged.argmax(axis=0)[clear])
        # Where it is not clear, the choice is still one of the best.
        chosen = np.take_along_axis(enlarged, one[np.newaxis].astype(np.int64), axis=0)[0]
        assert (enlarged.max(axis=0) - chosen).max() <= ROUNDING * np.abs(enlarged).max()
    return ids


@pytest.fixture
def noise():
    return np.random.default_rng(0).normal(size=(2, 7, 6, 9)).astype(np.float32)


class TestValues:
    @pytest.mark.parametrize("align_corners", [False, True])
    @pytest.mark.parametrize(
        ("shape", "size"),
        [
            ((19, 16, 32), (64, 128)),  # x4
            ((150, 8, 8), (64, 64)),  # x8
            ((5, 6, 7), (12, 14)),  # x2
            ((3, 4, 5), (128, 160)),  # x32: a cell fills many vectors
            ((4, 2, 3), (200, 5)),
            ((6, 9, 11), (23, 37)),  # no whole ratio
            ((6, 40, 50), (13, 17)),  # smaller
            ((6, 8, 9), (8, 9)),  # the same
            ((6, 8, 9), (24, 9)),  # the same in one axis
            ((6, 9, 8), (5, 40)),  # smaller and larger
            ((2, 1, 1), (5, 3)),
            ((1, 3, 3), (9, 9)),
            ((3, 5, 1), (1, 1)),
            ((700, 3, 40), (9, 50)),  # tiles of few cells
            ((2, 3, 1100), (6, 2200)),  # tiles side by side
        ],
    )
    def test_like_torch(self, shape, size, align_corners):
        logits = np.random.default_rng(1).normal(size=(1, *shape)).astype(np.float32)
        assert_like_torch(logits, size, align_corners)
        # Smooth logits, for which most cells have one candidate.
        smooth = np.cumsum(np.cumsum(logits, axis=2), axis=3).astype(np.float32)
        assert_like_torch(smooth, size, align_corners)

    @settings(deadline=None, max_examples=60)
    @given(
        st.integers(1, 9), st.integers(1, 12), st.integers(1, 12), st.integers(1, 40),
        st.integers(1, 40), st.booleans(), st.integers(0, 99),
    )  # fmt: skip
    def test_like_the_definition(self, k, h, w, height, width, align_corners, seed):
        logits = np.random.default_rng(seed).normal(size=(k, h, w)).astype(np.float32)
        enlarged = plain_upsample(logits, (height, width), align_corners=align_corners)
        ids = upsample_argmax(logits, (height, width), align_corners=align_corners)
        clear = clear_pixels(enlarged, ROUNDING)
        np.testing.assert_array_equal(ids[clear], enlarged.argmax(axis=0)[clear])

    @pytest.mark.parametrize("align_corners", [False, True])
    def test_ties_go_to_the_lowest_class(self, align_corners):
        # Few different whole numbers: with weights of powers of two nothing is rounded.
        logits = np.random.default_rng(2).integers(0, 3, (1, 6, 9, 9)).astype(np.float32)
        size = (17, 33) if align_corners else (36, 18)
        ids = upsample_argmax(logits, size, align_corners=align_corners)
        enlarged = interpolated(logits, size, align_corners)
        assert (np.sort(enlarged, axis=1)[:, -1] == np.sort(enlarged, axis=1)[:, -2]).mean() > 0.05
        np.testing.assert_array_equal(ids, enlarged.argmax(axis=1))
        assert not upsample_argmax(np.zeros((3, 4, 4), np.float32), (9, 9)).any()

    def test_batches(self, noise):
        ids = assert_like_torch(noise, (21, 30))
        for one, logits in zip(ids, noise, strict=True):
            np.testing.assert_array_equal(one, upsample_argmax(logits, (21, 30)))

    def test_an_empty_batch(self):
        assert upsample_argmax(np.zeros((0, 3, 4, 5), np.float32), (8, 9)).shape == (0, 8, 9)

    @pytest.mark.data
    def test_real_scores(self, data_dir):
        folder = data_dir / "camvid" / "test_unary_espnet"
        for path in sorted(folder.glob("*.npz"))[:3]:
            with np.load(path) as stored:
                logits = stored["q"][:, ::4, ::4].astype(np.float32) / -12
            # Scores in steps of 1/12 tie often.
            assert_like_torch(logits[np.newaxis], (360, 480))


class TestNotFinite:
    def test_nan_as_in_torch(self, noise):
        noise[0, 3, 2, 4] = noise[1, 5, 0, 0] = noise[1, 2, 0, 1] = np.nan
        for size in [(24, 36), (25, 31), (6, 9), (12, 9), (3, 4)]:
            for align_corners in (False, True):
                ids = upsample_argmax(noise, size, align_corners=align_corners)
                enlarged = torch.from_numpy(interpolated(noise, size, align_corners))
                # torch's argmax takes NaN for the largest, the first of several.
                np.testing.assert_array_equal(ids, enlarged.argmax(dim=1).numpy())

    def test_all_nan(self):
        assert not upsample_argmax(np.full((4, 3, 3), np.nan, np.float32), (9, 9)).any()

    @pytest.mark.parametrize("size", [(24, 36), (6, 9), (11, 17), (3, 4)])
    @pytest.mark.parametrize("align_corners", [False, True])
    def test_masked_classes_never_win(self, noise, size, align_corners):
        """torch's 0·−inf is NaN, which wins along the borders: a deviation on purpose."""
        masked, low = noise.copy(), noise.copy()
        masked[:, 4], low[:, 4] = -np.inf, -1e6
        ids = upsample_argmax(masked, size, align_corners=align_corners)
        assert not (ids == 4).any()
        np.testing.assert_array_equal(ids, upsample_argmax(low, size, align_corners=align_corners))
        if not align_corners:
            theirs = torch.from_numpy(interpolated(masked, size)).argmax(dim=1).numpy()
            assert size == (3, 4) or (theirs == 4).any()
            assert np.isin(theirs[theirs != ids], 4).all()

    def test_infinite_logits_win(self, noise):
        noise[0, 6, 3, 3] = np.inf
        ids = upsample_argmax(noise, (24, 36))[0]
        assert (ids[11:17, 11:17] == 6).all()
        noise[0, 6, 3, 4] = -np.inf
        # Between inf and -inf everything is NaN.
        assert (upsample_argmax(noise, (24, 36))[0][11:17, 11:18] == 6).all()


class TestArrays:
    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
    def test_float_types(self, noise, dtype):
        tensor = torch.from_numpy(noise).to(getattr(torch, dtype))
        ids = upsample_argmax(tensor, (24, 35))
        assert isinstance(ids, torch.Tensor)
        assert ids.dtype == torch.uint8
        np.testing.assert_array_equal(ids, upsample_argmax(tensor.float(), (24, 35)))
        if dtype != "bfloat16":
            np.testing.assert_array_equal(ids, upsample_argmax(tensor.numpy(), (24, 35)))

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
    @pytest.mark.parametrize(
        "layout",
        [
            lambda x: x.contiguous(memory_format=torch.channels_last),
            lambda x: x.permute(3, 1, 0, 2),
            lambda x: x[:, :, ::2, 1::3],
            lambda x: x[:, ::2],
            lambda x: x[:, :, :1].expand(-1, -1, 5, -1),
            lambda x: (
                x.flatten(2).transpose(1, 2).contiguous().transpose(1, 2).unflatten(2, (6, 9))
            ),
        ],
    )
    def test_memory_layouts(self, noise, dtype, layout):
        tensor = layout(torch.from_numpy(noise).to(getattr(torch, dtype)))
        np.testing.assert_array_equal(
            upsample_argmax(tensor, (24, 35)), upsample_argmax(tensor.contiguous(), (24, 35))
        )

    def test_tokens_with_many_channels(self):
        tokens = np.random.default_rng(5).normal(size=(20, 37, 75)).astype(np.float32)
        logits = tokens.transpose(2, 0, 1)
        np.testing.assert_array_equal(
            upsample_argmax(logits, (80, 148)),
            upsample_argmax(np.ascontiguousarray(logits), (80, 148)),
        )

    def test_odd_numpy_arrays(self, noise):
        expected = upsample_argmax(noise, (24, 35))
        np.testing.assert_array_equal(upsample_argmax(noise.astype(">f4"), (24, 35)), expected)
        turned = noise[::-1, :, ::-1, ::-1]
        np.testing.assert_array_equal(
            upsample_argmax(turned, (24, 35)), upsample_argmax(turned.copy(), (24, 35))
        )
        raw = np.zeros(noise.nbytes + 1, np.uint8)
        odd = raw[1:].view(np.float32).reshape(noise.shape)
        odd[:] = noise
        assert not odd.flags.aligned
        np.testing.assert_array_equal(upsample_argmax(odd, (24, 35)), expected)
        frozen = noise.copy()
        frozen.flags.writeable = False
        np.testing.assert_array_equal(upsample_argmax(frozen, (24, 35)), expected)
        np.testing.assert_array_equal(upsample_argmax(noise[0].tolist(), (24, 35)), expected[0])

    def test_tensors_that_need_gradients(self, noise):
        tensor = torch.from_numpy(noise).requires_grad_()
        assert not upsample_argmax(tensor, (12, 18)).requires_grad

    @pytest.mark.parametrize(
        ("classes", "dtype"),
        [(256, "uint8"), (257, "uint16"), (65536, "uint16"), (65537, "uint32")],
    )
    def test_smallest_integers(self, classes, dtype):
        logits = np.zeros((classes, 2, 2), np.float32)
        logits[-1, :, 1] = 1
        ids = upsample_argmax(logits, (4, 4))
        assert ids.dtype == dtype
        assert set(np.unique(ids)) == {0, classes - 1}
        from_torch = upsample_argmax(torch.from_numpy(logits), (4, 4))
        assert from_torch.dtype == {"uint8": torch.uint8, "uint16": torch.int32}.get(
            dtype, torch.int64
        )
        np.testing.assert_array_equal(from_torch.numpy(), ids)


class TestEngine:
    def test_threads_do_not_change_bits(self):
        logits = np.random.default_rng(3).normal(size=(40, 60, 70)).astype(np.float32)
        before = fastseg.get_num_threads()
        try:
            results = []
            for threads in (1, 2, 3):
                fastseg.set_num_threads(threads)
                results.append(upsample_argmax(logits, (240, 280)))
        finally:
            fastseg.set_num_threads(before)
        np.testing.assert_array_equal(results[0], results[1])
        np.testing.assert_array_equal(results[0], results[2])

    @pytest.mark.parametrize("level", ["baseline", "avx2"])
    def test_other_instruction_sets(self, level, tmp_path):
        rng = np.random.default_rng(4)
        logits = rng.normal(size=(2, 11, 13, 21)).astype(np.float32)
        logits[0, 3, 4, 5], logits[1, 2] = np.nan, -np.inf
        sizes = [(52, 84), (30, 200), (13, 21), (7, 9)]
        np.save(tmp_path / "logits.npy", logits)
        script = (
            "import sys, numpy as np; from fastseg.labelmaps import upsample_argmax;"
            "x = np.load(sys.argv[1] + '/logits.npy');"
            f"[np.save(f'{{sys.argv[1]}}/{{s[0]}}.npy', upsample_argmax(x, s)) for s in {sizes}]"
        )
        environment = {**os.environ, "FASTSEG_SIMD": level}
        subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)], check=True, env=environment, timeout=120
        )
        for size in sizes:
            enlarged = interpolated(np.nan_to_num(logits, nan=1e4, neginf=-1e4), size)
            ids = np.load(tmp_path / f"{size[0]}.npy")
            ours = upsample_argmax(logits, size)
            for one, other, scores in zip(ids, ours, enlarged, strict=True):
                clear = clear_pixels(scores, 1e-9)
                np.testing.assert_array_equal(one[clear], other[clear])

    def test_peak_memory(self):
        """The enlarged logits would take 320 MB; the labels take 4."""
        script = (
            "import numpy as np, resource; from fastseg.labelmaps import upsample_argmax;"
            "x = np.random.default_rng(0).normal(size=(20, 64, 64)).astype(np.float32);"
            "upsample_argmax(x, (8, 8));"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
            "ids = upsample_argmax(x, (2048, 2048));"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
        )
        done = subprocess.run(
            [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=120
        )
        unit = 1 if sys.platform == "darwin" else 1024
        assert int(done.stdout) * unit < 4 * 2**20 + 64 * 2**20


class TestBadInput:
    def test_refusals(self, noise):
        with pytest.raises(ShapeError, match=r"\(K, h, w\).*got \(6, 9\)"):
            upsample_argmax(noise[0, 0], (4, 4))
        for shape in [(0, 3, 3), (3, 0, 3), (3, 3, 0), (2, 0, 3, 3)]:
            with pytest.raises(ShapeError, match="at least one class and one pixel"):
                upsample_argmax(np.zeros(shape, np.float32), (4, 4))
        with pytest.raises(DtypeError, match=r"int64.*before the argmax"):
            upsample_argmax(np.zeros((3, 4, 4), int), (4, 4))
        with pytest.raises(DtypeError, match="complex64"):
            upsample_argmax(np.zeros((3, 4, 4), np.complex64), (4, 4))
        for size in (7, (7,), (7, 7, 7), "77", None):
            with pytest.raises(ShapeError, match="height, width"):
                upsample_argmax(noise, size)
        for size in ((0, 4), (4, -1)):
            with pytest.raises(ParameterError, match="at least 1"):
                upsample_argmax(noise, size)
        with pytest.raises(DtypeError, match="integer"):
            upsample_argmax(noise, (4.5, 4))
