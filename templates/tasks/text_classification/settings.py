# Data, network and optimizer
SMOKE: ClassVar[dict[str, Any]] = {"data": "synthetic", "batch_size": 32, "width": 64}  # for --smoke and tests
FORMER_VALUES: ClassVar[dict[str, Any]] = {"test_fraction": 0.0}  # of runs before there was such a setting
data: MayChange[str] = "synthetic"  # synthetic, a table, or a folder with train.csv, val.csv, test.csv
text_column: str = "text"  # name of the column with the texts; two columns need no names
label_column: str = "label"  # name of the column with their classes
val_fraction: Fraction = 0.1  # part of train that is held out to choose the best epoch, without a val file
test_fraction: Fraction = 0.1  # part of train that is held out to test the best epoch, without a val or test file
max_length: Positive[int] = 512  # bytes after which a text is cut
batch_size: Positive[int] = 32  # texts per batch, over all processes
width: Positive[int] = 128  # size of the vector at each position
layers: Positive[int] = 2  # of the Transformer
dropout: Fraction = 0.3  # part of the units that is dropped in each update
optimizer: Annotated[str, one_of(OPTIMIZERS)] = "adamw"  # see engine/optim/optimizers.py
lr: MayChange[tuple[Positive[float], ...]] = (0.002,)  # base learning rate: one for all parts, or one per part
weight_decay: NonNegative[float] = 0.05  # of weights with 2 dimensions or more, not biases and normalisation
clip_grad: NonNegative[float] = 0.0  # largest norm of the gradient over all parts; 0: no clipping
