"""Threads, forks and signals: the same bits, no hang, no lost Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fastseg
from fastseg import crf
from fastseg.crf import DenseCRF, PermutohedralLattice, refine
from references.pictures import made_up_image, made_up_probs

COUNTS = (1, 2, 3, 7)


def run(script, timeout=60):
    """Run a script in a fresh Python; its output. A hang fails by the timeout."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def each_count(compute):
    results = []
    for count in COUNTS:
        fastseg.set_num_threads(count)
        assert fastseg.get_num_threads() == count
        crf.clear_cache()
        results.append(compute())
    return results


@pytest.mark.parametrize("num_labels", [1, 2, 3, 21])
@pytest.mark.parametrize("shape", [(7, 5), (130, 173), (300, 64)])
def test_any_number_of_threads_gives_the_same_bits(restore_threads, shape, num_labels):
    probs, image = made_up_probs(num_labels, shape), made_up_image(shape)
    if num_labels == 1:
        probs = made_up_probs(2, shape)[:1]
    first, *others = each_count(lambda: refine(probs, image))
    for other in others:
        np.testing.assert_array_equal(other, first)


def test_same_bits_for_random_pixels(restore_threads):
    """The worst case: nearly every pixel has a simplex of its own."""
    image = np.random.default_rng(0).integers(0, 256, (120, 150, 3), dtype=np.uint8)
    probs = made_up_probs(5, (120, 150))
    first, *others = each_count(lambda: refine(probs, image))
    for other in others:
        np.testing.assert_array_equal(other, first)


def test_same_bits_for_the_parts(restore_threads):
    """Volume, matrix compat, transpose, messages, free energy."""
    shape = (12, 40, 41)
    probs = made_up_probs(3, shape)
    image = made_up_image(shape, channels=2)
    matrix = np.random.default_rng(1).normal(size=(3, 3)).astype(np.float32)

    def compute():
        model = DenseCRF(probs)
        model.add_gaussian(sigma=(1, 2, 2), compat=3)
        model.add_bilateral(image, sigma=5, color_sigma=20, compat=matrix)
        q = model.infer(3)
        return q, model.messages(q), np.float64(model.free_energy(q))

    for index, first, *others in zip(range(3), *each_count(compute), strict=False):
        for other in others:
            np.testing.assert_array_equal(other, first, err_msg=str(index))


@pytest.mark.parametrize("dimension", [2, 3, 5, 6, 8])
def test_lattice_gives_the_same_bits(restore_threads, dimension):
    rng = np.random.default_rng(2)
    features = rng.normal(0, 3, (dimension, 20_000)).astype(np.float32)
    values = rng.normal(size=(3, 20_000)).astype(np.float32)

    def compute():
        lattice = PermutohedralLattice(features)
        return lattice.filter(values), lattice.transpose(values)

    (filtered, transposed), *others = each_count(compute)
    for other in others:
        np.testing.assert_array_equal(other[0], filtered)
        np.testing.assert_array_equal(other[1], transposed)


def test_two_python_threads_at_once():
    cases = []
    for seed, (shape, num_labels) in enumerate([((90, 80), 3), ((70, 110), 2), ((64, 64), 21)]):
        probs, image = made_up_probs(num_labels, shape, seed=seed), made_up_image(shape, seed=seed)
        cases.append((probs, image, refine(probs, image)))
    crf.clear_cache()
    with ThreadPoolExecutor(4) as pool:
        jobs = [(pool.submit(refine, p, i), q) for _ in range(8) for p, i, q in cases]
        for job, expected in jobs:
            np.testing.assert_array_equal(job.result(timeout=120), expected)


def test_shared_objects_from_two_python_threads():
    """One lattice, one CRF and one workspace, used by several threads at once."""
    shape = (60, 70)
    probs, image = made_up_probs(4, shape), made_up_image(shape)
    features = np.random.default_rng(3).normal(0, 2, (5, 4200)).astype(np.float32)
    values = np.random.default_rng(4).normal(size=(2, 4200)).astype(np.float32)
    lattice = PermutohedralLattice(features)
    model = DenseCRF(probs)
    model.add_bilateral(image, sigma=20, color_sigma=13, compat=5)
    workspace = crf.Workspace()
    jobs = {
        "lattice": lambda: lattice.filter(values),
        "crf": lambda: model.infer(5),
        "workspace": lambda: refine(probs, image, workspace=workspace),
    }
    expected = {name: job() for name, job in jobs.items()}
    with ThreadPoolExecutor(4) as pool:
        running = [(name, pool.submit(job)) for _ in range(8) for name, job in jobs.items()]
        for name, job in running:
            np.testing.assert_array_equal(job.result(timeout=120), expected[name], err_msg=name)


def test_set_num_threads_while_another_thread_computes(restore_threads):
    probs, image = made_up_probs(5, (120, 130)), made_up_image((120, 130))
    expected = refine(probs, image)
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(refine, probs, image) for _ in range(8)]
        for count in (1, 3, 2, 7, 1, 2):
            fastseg.set_num_threads(count)
        for job in jobs:
            np.testing.assert_array_equal(job.result(timeout=120), expected)


@pytest.mark.parametrize("bad", [0, -1])
def test_bad_numbers_of_threads(bad):
    from fastseg.errors import ParameterError

    with pytest.raises(ParameterError, match=str(bad)):
        fastseg.set_num_threads(bad)
    for wrong in (1.5, "2", None, True):
        with pytest.raises((TypeError, ParameterError)):
            fastseg.set_num_threads(wrong)


