"""Say how well the features of a model tell classes apart, without training: the accuracy of nearest neighbours.

python -m tools.knn --checkpoint weights.pth --data-path FOLDER

Each validation image gets the class that its most similar training images vote for, as DINO measures features
(arXiv 2104.14294, section 4.1): 20 of them, by cosine similarity s, each with the weight exp(s / 0.07).
"""

import argparse
import sys
from collections.abc import Sequence

import numpy as np

from data.build import open_sets
from swin.errors import ConfigError, DataError
from swin.inference import load_torch_predictor
from tools.arguments import command, model_parser, positive
from tools.embed import Features, data_config, embed
from tools.images import check_read

_TEMPERATURE = 0.07


def count_correct(train: Features, val: Features, num_neighbours: int) -> int:
    """Count the validation images whose class the nearest training images, all if they are fewer, vote for."""
    from sklearn.neighbors import KNeighborsClassifier

    search = KNeighborsClassifier(
        min(num_neighbours, len(train.labels)),
        metric="cosine",
        # Of the cosine distance, 1 - s; less the constant of all weights, which could be large.
        weights=lambda distances: np.exp(-distances / _TEMPERATURE),
    )
    predicted = search.fit(train.values, train.labels).predict(val.values)
    return int((predicted == val.labels).sum())


def _parser() -> argparse.ArgumentParser:
    example = "--checkpoint swin_tiny_patch4_window7_224.pth --data-path FOLDER"
    parser = model_parser("knn", "Measure features by nearest neighbours: no training.", example)
    parser.add_argument("--data-path", metavar="DIR", help="a data set (default: the one of the checkpoint's config)")
    parser.add_argument("--neighbours", type=positive, default=20, help="how many of them vote (default: 20)")
    return parser


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = _parser().parse_args(argv)
    errors: list[DataError] = []
    predictor = load_torch_predictor(options.checkpoint, device=options.device, needs_head=False)
    sets = open_sets(data_config(options), runs=(options.checkpoint, options.checkpoint.resolve().parent.parent))
    assert sets.train is not None
    if sets.train.labels.ndim == 2:
        raise ConfigError(
            "neighbours vote for one class an image, and these have several labels (DATA.MULTI_LABEL): python -m "
            "tools.embed --neighbours shows which images the model finds alike."
        )
    train, val = (embed(part, sets.classes, predictor, options.batch_size, errors) for part in (sets.train, sets.val))
    correct, seen = count_correct(train, val, options.neighbours), len(val.labels)
    print(
        f"k-NN of {options.neighbours} among {len(train.labels)} training images: "
        f"Acc@1 {100 * correct / seen:.3f} ({correct}/{seen}) on the validation images, {len(sets.classes)} classes"
    )
    check_read(errors, len(sets.train.labels) + len(sets.val.labels))
    return 0


if __name__ == "__main__":
    sys.exit(main())
