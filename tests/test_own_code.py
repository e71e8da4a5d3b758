"""What a person writes into task.py, data.py and model.py: it works, or one line says what is missing, at the start."""

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from conftest import QUESTIONS, Render, modules_of
from engine import UserError, checkpoint
from engine.data.loaders import make_loaders, train_batches
from engine.optim.optimizers import OPTIMIZERS
from engine.trainer import Trainer
from ranks import run_ranks
from scripts import run_script
from small import Small, SmallConfig, network, same, weights
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassF1Score

ONE_EPOCH = ["train.py", "--data", "synthetic", "--epochs", "1", "--warm_up_mode", "none", "--pictures", "none"]


def said(project: Path, tmp_path: Path, *argv: str) -> str:
    """The line with which a script ends in exit status 1; it has no traceback."""
    status, printed = run_script(project, list(argv) or ONE_EPOCH, tmp_path / "output")
    assert status == 1 and "Traceback" not in printed, printed
    return printed.splitlines()[-1]


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text("utf-8")
    assert old in text
    file.write_text(text.replace(old, new), "utf-8")


# ---- what must be there ----


@pytest.mark.parametrize(
    ("file", "name", "script"),
    [
        ("task.py", "Task", ONE_EPOCH),
        ("model.py", "build_model_list", ONE_EPOCH),
        ("data.py", "load_data", ONE_EPOCH),
        ("model.py", "build_model_list", ["predict.py", "--checkpoint", "best.pth", "houses.csv"]),
        ("task.py", "to_rows", ["predict.py", "--checkpoint", "best.pth", "houses.csv"]),
        ("data.py", "read_inputs", ["predict.py", "--checkpoint", "best.pth", "houses.csv"]),
    ],
)
def test_a_name_that_is_missing_is_said_in_one_line(
    file: str, name: str, script: list[str], render: Render, tmp_path: Path
) -> None:
    project = render(task_type="regression")
    run_script(project, [*ONE_EPOCH, "--ckpt_dir", str(tmp_path / "runs")], tmp_path / "output")
    [best] = (tmp_path / "runs").glob("*/best.pth")
    best.rename(project / "best.pth")
    (project / "houses.csv").write_text("a,b,kind\n1,2,low\n", "utf-8")
    defined = {"Task": "class Task(", "read_inputs": "as read_inputs"}.get(name, f"def {name}(")
    edit(project / file, defined, defined.replace(name, "other"))
    line = said(project, tmp_path, *script)
    assert line.startswith(f"error: cannot import name '{name}' from '{file[:-3]}'"), line
    assert line.endswith("README.md lists what must be in task.py, data.py and model.py")


def test_a_file_that_is_missing_is_said_in_one_line(render: Render, tmp_path: Path) -> None:
    project = render(task_type="regression")
    (project / "model.py").unlink()
    assert said(project, tmp_path).startswith("error: No module named 'model'; README.md lists what must be in task.py")


@pytest.mark.parametrize(
    ("file", "old", "new", "why"),
    [
        ("data.py", "as read_inputs", "as read_files", "cannot import name 'read_inputs' from 'data'"),
        ("task.py", "def to_rows(", "def rows(", "cannot import name 'to_rows' from 'task'"),
        ("model.py", "num_parts: int)", "num_parts: int, more: int = 0)", ""),
        (
            "task.py",
            "        self.optimizer_list =",
            "        weight = next(self.model_list[0].parameters()).detach()\n"
            "        self.model_list[0].register_buffer('scale', weight.flatten()[:64])\n"
            "        self.optimizer_list =",
            "build_model_list in model.py builds another network than the task has: 'scale' of part 0 has shape none "
            "there and (64,) here",
        ),
        (
            "task.py",
            "        self.optimizer_list =",
            "        self.meta = {'columns': self.meta['columns'], 'width': 64, **self.meta}\n"
            "        self.meta.pop('dropout')\n        self.optimizer_list =",
            "build_model_list(meta, 1) in model.py fails on the task's meta: KeyError('dropout')",
        ),
    ],
)
def test_training_says_at_once_that_predict_py_will_not_work(
    file: str, old: str, new: str, why: str, render: Render, tmp_path: Path
) -> None:
    project = render(task_type="regression")
    edit(project / file, old, new)
    status, printed = run_script(project, [*ONE_EPOCH, "--width", "64"], tmp_path / "output")
    assert status == 0, printed
    note, epoch = printed.find(f"note: predict.py cannot be used with this run: {why}"), printed.find("\n  1/1 ")
    assert (0 < note < epoch) if why else note < 0 < epoch


