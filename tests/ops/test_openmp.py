"""The engine beside PyTorch's own threads: the same results, no hang, errors passed on."""

import os
import subprocess
import sys

import pytest

BODY = """
import os, threading
import torch
from fastseg import ops
torch.set_num_threads(3)

def work():
    x = torch.randn(1, 16, 16, 64)
    x = torch.nn.functional.conv2d(x, torch.randn(16, 16, 3, 3)) # PyTorch's threads have started
    x = torch.randn(2, 9, 8, 32)
    w, b = torch.randn(32, 1, 3, 3), torch.randn(32)
    got = ops.depthwise_conv_gelu(x, w, b)
    with ops.use_backend("torch"):
        expected = ops.depthwise_conv_gelu(x, w, b)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
"""
CASES = {
    "in the main thread": "for _ in range(20): work()",
    "in several threads": """
threads = [threading.Thread(target=lambda: [ops.depthwise_conv_gelu(
    torch.ones(1, 3, 4, 8), torch.ones(8, 1, 3, 3), torch.ones(8)) for _ in range(50)]
) for _ in range(4)]
for t in threads: t.start()
for t in threads: t.join()
""",
    "in a forked child": """
work()
child = os.fork()
if child == 0:
    torch.set_num_threads(1)
    work()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
""",
    "an error": """
work()
try:
    ops.upsample_cross_entropy(torch.zeros(1, 2, 4, 4), torch.full((1, 8, 8), 7))
except ValueError as error:
    assert "7" in str(error)
else:
    raise SystemExit("no error")
work()
""",
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("case", CASES)
def test_engine_and_pytorch_share_the_processor(case) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    code = BODY + CASES[case]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
