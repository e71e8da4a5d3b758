# Data, network and optimizer
SMOKE: ClassVar[dict[str, Any]] = {"data": "synthetic", "batch_size": 32, "width": 32}  # for --smoke and tests
FORMER_VALUES: ClassVar[dict[str, Any]] = {"test_fraction": 0.0}  # of runs before there was such a setting
data: MayChange[str] = "synthetic"  # synthetic, a table, or a folder with train.csv, val.csv, test.csv
target: str = "target"  # the column to predict; all others are features
val_fraction: Fraction = 0.1  # part of train that is held out to choose the best epoch, without a val.csv
test_fraction: Fraction = 0.1  # part of train that is held out to test the best epoch, without a val or test file
target_transform: Literal["auto", "log", "none"] = "auto"  # log: its logarithm is predicted; auto: if skewed
batch_size: Positive[int] = 256  # rows per batch, over all processes; small tables get 8 batches or more
backbone: Literal["both", "nca", "tabm", "mlp"] = "both"  # nca: similar rows vote; tabm: perceptrons; mlp: one
width: Positive[int] = 256  # units of each hidden layer of a perceptron
dropout: Fraction = 0.1  # part of the hidden units that is dropped in each update
loss: Literal["mse", "huber"] = "mse"  # of the standardised target; huber gives outliers less weight
optimizer: Annotated[str, one_of(OPTIMIZERS)] = "adamw"  # see engine/optim/optimizers.py
lr: MayChange[tuple[Positive[float], ...]] = (0.003,)  # base learning rate: one for all parts, or one per part
weight_decay: NonNegative[float] = 3e-4  # of weights with 2 dimensions or more, not biases
clip_grad: NonNegative[float] = 0.0  # largest norm of the gradient over all parts; 0: no clipping
importance: MayChange[bool] = False  # at the end: how much each column matters, and how predictions follow it
