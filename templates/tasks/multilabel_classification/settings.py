# Data, network and optimizer
SMOKE: ClassVar[dict[str, Any]] = {"data": "synthetic", "batch_size": 32, "width": 16}  # for --smoke and tests
data: MayChange[str] = "synthetic"  # synthetic, or a folder with images/ and labels.csv (or train.csv, val.csv ...)
val_fraction: Fraction = 0.1  # part of train that is held out to choose the best epoch, without a val.csv
image_size: NonNegative[int] = 0  # side of the square crops, in pixels; 0: the median shorter side, 224 at most
batch_size: Positive[int] = 64  # images per batch, over all processes
workers: MayChange[NonNegative[int]] = 2  # processes that decode images; none if all fit into memory
shift_fraction: Fraction = 0.0625  # training images are padded by this part of their side, then cropped at random
flip: Annotated[bool, FormerName("mirror")] = True  # flip training images horizontally, in every other epoch
test_time_flip: bool = True  # evaluate and predict by the mean over an image and its flip; not without flip
backbone: str = "small"  # small (16 pixels or more), or one of torchvision's, such as resnet18
from_scratch: bool = False  # start a torchvision backbone from random weights, not from pretrained ones
width: Positive[int] = 32  # channels of the first trained convolution of small; the cost grows with its square
optimizer: Annotated[str, one_of(OPTIMIZERS)] = "adamw"  # see engine/optim/optimizers.py
lr: MayChange[tuple[Positive[float], ...]] = (0.003,)  # base learning rate: one for all parts, or one per part
weight_decay: NonNegative[float] = 0.01  # of weights with 2 dimensions or more; muon: of convolutions
clip_grad: NonNegative[float] = 0.0  # largest norm of the gradient over all parts; 0: no clipping
