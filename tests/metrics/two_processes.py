"""What one of two processes does in test_torchmetrics.py: update, synchronise, compute.

    python two_processes.py RANK FILE

Process 1 has no image for some of the metrics. Prints what `compute` gives, as JSON.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed
import torchmetrics

from fastseg import metrics
from fastseg.errors import BackendError

CLASSES, VOID = 4, 9


def scenes() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    preds, targets = rng.integers(0, CLASSES, (2, 10, 8, 9))
    targets[:, 0] = VOID
    return preds, targets


def collection() -> torchmetrics.MetricCollection:
    given = {"num_classes": CLASSES, "ignore_index": VOID}
    return torchmetrics.MetricCollection(
        {
            "dataset": metrics.MeanIoU(**given),
            "image": metrics.MeanIoU(**given, over="image"),
            "worst": metrics.MeanIoU(**given, over="class", worst=0.3),
            "dice": metrics.Dice(**given, average="macro"),
            "confusion": metrics.ConfusionMatrix(**given),
            "kappa": metrics.CohenKappa(**given),
        }
    )


def main(rank: int, file: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=file.as_uri(), rank=rank, world_size=2)
    preds, targets = map(torch.from_numpy, scenes())
    of_rank = slice(0, 7) if rank == 0 else slice(7, 10)
    both = collection()
    both.update(preds[of_rank], targets[of_rank])
    # Nothing at all in process 1.
    lone = metrics.MeanIoU(num_classes=CLASSES, ignore_index=VOID, over="image", worst=0.5)
    if rank == 0:
        lone.update(preds[:2], targets[:2])
    big = metrics.ConfusionMatrix(num_classes=1)
    big.load_state_dict({"confusion": torch.tensor([[2**53 + rank, 0]])})
    results = {name: value.tolist() for name, value in both.compute().items()}
    results["lone"] = float(lone.compute())
    results["big"] = int(big.compute())
    # After synchronising each process goes on with what was its own.
    both.update(preds[:1], targets[:1])
    results["own"] = int(both["confusion"].confusion.sum())
    different = metrics.MeanIoU(num_classes=CLASSES, ignore_index=VOID + rank)
    different.update(preds[:1] % 2, torch.zeros_like(preds[:1]))
    try:
        different.compute()
        results["different"] = "no error"
    except BackendError as error:
        results["different"] = str(error)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    assert all(not isinstance(x, float) or math.isfinite(x) for x in results.values())
    print(json.dumps(results))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
