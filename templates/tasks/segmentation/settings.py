# Data, network and optimizer
SMOKE: ClassVar[dict[str, Any]] = {"data": "synthetic", "batch_size": 32, "width": 8}  # for --smoke and tests
FORMER_VALUES: ClassVar[dict[str, Any]] = {  # of runs before there were such settings
    "backbone": "small", "dice_weight": 0.0, "scale_range": (1.0, 1.0),
}  # fmt: skip
data: MayChange[str] = "synthetic"  # synthetic, or a folder with train/images and train/masks, and val or test
ignore_index: Annotated[int, Range(at_least=0, below=256)] = 255  # value of the mask pixels that do not count
val_fraction: Fraction = 0.1  # part of train that is held out to choose the best epoch, without a val folder
image_size: NonNegative[int] = 0  # shorter side, in pixels, of the scaled images; 0: the median, 384 at most
crop_size: NonNegative[int] = 0  # side, in pixels, of the square crops to train on; 0: image_size, 256 at most
batch_size: Positive[int] = 16  # images per batch, over all processes; pretrained networks get 8 batches or more
workers: MayChange[NonNegative[int]] = 2  # processes that decode images; none if all fit into memory
scale_range: tuple[Positive[float], Positive[float]] = (0.5, 2.0)  # least and largest factor of training crops
flip: bool = True  # flip half of the training crops horizontally
color_jitter: Fraction = 0.0  # largest relative change of brightness, saturation and contrast of training crops
backbone: str = "auto"  # small, or a name of timm; auto: pretrained for images from 64 pixels on, else small
weights: str = "auto"  # of the backbone: auto (installed or downloaded), none, or a FILE of weights or a best.pth
freeze: tuple[str, ...] | None = None  # stages not to train: stem, encoder, decoder; None: the pretrained stem
freeze_epochs: NonNegative[int] = 0  # how long; 0: always, else freeze is all but the decoder by default
backbone_lr_factor: Positive[float] = 0.1  # of lr, for the pretrained stages, if lr has one value
width: Positive[int] = 16  # channels of small at full resolution; the cost grows with its square
dice_weight: NonNegative[float] = 1.0  # of the Dice loss, which is added to the cross-entropy
optimizer: Annotated[str, one_of(OPTIMIZERS)] = "adamw"  # see engine/optim/optimizers.py
lr: MayChange[tuple[Positive[float], ...]] = (0.003,)  # base learning rate: one for all parts, or one per part
weight_decay: NonNegative[float] = 0.01  # of weights with 2 dimensions or more; muon: of convolutions
clip_grad: NonNegative[float] = 0.0  # largest norm of the gradient over all parts; 0: no clipping