# ---- updates ----


class Gan(Small):
    """With the usual code of a GAN, where it does not belong."""

    def __init__(self, folder: Path, wrong: Callable[[Tensor, torch.optim.Optimizer], Any]) -> None:
        super().__init__(folder, parts=2)
        self.wrong = wrong

    def loss_per_batch(self, batch: Any) -> dict[str, Tensor]:
        losses = super().loss_per_batch(batch)
        if torch.is_grad_enabled():
            self.wrong(self.loss(self.forward(batch[0]), batch[1])["loss"], self.optimizer_list[1])
        return losses


def step(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def step_and_clear(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    step(loss, optimizer)
    optimizer.zero_grad()


def test_updates_inside_a_loss_are_refused_before_any_is_made(tmp_path: Path) -> None:
    advice = (
        "train_step does that with the loss it returns, for all optimizers; put updates of your own into "
        "train_step(batch), each as self.minimize(loss, optimizer) (gradients of inputs: torch.autograd.grad)"
    )
    for number, (wrong, call) in enumerate(
        [(step, "step() of an optimizer"), (step_and_clear, "step() of an optimizer")]
    ):
        trainer = Gan(tmp_path / str(number), wrong)
        before = {
            name: value for name, value in weights(trainer).items() if "running" not in name and "num" not in name
        }
        with pytest.raises(UserError) as caught:
            trainer.fit(1)
        assert str(caught.value) == f"loss_per_batch has called {call}, but {advice}"
        assert all(torch.equal(value, weights(trainer)[name]) for name, value in before.items())
    with pytest.raises(UserError) as caught:
        Gan(tmp_path / "backward", lambda loss, _: loss.backward()).fit(1)
    assert str(caught.value) == f"loss_per_batch has called backward(), but {advice}"


def test_updates_inside_a_loss_that_evaluation_calls_too_are_refused(tmp_path: Path) -> None:
    class Everywhere(Small):
        def loss_per_batch(self, batch: Any) -> dict[str, Tensor]:
            losses = super().loss_per_batch(batch)
            step(losses["loss"], self.optimizer_list[0])
            return losses

        metric = Trainer.metric

    with pytest.raises(UserError, match=r"loss_per_batch has called backward\(\), but train_step does that"):
        Everywhere(tmp_path, key_metric="loss", key_mode="min").fit(1)


def test_gradients_of_inputs_may_be_part_of_a_loss(tmp_path: Path) -> None:
    def penalty(loss: Tensor, _: Any) -> None:
        torch.autograd.grad(loss, [p for model in network(2) for p in model.parameters()], allow_unused=True)

    Gan(tmp_path, penalty).fit(1)


# ---- one batch of each loader, before the first epoch ----


def three(samples: int) -> DataLoader[Any]:
    """Batches of three tensors."""
    return DataLoader(TensorDataset(torch.randn(samples, 4), torch.zeros(samples).long(), torch.ones(samples)), 8)


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"eval_loader": three(16)}, "a batch is a list of 3, not a pair (x, y); override loss_per_batch and eval_"),
        ({"test_loader": three(16)}, "a batch is a list of 3, not a pair (x, y); override loss_per_batch and eval_"),
        (
            {"loss": lambda self, pred, y: pred.mean()},
            "loss must return a dict of scalars by name, and returned a Tensor",
        ),
        ({"metric": lambda self, pred, y: pred.mean()}, "metric must return a dict of scalars by name, and returned a"),
        ({"metric": lambda self, pred, y: {"acc": pred}}, "'acc' has shape (8, 2): return its mean over the batch"),
        (
            {"metric": lambda self, pred, y: {"ac": pred.mean()}},
            "'acc', the key_metric, in the scores, is missing; there",
        ),
        ({"eval_scores_per_batch": lambda self, batch: 0.5}, "eval_scores_per_batch must return a dict of scalars by"),
    ],
)
def test_what_evaluation_cannot_use_is_said_before_the_first_epoch(
    attributes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    methods = {name: value for name, value in attributes.items() if callable(value)}
    trainer = type("Wrong", (Small,), methods)(tmp_path, **{n: v for n, v in attributes.items() if n not in methods})
    with pytest.raises(UserError) as caught:
        trainer.fit(3)
    assert words in str(caught.value) and trainer.global_step == 0
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_trying_a_batch_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = Small(tmp_path / "tried", epochs=2, test_loader=Small(tmp_path / "other").eval_loader)
    monkeypatch.setattr(Trainer, "_try_evaluation", lambda self: None)
    untried = Small(tmp_path / "untried", epochs=2, test_loader=tried.test_loader)
    untried.fit(2)
    monkeypatch.undo()
    tried.fit(2)
    assert same(weights(tried), weights(untried)) and tried.best_metric == untried.best_metric


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (MeanMetric, "dataset_metrics['own'] is the class MeanMetric; make an instance of it"),
        (
            MulticlassF1Score(2, average=None),
            "dataset_metrics['own'] computes values of shape (2,); each metric there",
        ),
        (
            MetricCollection([MulticlassF1Score(2)]),
            "dataset_metrics['own'] computes a dict; each metric there",
        ),
    ],
)
def test_a_metric_that_is_no_number_is_named_before_the_first_epoch(metric: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        Small(tmp_path, dataset_metrics={"own": metric}).fit(2)
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize("own", [nn.Linear(1, 1), [nn.Linear(1, 1)]])
def test_a_trainable_module_outside_the_parts_is_refused(own: Any, tmp_path: Path) -> None:
    class Projected(Small):
        def __init__(self, folder: Path, frozen: bool) -> None:
            self.projection = own
            for module in own if isinstance(own, list) else [own]:
                module.requires_grad_(not frozen)
            super().__init__(folder)

    with pytest.raises(UserError) as caught:
        Projected(tmp_path, frozen=False)
    assert str(caught.value).startswith(
        "projection, a Linear, has trainable weights that are in no part of model_list, so they would be neither"
    )
    Projected(tmp_path, frozen=True)


def test_what_fit_makes_itself_and_numbers_of_epochs_that_are_none_are_refused(tmp_path: Path) -> None:
    class Scheduled(Small):
        def check_init(self) -> None:
            self.lr_scheduler_list = [object()]  # type: ignore[list-item]
            super().check_init()

    with pytest.raises(UserError, match="lr_scheduler_list is made by check_init; choose lr_scheduler_type"):
        Scheduled(tmp_path)
    for epochs in (2.5, 0, "3"):
        with pytest.raises(UserError, match=f"fit got {epochs!r} epochs; give a whole number from 1 on"):
            Small(tmp_path).fit(epochs)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("metric", "mode", "words"),
    [
        ("acc", "", "max"),
        ("val_loss", "", "min"),
        ("f1", "max", "max"),
        ("score", "min", "min"),
        (
            "score",
            "",
            "key_mode is not set, and 'score' is unknown; set it to 'max' if more of 'score' is better, or else",
        ),
        ("acc", "min", "key_metric 'acc' with key_mode 'min' would keep the worst epoch; set key_mode to 'max'"),
        ("acc", "best", "key_mode 'best' is unknown; set it to 'max' if more of 'acc' is better, or else to 'min'"),
    ],
)
def test_the_mode_of_a_key_metric_is_known_or_asked_for(metric: str, mode: str, words: str, tmp_path: Path) -> None:
    if len(words) == 3:
        assert Small(tmp_path, key_metric=metric, key_mode=mode).key_mode == words
        return
    with pytest.raises(UserError) as caught:
        Small(tmp_path, key_metric=metric, key_mode=mode)
    assert str(caught.value).startswith(words)


