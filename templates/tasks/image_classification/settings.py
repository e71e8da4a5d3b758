# Data, network and optimizer
SMOKE: ClassVar[dict[str, Any]] = {"data": "synthetic", "batch_size": 32, "width": 16}  # for --smoke and tests
data: MayChange[str] = "cifar10"  # cifar10 (downloaded into data_dir), synthetic, or a folder with train/CLASS/*
data_dir: MayChange[str] = "data"  # folder for downloads
val_fraction: Fraction = 0.1  # part of train that is held out to choose the best epoch, without a val folder
image_size: NonNegative[int] = 0  # side of the square crops, in pixels; 0: as the backbone and the images are
eval_size: NonNegative[int] = 0  # the same for evaluation and prediction; 0: as suits crop_area and the backbone
batch_size: Positive[int] = 128  # images per batch, over all processes; pretrained networks get 8 batches or more
workers: MayChange[NonNegative[int]] = 2  # processes that decode images
cache_gb: MayChange[NonNegative[float]] = 20.0  # 10^9 bytes on the disk for images that are decoded once; 0: none
cache_dir: MayChange[str] = "cache"  # folder of these, which runs share; it may be removed at any time
crop_area: Annotated[float, Range(above=0, at_most=1)] | None = None
"""smallest part of an image that a random crop takes, which is then resized; 1: crops are shifted by shift_fraction
instead; None: 0.35 for a pretrained backbone, else 1"""
shift_fraction: Fraction = 0.0625  # training images are padded by this part of their side, then cropped at random
flip: Annotated[bool, FormerName("mirror")] = True  # flip training images horizontally, in every other epoch
auto_augment: Literal["none", "trivial"] = "none"  # trivial: one random operation for each image (TrivialAugment)
erasing: Fraction = 0.0  # probability that a random box of a training image is erased
mixup: NonNegative[float] = 0.0  # alpha of mixup: pairs of images are blended, and so are their targets; 0: none
cutmix: NonNegative[float] = 0.0  # alpha of cutmix: a box of another image is put in; with mixup, one of both
test_time_flip: bool = True  # evaluate and predict by the mean over an image and its flip; not without flip
backbone: str = "auto"  # small, a name of timm or torchvision; auto: pretrained from 64 pixels on, else small
weights: str = "auto"  # of the backbone: auto (installed or downloaded), none, or a FILE of weights or a best.pth
freeze: tuple[str, ...] | None = None  # stages that are not trained: stem, body, head; None: the pretrained stem
freeze_epochs: NonNegative[int] = 0  # how long; 0: always, else freeze is all but the head by default
backbone_lr_factor: Positive[float] = 0.05  # of lr, for the pretrained stages, if lr has one value
width: Positive[int] = 32  # channels of the first trained convolution of small; the cost grows with its square
label_smoothing: Fraction = 0.1  # part of each target that is spread over all classes
class_weights: Literal["none", "balanced"] = "none"  # balanced: all classes weigh the same in the loss
sampler: Literal["shuffle", "balanced"] = "shuffle"  # balanced: an epoch has every class equally often
optimizer: Annotated[str, one_of(OPTIMIZERS)] = "sgd"  # see engine/optim/optimizers.py
lr: MayChange[tuple[Positive[float], ...]] = (0.05,)  # base learning rate: one for all parts, or one per part
weight_decay: NonNegative[float] = 5e-4  # of weights with 2 dimensions or more; muon: of convolutions
clip_grad: NonNegative[float] = 4.0  # largest norm of the gradient over all parts; 0: no clipping
