"""Accumulators as torchmetrics metrics: collections, Lightning, several processes."""

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastseg import metrics
from fastseg.errors import ParameterError
from metrics.two_processes import CLASSES, VOID, collection, scenes

torch = pytest.importorskip("torch")
torchmetrics = pytest.importorskip("torchmetrics")

GIVEN = {"num_classes": CLASSES, "ignore_index": VOID}


@pytest.fixture
def tensors():
    return tuple(map(torch.from_numpy, scenes()))


def test_is_both():
    m = metrics.MeanIoU(**GIVEN)
    assert isinstance(m, metrics.MeanIoU)
    assert isinstance(m, torchmetrics.Metric)
    assert isinstance(m, torch.nn.Module)
    assert repr(m).startswith("MeanIoU(num_classes=4")
    assert metrics.MeanIoU(**GIVEN, sync_on_compute=False).sync_on_compute is False


def test_results_are_tensors(tensors):
    m = metrics.IoU(**GIVEN)
    m.update(*tensors)
    assert m.compute().dtype == torch.float64
    np.testing.assert_array_equal(
        m.compute(), metrics.iou(metrics.confusion_matrix(*tensors, **GIVEN))
    )
    m = metrics.ConfusionMatrix(**GIVEN)
    m.update(*tensors)
    assert m.compute().dtype == torch.int64


def test_forward_gives_the_batch_and_keeps_all(tensors):
    preds, targets = tensors
    for over in ("dataset", "image", "class"):
        for worst in (None, 0.4) if over != "dataset" else (None,):
            m = metrics.MeanIoU(**GIVEN, over=over, worst=worst)
            given = {**GIVEN, "over": over, "worst": worst}
            for rows in (slice(0, 4), slice(4, 10)):
                of_batch = m(preds[rows], targets[rows])
                expected = metrics.mean_iou(preds[rows], targets[rows], **given)
                assert float(of_batch) == pytest.approx(expected, rel=1e-14)
            expected = metrics.mean_iou(preds, targets, **given)
            assert float(m.compute()) == pytest.approx(expected, rel=1e-14)


class TestCollections:
    def test_equals_the_functions(self, tensors):
        together = collection()
        for rows in (slice(0, 4), slice(4, 10)):
            together.update(tensors[0][rows], tensors[1][rows])
        found = together.compute()
        confusion = metrics.confusion_matrix(*tensors, **GIVEN)
        assert torch.equal(found["confusion"], confusion)
        assert float(found["dice"]) == metrics.dice(confusion, average="macro")
        assert float(found["kappa"]) == metrics.cohen_kappa(confusion)
        assert float(found["dataset"]) == metrics.mean_iou(*tensors, **GIVEN)
        expected = metrics.mean_iou(*tensors, **GIVEN, over="image")
        assert float(found["image"]) == pytest.approx(expected, rel=1e-14)

    def test_those_that_count_the_same_count_once(self, tensors):
        together = collection()
        together.update(*tensors)
        groups = sorted(map(sorted, together.compute_groups.values()))
        assert groups == [["confusion", "dataset", "dice", "kappa"], ["image"], ["worst"]]

    def test_those_that_count_otherwise_do_not(self):
        """torchmetrics takes counts within 1e-5 of each other in the first batch for the same."""
        target = torch.zeros((1000, 1000), dtype=torch.int64)
        target[0, 0] = VOID
        together = torchmetrics.MetricCollection(
            {
                "void": metrics.Accuracy(num_classes=10, ignore_index=VOID, average="micro"),
                "all": metrics.Accuracy(num_classes=10, average="micro"),
            }
        )
        together.update(torch.zeros_like(target), target)
        assert len(together.compute_groups) == 2
        found = together.compute()
        assert float(found["void"]) == 1
        assert float(found["all"]) == 1 - 1e-6

    def test_dicts_become_names(self, tensors):
        overs = ("dataset", "image")
        together = torchmetrics.MetricCollection([metrics.MeanIoU(**GIVEN, over=overs)])
        together.update(*tensors)
        assert {name.split("_")[-1] for name in together.compute()} == set(overs)

    def test_clones_go_their_own_way(self, tensors):
        first = collection()
        first.update(*tensors)
        other = first.clone(prefix="val_")
        other.reset()
        other.update(tensors[0][:1], tensors[1][:1])
        assert float(first.compute()["dataset"]) == metrics.mean_iou(*tensors, **GIVEN)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies(tensors, how):
    m = metrics.MeanIoU(**GIVEN)
    m.update(*tensors)
    other = how(m)
    assert isinstance(other, torchmetrics.Metric)
    assert isinstance(other, metrics.MeanIoU)
    assert torch.equal(other.compute(), m.compute())
    other.update(tensors[0][:1], tensors[1][:1])
    assert not torch.equal(other.compute(), m.compute())


def test_half_precision_leaves_counts_alone(tensors):
    m = metrics.MeanIoU(**GIVEN, over=("dataset", "image"))
    m.update(*tensors)
    expected = metrics.mean_iou(*tensors, **GIVEN, over=("dataset", "image"))
    model = torch.nn.ModuleDict({"metric": m})
    model.half()
    model.to(torch.bfloat16)
    model.double()
    m.set_dtype(torch.float16)
    assert m.confusion.dtype == torch.int64
    assert m.image_sum.dtype == torch.float64
    for over, score in m.compute().items():
        assert float(score) == pytest.approx(expected[over], rel=1e-14)


