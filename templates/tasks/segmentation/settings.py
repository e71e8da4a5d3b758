# Data, network and optimizer
SMOKE: ClassVar[dict[str, Any]] = {"data": "synthetic", "batch_size": 32, "width": 8}  # for --smoke and tests
data: MayChange[str] = "synthetic"  # synthetic, or a folder with train/images and train/masks, and val or test
ignore_index: Annotated[int, Range(at_least=0, below=256)] = 255  # value of the mask pixels that do not count
val_fraction: Fraction = 0.1  # part of train that is held out to choose the best epoch, without a val folder
image_size: NonNegative[int] = 0  # shorter side, in pixels, of the scaled images, and of crops; 0: the median
batch_size: Positive[int] = 16  # images per batch, over all processes
workers: MayChange[NonNegative[int]] = 2  # processes that decode images; none if all fit into memory
width: Positive[int] = 16  # channels at full resolution; the cost grows with its square
optimizer: Annotated[str, one_of(OPTIMIZERS)] = "adamw"  # see engine/optim/optimizers.py
lr: MayChange[tuple[Positive[float], ...]] = (0.003,)  # base learning rate: one for all parts, or one per part
weight_decay: NonNegative[float] = 0.01  # of weights with 2 dimensions or more; muon: of convolutions
clip_grad: NonNegative[float] = 0.0  # largest norm of the gradient over all parts; 0: no clipping
