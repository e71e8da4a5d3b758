"""The engine: trains, saves, resumes and reports. It imports nothing of the task, and is the same in every project.

What tasks and scripts import, and where it is explained:

    trainer.Trainer                         the class that a task subclasses: the loop, evaluation, checkpoints
    schedulers.WarmUpLR, Schedule           learning-rate schedules; a new one is one formula
    logger.Logger                           copies what is printed to log.txt
    metrics.DatasetMetric                   metrics over a whole data set, as torchmetrics has them
    network.merge_stages, Fp32Linear        the parts of a network
    optim.optimizers.build_optimizers       an optimizer for each part, by name
    data.splits.Split, make_splits          data set splits, with a held-out validation set
    cross_validation.cross_validate         a network for each fold, one after another
    data.splits.BalancedSplit               every group, such as a class, equally often in an epoch
    data.loaders.make_loaders               loaders of whole batches
    data.workers.Loader                     a DataLoader whose workers can do without shared memory
    monitor.figures.new_figure, caption     figures for `draw`
    runtime.errors.UserError                a mistake that the person can correct: one line, no traceback
    runtime.seeding.epoch_generator         random numbers that depend on (seed, epoch) alone
    settings.Positive, MayChange, ...       the types of fields in config.py

Elsewhere: nonfinite.py notices NaN and inf; checkpoint/ has the files of a run; distributed/ the processes that train
together; monitor/ the console and TensorBoard; runtime/ devices, signals and files. Imports go one way: runtime, then
distributed, then data, optim and metrics, then checkpoint and monitor, then trainer, then
cross_validation.
"""

import os

from .runtime.errors import UserError

# Read when torch is loaded: how often its threads look whether they may go on before they sleep, in place of 300,000
# times. Where four processes share two cores, an update takes 0.4 of the time.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

__all__ = ["UserError"]
