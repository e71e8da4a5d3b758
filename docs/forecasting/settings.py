# Data, network and optimizer
SMOKE: ClassVar[dict[str, Any]] = {"data": "synthetic", "batch_size": 32, "width": 32}  # for --smoke and tests
data: MayChange[str] = "synthetic"  # synthetic, or a file with a number in each line
window: Positive[int] = 32  # numbers from which the next one is predicted
val_fraction: Fraction = 0.1  # part of the windows, the last ones, that chooses the best epoch
batch_size: Positive[int] = 64  # windows per batch, over all processes
width: Positive[int] = 64  # units of each hidden layer
optimizer: Annotated[str, one_of(OPTIMIZERS)] = "adamw"  # see engine/optim/optimizers.py
lr: MayChange[tuple[Positive[float], ...]] = (0.003,)  # base learning rate: one for all parts, or one per part
weight_decay: NonNegative[float] = 0.01  # of weights with 2 dimensions or more, not biases
clip_grad: NonNegative[float] = 0.0  # largest norm of the gradient over all parts; 0: no clipping