# ---- inputs ----

BYTES = torch.randint(256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0)).byte()


@pytest.mark.parametrize("task_type", ["image_classification", "multilabel_classification", "segmentation"])
def test_images_of_another_range_or_rank_are_named(task_type: str, render: Render, tmp_path: Path) -> None:
    project = render(task_type=task_type)
    wrong = {
        BYTES / 255: "images have values from 0 to 1, not bytes from 0 to 255, which the network standardises itself; "
        "multiply by 255, or leave out what normalised them",
        (BYTES - 127.5) / 60: "images have values from -2.125 to 2.125, not bytes",
        BYTES[0]: "images have the shape (3, 32, 32), not (B, 3, H, W); add a dimension for the batch: x[None]",
        BYTES.movedim(1, -1): "images have the shape (2, 32, 32, 3), not (B, 3, H, W); move the channels there: ",
        BYTES[:, 0]: "images have the shape (2, 32, 32), not (B, 3, H, W)",
    }
    with modules_of(project) as own:
        task = own.task.Task(own.config.Config(data="synthetic", ckpt_dir=str(tmp_path)))
        for x, words in wrong.items():
            with pytest.raises(UserError) as caught:
                task.inference(x)
            assert str(caught.value).startswith(words)
        assert len(task.inference(BYTES)) == len(task.inference(BYTES.float())) == 2
        task.eval_loader = [(BYTES / 255, torch.zeros(2).long())]
        with pytest.raises(UserError, match="images have values from 0 to 1"):
            task.fit(2)
        assert task.global_step == 0