def test_environment_variable_sets_the_number_of_threads():
    script = "import fastseg; print(fastseg.get_num_threads())"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "FASTSEG_NUM_THREADS": "3"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == "3"


MAKE_INPUT = """
import os, signal, sys, threading
import numpy as np
import fastseg
from fastseg.crf import DenseCRF, PermutohedralLattice, refine
rng = np.random.default_rng(0)
def case(height, width, labels):
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    probs = rng.dirichlet(np.ones(labels), (height, width)).transpose(2, 0, 1)
    return probs.astype(np.float32), image
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_a_forked_child_can_refine(threads):
    """The pool's threads do not survive a fork: the child must start its own, not wait for them."""
    out = run(
        MAKE_INPUT
        + f"""
fastseg.set_num_threads({threads})
probs, image = case(120, 130, 4)
expected = refine(probs, image)
children = []
for _ in range(2):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            same = np.array_equal(refine(probs, image), expected)
            fastseg.set_num_threads(3)
            same &= np.array_equal(refine(probs, image), expected)
            code = 0 if same else 2
        finally:
            os._exit(code)
    children.append(pid)
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
same = np.array_equal(refine(probs, image), expected)
print(codes, same)
"""
    )
    assert out.split("\n")[0] == "[0, 0] True"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_during_a_call_in_another_thread():
    """A pool of worker processes that is started while a thread computes must not hang."""
    out = run(
        MAKE_INPUT
        + """
fastseg.set_num_threads(2)
probs, image = case(200, 200, 8)
expected = refine(probs, image, iterations=3)
stop = threading.Event()
def work():
    while not stop.is_set():
        refine(probs, image, iterations=3)
thread = threading.Thread(target=work)
thread.start()
codes = []
for _ in range(5):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if np.array_equal(refine(probs, image, iterations=3), expected) else 2
        finally:
            os._exit(code)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
stop.set()
thread.join()
print(codes)
"""
    )
    assert out.strip() == "[0, 0, 0, 0, 0]"


LONG_CALLS = {
    "refine": "refine(*case(300, 300, 8), iterations=10**7)",
    "refine, tiny": "refine(*case(5, 5, 2), iterations=10**9)",
    "refine, one thread": "(fastseg.set_num_threads(1), "
    "refine(*case(300, 300, 8), iterations=10**7))",
    "refine, batch": "refine(*(np.broadcast_to(a, (500, *a.shape)) for a in case(200, 200, 4)), "
    "iterations=100)",
    "infer": "model.infer(10**7)",
    "infer with tolerance": "model.infer(10**7, tolerance=1e-300)",
}


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT to itself")
@pytest.mark.parametrize("name", list(LONG_CALLS))
def test_ctrl_c_during_a_long_call(name):
    """SIGINT raises KeyboardInterrupt out of calls that would otherwise take minutes or hours.

    The timer's thread can only send the signal if the call has released the GIL.
    """
    out = run(
        MAKE_INPUT
        + f"""
probs, image = case(200, 200, 4)
model = DenseCRF(probs)
model.add_bilateral(image, sigma=20, color_sigma=13, compat=5)
model.infer(1)
sent = []
def interrupt():
    sent.append(True)
    os.kill(os.getpid(), signal.SIGINT)
timer = threading.Timer(0.7, interrupt)
timer.start()
try:
    {LONG_CALLS[name]}
except KeyboardInterrupt:
    print("interrupted", sent)
else:
    print("finished", sent)
timer.join()
again = refine(*case(30, 30, 3))
print(np.isfinite(again).all())
""",
        timeout=30,
    )
    assert out.split("\n")[:2] == ["interrupted [True]", "True"]


def test_ctrl_c_reaches_the_main_thread_only():
    """A signal while only a worker thread computes is handled by Python as always: no deadlock."""
    out = run(
        MAKE_INPUT
        + """
import time
seen = []
signal.signal(signal.SIGINT, lambda *_: seen.append(True))
probs, image = case(200, 200, 4)
thread = threading.Thread(target=lambda: refine(probs, image, iterations=30))
thread.start()
os.kill(os.getpid(), signal.SIGINT)
thread.join()
time.sleep(0.01)
print(seen)
""",
    )
    assert out.strip() == "[True]"


def test_gil_is_released_during_a_call():
    """Another Python thread makes progress while one call runs on and on."""
    probs, image = made_up_probs(8, (200, 200)), made_up_image((200, 200))
    ticks = []

    class EnoughError(Exception):
        pass

    def progress(done, total):
        if len(ticks) >= 1000:
            raise EnoughError

    def tick():
        for n in range(1000):
            ticks.append(n)

    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(tick)
        with pytest.raises(EnoughError):
            refine(probs, image, iterations=10**6, progress=progress)
        job.result(timeout=60)


@pytest.mark.skipif(not hasattr(signal, "SIGINT"), reason="no signals here")
def test_import_installs_no_signal_handler():
    out = run(
        """
        import signal
        before = signal.getsignal(signal.SIGINT)
        import numpy as np
        from fastseg.crf import refine
        refine(np.full((2, 8, 8), 0.5, np.float32), np.zeros((8, 8, 3), np.uint8))
        print(signal.getsignal(signal.SIGINT) is before)
        """
    )
    assert out.strip() == "True"
