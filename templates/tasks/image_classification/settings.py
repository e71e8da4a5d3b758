# Data, network and optimizer
data: str = "cifar10"  # cifar10 (downloaded into data_dir), synthetic, or a folder with train/CLASS/*
data_dir: str = "data"  # folder for downloads
val_fraction: Fraction = 0.1  # part of train that is held out to choose the best epoch, without a val folder
image_size: NonNegative[int] = 0  # side of the square crops, in pixels; 0: the median shorter side, 224 at most
batch_size: Positive[int] = 128  # images per batch, over all processes
workers: MayChange[NonNegative[int]] = 2  # processes that decode images; none if all fit into memory
shift_fraction: Fraction = 0.0625  # training images are padded by this part of their side, then cropped at random
flip: Annotated[bool, FormerName("mirror")] = True  # flip training images horizontally, in every other epoch
test_time_flip: bool = True  # evaluate and predict by the mean over an image and its flip; not without flip
backbone: str = "small"  # small (16 pixels or more), or one of torchvision's, such as resnet18
from_scratch: bool = False  # start a torchvision backbone from random weights, not from pretrained ones
width: Positive[int] = 32  # channels of the first trained convolution of small; the cost grows with its square
label_smoothing: Fraction = 0.1  # part of each target that is spread over all classes
optimizer: Literal["sgd", "adamw", "muon"] = "sgd"  # sgd has Nesterov momentum; muon: see engine/optim/muon.py
lr: MayChange[tuple[Positive[float], ...]] = (0.05,)  # base learning rate: one for all parts, or one per part
weight_decay: NonNegative[float] = 5e-4  # of weights with 2 dimensions or more; muon: of convolutions
clip_grad: NonNegative[float] = 4.0  # largest norm of the gradient over all parts; 0: no clipping
