"""Predicts with trained weights: `python predict.py --checkpoint check_point/.../best.pth INPUT...`."""

import csv
from dataclasses import dataclass
from pathlib import Path

import tyro

from config import Config
from engine import UserError, command_line


@dataclass(frozen=True)
class Arguments:
    """Prints a table of predictions and writes it as CSV."""

    inputs: tyro.conf.Positional[tuple[Path, ...]]  # what to predict on: see read_inputs in task.py
    checkpoint: Path  # best.pth or epoch<N>.pth of a run
    output: Path = Path("predictions.csv")  # where the table is written; other files that to_rows makes go beside it
    batch_size: int = 32  # inputs per batch
    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps


def predict(arguments: Arguments) -> None:
    """Reads the weights, then inputs batch by batch, and writes a row for each.

    Raises:
        UserError: a flag or a checkpoint that cannot be used, or an input that cannot be read.
    """
    if arguments.batch_size < 1:
        raise UserError(f"--batch_size {arguments.batch_size} must be 1 or more")
    if not arguments.output.parent.is_dir() or arguments.output.is_dir():
        raise UserError(f"--output {arguments.output} must be a file in a folder that exists")
    if any(path.exists() and path.resolve() == arguments.output.resolve() for path in arguments.inputs):
        raise UserError(f"--output {arguments.output} is one of the inputs; give it another name")
    from engine import checkpoint
    from engine.devices import pick_device
    from engine.report import print_table
    from engine.state import check_task, num_parts
    from engine.trainer import Trainer
    from task import build_model_list, read_inputs, to_rows

    state = checkpoint.load(arguments.checkpoint)
    check_task(state, Config.task_type, arguments.checkpoint)
    meta, trainer = state["meta"], Trainer()
    trainer.task_type = Config.task_type
    trainer.device = pick_device(arguments.device)
    try:
        trainer.model_list = build_model_list(meta, num_parts(state))
    except KeyError as missing:
        raise UserError(f"{arguments.checkpoint} lacks {missing}: another version of task.py wrote it") from missing
    trainer.load_state(arguments.checkpoint, optim=False)

    arguments.output.unlink(missing_ok=True)
    written = 0
    for names, batch in read_inputs(arguments.inputs, meta, arguments.batch_size):
        rows = to_rows(names, trainer.inference(batch), meta, arguments.output)
        # Batch by batch: where an input cannot be read, the batches before it are in the file.
        write_table(rows, arguments.output, new=not written)
        print_table(rows, header=not written)
        written += len(rows)
    if not written:
        raise UserError(f"nothing to predict on in {', '.join(map(str, arguments.inputs))}")
    print(f"{written} predictions are in {arguments.output}")


def write_table(rows: list[dict[str, str]], path: Path, new: bool) -> None:
    """Writes rows into a new CSV file, below a header, or adds them to it."""
    with path.open("w" if new else "a", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        if new:
            writer.writeheader()
        writer.writerows(rows)


def main(argv: list[str]) -> None:
    """Parses the flags and predicts."""
    predict(tyro.cli(Arguments, args=argv, use_underscores=True))


if __name__ == "__main__":
    command_line(main)