class TestStates:
    def test_of_its_own(self, tensors):
        m = metrics.MeanIoU(**GIVEN, over="class", worst=0.5)
        m.update(*tensors)
        other = metrics.MeanIoU(**GIVEN, over="class", worst=0.5)
        other.load_state_dict(m.state_dict())
        assert torch.equal(other.compute(), m.compute())
        with pytest.raises(ParameterError, match="counts otherwise"):
            metrics.MeanIoU(num_classes=CLASSES, over="class", worst=0.5).load_state_dict(
                m.state_dict()
            )

    def test_as_part_of_a_model(self, tensors):
        """As other torchmetrics metrics: only what `persistent` asks for."""
        m = metrics.MeanIoU(**GIVEN)
        m.update(*tensors)
        model = torch.nn.ModuleDict({"metric": m})
        assert not model.state_dict()
        m.persistent(True)
        state = model.state_dict()
        assert "metric.confusion" in state
        other = torch.nn.ModuleDict({"metric": metrics.MeanIoU(**GIVEN)})
        other["metric"].persistent(True)
        other.load_state_dict(state)
        assert torch.equal(other["metric"].confusion, m.confusion)

    def test_between_plain_and_torchmetrics(self, tensors, monkeypatch):
        both = metrics.MeanIoU(**GIVEN, over="image", worst=0.5)
        both.update(tensors[0][:3], tensors[1][:3])
        with monkeypatch.context() as patched:
            patched.delitem(sys.modules, "torchmetrics")
            plain = metrics.MeanIoU(**GIVEN, over="image", worst=0.5)
        assert not isinstance(plain, torchmetrics.Metric)
        plain.update(tensors[0][3:].numpy(), tensors[1][3:].numpy())
        expected = metrics.mean_iou(*tensors, **GIVEN, over="image", worst=0.5)
        merged = copy.deepcopy(plain)
        merged.merge(both)
        assert merged.compute() == pytest.approx(expected, rel=1e-14)
        both.merge(plain)
        assert float(both.compute()) == pytest.approx(expected, rel=1e-14)
        plain.load_state_dict(both.state_dict())
        assert plain.compute() == pytest.approx(expected, rel=1e-14)
        # A plain one stays plain when it is unpickled where torchmetrics is loaded.
        assert type(pickle.loads(pickle.dumps(plain))) is metrics.MeanIoU


@pytest.mark.filterwarnings("ignore")
def test_lightning(tensors, tmp_path):
    lightning = pytest.importorskip("lightning")
    preds, targets = tensors

    class Model(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)
            self.miou = metrics.MeanIoU(**GIVEN)
            self.many = torchmetrics.MetricCollection(
                {"dice": metrics.Dice(**GIVEN, average="macro")}, prefix="val/"
            )

        def training_step(self, batch, _):
            return self.layer(batch[0].float().mean().reshape(1, 1)).sum()

        def validation_step(self, batch, _):
            self.miou.update(*batch)
            self.many.update(*batch)
            self.log("val/miou", self.miou, sync_dist=True)
            self.log_dict(self.many, sync_dist=True)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.0)

    data = torch.utils.data.TensorDataset(preds, targets)
    loader = torch.utils.data.DataLoader(data, batch_size=4)
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=1,
        default_root_dir=tmp_path,
    )
    trainer.fit(Model(), loader, loader)
    logged = trainer.callback_metrics
    expected = metrics.mean_iou(preds, targets, **GIVEN)
    assert float(logged["val/miou"]) == pytest.approx(expected, rel=1e-6)
    confusion = metrics.confusion_matrix(preds, targets, **GIVEN)
    expected = metrics.dice(confusion, average="macro")
    assert float(logged["val/dice"]) == pytest.approx(expected, rel=1e-6)


def test_two_processes(tmp_path):
    script = Path(__file__).with_name("two_processes.py")
    command = [sys.executable, str(script)]
    running = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "rendezvous")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=600) for process in running]
    for process, (_, errors) in zip(running, outputs, strict=True):
        assert process.returncode == 0, errors
    first, second = (json.loads(output.splitlines()[-1]) for output, _ in outputs)
    preds, targets = scenes()
    confusion = metrics.confusion_matrix(preds, targets, **GIVEN)
    for results in (first, second):
        assert results["confusion"] == confusion.tolist()
        assert results["dataset"] == metrics.mean_iou(preds, targets, **GIVEN)
        assert results["dice"] == metrics.dice(confusion, average="macro")
        assert results["kappa"] == metrics.cohen_kappa(confusion)
        for name, given in {
            "image": {"over": "image"},
            "worst": {"over": "class", "worst": 0.3},
        }.items():
            expected = metrics.mean_iou(preds, targets, **GIVEN, **given)
            assert results[name] == pytest.approx(expected, rel=1e-14)
        expected = metrics.mean_iou(preds[:2], targets[:2], **GIVEN, over="image", worst=0.5)
        assert results["lone"] == pytest.approx(expected, rel=1e-14)
        assert results["big"] == 2**54 + 1  # no float64 holds it
        assert "different parameters" in results["different"]
    # 8 rows of 9 are no void, of 8 and of 4 images.
    assert (first["own"], second["own"]) == (8 * 63, 4 * 63)
