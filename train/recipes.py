"""Named runs: each recipe is a function that returns a whole configuration, to be read as one piece.

Promises :data:`RECIPES`, the names the command line takes.  Every option of a recipe can be overridden there.
"""

from collections.abc import Callable
from pathlib import Path

from train.config import Config, DataConfig, GenerateConfig, ModelConfig, OptimConfig, RunConfig
from train.methods import temporal_gradient


def demo() -> Config:
    """Generate a small data set of motions, train on a few labels, and compare with training on the labels alone.

    Sized for two CPU cores and five minutes: four of the eight motions, small pictures, networks a quarter as wide as
    R3D-18, some hundred steps.  So short a training wants cross-entropies at full weight, and so few labels want
    pseudo-labels that come late and are rarely wrong: from a third of the way on, at a confidence of 0.9.  Crops show
    at least half of the frame, because a video of 64 pixels has no detail to zoom into.
    """
    return Config(
        run=RunConfig(dir=Path("runs/demo"), baseline="supervised", log_every=20, eval_every_epochs=4),
        data=DataConfig(
            root=Path("data/demo"),
            labels_per_class=5,
            frame_stride=2,
            size=40,
            eval_size=46,
            min_crop_area=0.5,
            flip=False,  # left and right are different classes
            generate=GenerateConfig(
                motions=("left", "right", "up", "down"), videos_per_class=80, val_videos_per_class=30
            ),
        ),
        model=ModelConfig(width=16, dropout=0.2),
        optim=OptimConfig(lr=0.02, epochs=8, warmup_epochs=1, batch_labeled=8, batch_unlabeled=8),
        method=temporal_gradient.Config(warmup_epochs=3, threshold=0.9, supervised_weight=1.0, pseudo_label_weight=1.0),
    )


def folder() -> Config:
    """Train on a folder of your own videos, on one GPU or, with patience, on a laptop.

    112 pixels cost a quarter of the paper's 224 and are what R3D-18 was published with; at half the width the
    networks cost a quarter again and suit the few thousand videos that one person has.  On a GPU with much data:
    ``--model.width 64 --data.size 224 --data.eval-size 256``.  Pseudo-labels need a confidence of 0.8: the paper's 0.3
    is meant for a hundred classes and more, with three classes it keeps every guess.
    """
    return Config(
        run=RunConfig(dir=Path("runs/folder")),
        data=DataConfig(root=Path("videos"), size=112, eval_size=128),
        model=ModelConfig(width=32),
        optim=OptimConfig(epochs=100, warmup_epochs=10),
        method=temporal_gradient.Config(warmup_epochs=10, threshold=0.8),
    )


RECIPES: dict[str, Callable[[], Config]] = {"demo": demo, "folder": folder}