@pytest.mark.parametrize(
    ("task_type", "x", "words"),
    [
        ("regression", torch.zeros(2, 3), "features have the shape (2, 3), not (B, 7)"),
        ("regression", torch.zeros(7), "features have the shape (7,), not (B, 7)"),
        ("tabular_classification", torch.zeros(2, 3), "features have the shape (2, 3), not (B, 7)"),
        ("text_classification", torch.zeros(2, 5), "a tensor (2, 5) of torch.float32 is no batch of texts"),
        ("text_classification", torch.full((2, 5), 300), "a tensor (2, 5) of torch.int64 is no batch of texts"),
    ],
)
def test_other_inputs_of_another_kind_are_named(task_type: str, x: Tensor, words: str, render: Render) -> None:
    with modules_of(render(task_type=task_type)) as own:
        task = own.task.Task(own.config.Config(data="synthetic"))
        with pytest.raises(UserError) as caught:
            task.inference(x)
    assert str(caught.value).startswith(words)


# ---- from Python ----


@pytest.mark.parametrize("task_type", QUESTIONS["task_type"])
def test_a_session_at_a_prompt(task_type: str, render: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with modules_of(render(task_type=task_type)) as own:
        Config, Task = own.config.Config, own.task.Task
        settings = {**Config.SMOKE, "precision": "fp32", "warm_up_epochs": 0.5, "pictures": "none"}
        task = Task(Config(**settings, epochs=1))
        task.fit(1)
        task.fit(2)  # goes on
        assert task.epoch == 2
        [folder] = Path("check_point").iterdir()
        assert task.ckpt_dir == folder and (folder / "config.json").is_file() and (folder / "epoch2.pth").is_file()

        second = Task(Config(**settings, epochs=2))
        second.fit(2)  # in the same second, perhaps: in a folder of its own
        assert second.ckpt_dir != folder

        x = task.example_input()
        again = Task(Config(**settings))
        again.load_state(folder / "best.pth", optim=False)
        task.load_state(folder / "best.pth", optim=False)
        alone = tmp_path / "best.pth"
        alone.write_bytes((folder / "best.pth").read_bytes())
        predictor = own.predict.load(alone)
        assert torch.equal(again.inference(x), task.inference(x)) and torch.equal(predictor(x), task.inference(x))

        resumed = Task(Config(**settings, epochs=3))
        resumed.load_state(folder / "epoch2.pth")
        resumed.fit(3)
        assert resumed.ckpt_dir == folder and resumed.epoch == 3
        own.train.train(["--resume", str(folder), "--epochs", "4"])
        assert (folder / "epoch4.pth").is_file()
        inputs = example_of(task_type, x)
        rows = predictor.predict([inputs])
        assert len(rows) == len(inputs)
        assert {type(value) for row in rows for value in row.values()} <= {str, float}


def example_of(task_type: str, x: Tensor) -> Any:
    """Some inputs in memory: a DataFrame for tables and texts, an array of images."""
    pandas = pytest.importorskip("pandas")
    if task_type in ("regression", "tabular_classification"):
        return pandas.DataFrame(
            {"kind": ["low", "high", None], "place": ["hill", None, "x"], "b": [0.5, None, 1], "a": [1.0, 2.0, 3.0]}
        )
    if task_type == "text_classification":
        return pandas.DataFrame({"text": ["bread and cheese", "rain"]})
    return x[:3].numpy()


@pytest.mark.parametrize("task_type", ["regression", "tabular_classification", "text_classification"])
def test_predictions_for_a_data_frame_are_a_data_frame_with_its_index(task_type: str, render: Render) -> None:
    with modules_of(render(task_type=task_type)) as own:
        task = own.task.Task(own.config.Config(data="synthetic"))
        predictor = own.predict.Predictor(task, task.meta)
        frame = example_of(task_type, torch.zeros(0))
        frame.index = [f"row {number}" for number in range(len(frame), 0, -1)]
        found, rows = predictor.predict(frame), predictor.predict([frame])
        assert found.index.equals(frame.index)
        assert found.to_dict("records") == [{key: row[key] for key in row if key != "input"} for row in rows]


def test_arrays_of_columns_and_of_texts_are_predicted(render: Render) -> None:
    pandas = pytest.importorskip("pandas")
    with modules_of(render(task_type="regression")) as own:
        task = own.task.Task(own.config.Config())
        frame = pandas.DataFrame({"a": [1.0, 2.0], "b": [0.5, -1.0], "kind": ["low", "high"]})
        one, other = (own.predict.Predictor(task, task.meta).predict(x) for x in (frame, frame.to_numpy()))
        assert one["predicted y"].tolist() == [row["predicted y"] for row in other]
        with pytest.raises(UserError, match=r"the array has the shape \(2, 2\), not \(N, 3\); its columns: a, b, kind"):
            own.predict.Predictor(task, task.meta).predict(frame.to_numpy()[:, :2])
    with modules_of(render(task_type="text_classification", project_slug="texts")) as own:
        task = own.task.Task(own.config.Config())
        rows = own.predict.Predictor(task, task.meta).predict(numpy.array(["bread", "rain and storm"]))
        assert [row["input"] for row in rows] == ["array:0", "array:1"]


def test_a_run_from_python_is_not_continued_with_other_settings(render: Render, tmp_path: Path) -> None:
    with modules_of(render(task_type="regression")) as own:
        settings = {**own.config.Config.SMOKE, "ckpt_dir": str(tmp_path), "warm_up_epochs": 0.5, "pictures": "none"}
        task = own.task.Task(own.config.Config(**settings, epochs=1))
        task.fit(1)
        other = own.task.Task(own.config.Config(**settings, epochs=2, weight_decay=1.0))
        with pytest.raises(
            UserError, match=r"--weight_decay 1\.0 differs from 0\.0003, with which .*epoch1\.pth was trained"
        ):
            other.load_state(task.ckpt_dir / "epoch1.pth")


def test_prediction_uses_the_settings_of_the_run_and_no_attribute_that_data_gave(
    render: Render, tmp_path: Path
) -> None:
    project = render(task_type="regression")
    edit(
        project / "task.py",
        "    def check_inputs",
        "    def forward(self, x: Tensor) -> Tensor:\n        return super().forward(x) * self.config.momentum\n\n"
        "    def check_inputs",
    )
    with modules_of(project) as own:
        settings = {"ckpt_dir": str(tmp_path), "pictures": "none", "momentum": 0.25, "precision": "fp32"}
        task = own.task.Task(own.config.Config(**own.config.Config.SMOKE, **settings, epochs=1, warm_up_epochs=0.5))
        task.fit(1)
        x = task.example_input()
        assert own.predict.obstacle(task) == ""
        assert torch.equal(own.predict.load(task.ckpt_dir / "epoch1.pth")(x), task.inference(x))
    edit(project / "task.py", "* self.config.momentum", "* self.scale")
    edit(
        project / "task.py", "        self.optimizer_list =", "        self.scale = 2.0\n        self.optimizer_list ="
    )
    with modules_of(project) as own:
        task = own.task.Task(own.config.Config())
        assert own.predict.obstacle(task) == (
            "forward uses self.scale, and a Task without data has model_list, meta and config alone"
        )


@pytest.mark.parametrize(
    ("task_type", "source", "words"),
    [
        ("regression", {"a": 1}, "a dict cannot be read as a table; give a file, a pandas DataFrame or an array"),
        (
            "image_classification",
            b"bytes",
            "a bytes cannot be predicted for; give a path, or an array or tensor (N, ...)",
        ),
    ],
)
def test_what_cannot_be_predicted_for_is_named(task_type: str, source: Any, words: str, render: Render) -> None:
    with modules_of(render(task_type=task_type)) as own:
        task = own.task.Task(own.config.Config(data="synthetic"))
        with pytest.raises(UserError) as caught:
            own.predict.Predictor(task, task.meta).predict(source)
    assert str(caught.value).startswith(words)


# ---- a Dataset of one's own ----


class Squares(Dataset[tuple[Tensor, Tensor]]):
    """Numbers (1,) and whether they are positive."""

    def __len__(self) -> int:
        return 37

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.tensor([index - 18.0]), torch.tensor(int(index > 18))


def test_any_dataset_with_a_length_is_read() -> None:
    train, val, test = make_loaders({"train": Squares(), "val": Squares()}, 8, 0, torch.device("cpu"))
    assert sorted(x for batch, _ in train for x in batch.flatten().tolist()) == [index - 18.0 for index in range(37)]
    assert [len(y) for _, y in val] == [8, 8, 8, 8, 5] and not test


class Drawn(Squares):
    """Which draws random numbers for each sample, from all that people use."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        noise = torch.rand(1) + random.random() + numpy.random.rand()
        return torch.tensor([index - 18.0]) + noise, torch.tensor(int(index > 18))


def samples_of(dataset: Dataset[Any], workers: int, epoch: int, first: int) -> tuple[set[float], float]:
    """The samples of an epoch from a batch on, and what is drawn after them."""
    loader = make_loaders({"train": dataset, "val": Squares()}, 8, 0, torch.device("cpu"), workers).train
    torch.manual_seed(7)
    batches = list(train_batches(loader, epoch, first))
    return {x for batch in batches for x in batch.data[0].flatten().tolist()}, torch.rand(1).item()


def test_random_numbers_of_a_dataset_follow_from_the_epoch_and_the_sample() -> None:
    whole, after = samples_of(Drawn(), 0, 3, 0)
    rest, _ = samples_of(Drawn(), 0, 3, 2)
    assert len(whole) == 37 and rest < whole
    assert after == samples_of(Squares(), 0, 3, 0)[1]  # it moves no generator that the network draws from
    assert samples_of(Drawn(), 2, 3, 0)[0] == whole != samples_of(Drawn(), 0, 4, 0)[0]
    assert samples_of(Drawn(), 2, 3, 2)[0] == rest


class Endless(IterableDataset[Tensor]):
    """Samples without a number."""

    def __iter__(self) -> Any:
        return iter(lambda: torch.zeros(4), None)


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        ({"train": Squares()}, "the split 'val' is missing; make_loaders needs train and val, each a Dataset with a"),
        (
            {"train": Endless(), "val": Squares()},
            "the split 'train' is a Endless without samples or length; make_loaders",
        ),
        (
            {"train": Squares(), "val": TensorDataset(torch.zeros(0))},
            "the split 'val' is a TensorDataset without samples",
        ),
    ],
)
def test_a_split_that_cannot_be_read_is_named(splits: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        make_loaders(splits, 8, 0, torch.device("cpu"))
    assert str(caught.value).startswith(words)


def test_a_dataset_of_ones_own_trains_in_two_processes_like_in_one(render: Render, tmp_path: Path) -> None:
    project = render(task_type="regression")
    edit(
        project / "data.py",
        "    return splits, meta",
        "    def plain(split):\n        x, y = split.__getitems__(list(range(len(split))))\n"
        "        return torch.utils.data.TensorDataset(x, y)\n"
        "    return {name: plain(split) for name, split in splits.items()}, meta",
    )
    ends = []
    for world in (1, 2):
        argv = [*ONE_EPOCH, "--precision", "fp32", "--ckpt_dir", str(tmp_path / str(world))]
        argv += ["--backbone", "mlp", "--dropout", "0"]  # each process draws its own numbers
        printed, *_ = run_ranks(project, argv, tmp_path, world)
        ends.append(re.findall(r"\n  1/1 +(\S+) +(\S+)", printed))
    assert ends[0] == ends[1] != []


# ---- optimizers ----


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("task_type", ["image_classification", "regression"])
def test_every_optimizer_is_a_choice_of_every_task(
    optimizer: str, task_type: str, render: Render, tmp_path: Path
) -> None:
    with modules_of(render(task_type=task_type)) as own:
        own.train.train(["--smoke", "--optimizer", optimizer, "--ckpt_dir", str(tmp_path)])


def test_an_optimizer_is_one_entry_in_one_place(render: Render, tmp_path: Path) -> None:
    project = render(task_type="regression")
    edit(
        project / "engine/optim/optimizers.py",
        '"muon": muon}',
        '"muon": muon, "nadam": lambda config: (__import__("torch").optim.NAdam, {})}',
    )
    status, printed = run_script(project, ["train.py", "--smoke", "--optimizer", "nadam"], tmp_path / "output")
    assert status == 0, printed
    status, printed = run_script(project, ["train.py", "--optimizer", "adma"], tmp_path / "output")
    assert status == 1 and "nadam" in printed


# ---- what a checkpoint holds ----


@pytest.mark.parametrize(
    ("value", "kind"), [(numpy.float32(1), "float32"), (Path("a"), "PosixPath"), (nn.Linear(1, 1), "Linear")]
)
def test_a_meta_that_cannot_be_saved_is_refused_before_training(value: Any, kind: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        Small(tmp_path, meta={"sizes": {"mean": [1.0, value]}})
    assert str(caught.value).startswith(
        f"meta['sizes']['mean'][1] is a {kind}, which a checkpoint cannot hold; make it "
    )


def test_a_checkpoint_of_a_run_from_python_is_plain(tmp_path: Path) -> None:
    class Own(Small):
        def __init__(self) -> None:
            super().__init__(tmp_path / "first")

    trainer = Own()
    trainer.fit(1)
    assert checkpoint.load(tmp_path / "first" / "epoch1.pth")["epoch"] == 1
    assert (tmp_path / "first" / "config.json").is_file()
    assert Trainer(SmallConfig(ckpt_dir=str(tmp_path))).ckpt_dir == tmp_path
