"""Turn images into features, the numbers before the head, and show which images the model finds alike.

python -m tools.embed --checkpoint output/swin_tiny/default/checkpoints/best.pth --data-path FOLDER --output features

Writes `features.npz` and `features.parquet`, a picture of the images as points, and the neighbours of an image.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from data.build import open_sets
from data.sources import Source
from swin.config import Config, config_from_dict, load_config
from swin.errors import ConfigError, DataError
from swin.inference import load_torch_predictor
from swin.models import Backbone
from swin.predictor import Predictor
from swin.records import make_folder, replacing
from swin.weights import read_weights
from tools.arguments import command, model_parser, positive, with_data_path
from tools.images import check_read, open_images, read_batches, read_image, to_rgb
from tools.pictures import plain, require, save_picture

_LEGEND_CLASSES = 20
_MARKERS = "os^D"
_MAX_DRAWN = 20  # neighbours in the picture


@dataclass(frozen=True)
class Features:
    """Features of images, one row an image.

    Attributes:
        values: float32 (N, F): the last stage's normalised tokens, in the mean over an image.
        files: N names.
        labels: int64 (N,), of several labels an image the first; -1 where it is not known, or there is none.
        classes: what the labels mean.
        indices: N, of the images in their source.
    """

    values: np.ndarray
    files: list[str]
    labels: np.ndarray
    classes: list[str]
    indices: list[int]

    def class_of(self, row: int) -> str | None:
        """Return the name of an image's class; None where it is not known."""
        label = int(self.labels[row])
        return self.classes[label] if label >= 0 else None

    def save(self, folder: Path) -> None:
        """Write both files; raise a ConfigError where that fails."""
        import pyarrow
        from pyarrow import parquet

        table = pyarrow.table(
            {
                "file": self.files,
                "label": pyarrow.array(self.labels, mask=self.labels < 0),
                "class": pyarrow.array([self.class_of(row) for row in range(len(self.files))], pyarrow.string()),
                "feature": pyarrow.FixedSizeListArray.from_arrays(self.values.ravel(), self.values.shape[1]),
            }
        )
        make_folder(folder)
        with replacing(folder / "features.npz") as temporary, temporary.open("wb") as file:
            files, classes = np.array(self.files), np.array(self.classes, dtype=np.str_)
            np.savez(file, features=self.values, labels=self.labels, files=files, classes=classes)
        with replacing(folder / "features.parquet") as temporary:
            parquet.write_table(table, temporary)


@torch.no_grad()
def compute_features(predictor: Predictor, images: Sequence[torch.Tensor]) -> np.ndarray:
    """Return the features (B, F), float32, of uint8 images (C, h, w) as `predictor.read` gives them."""
    batch_BCHW = torch.stack([predictor.transform(image) for image in images]).to(predictor.device)
    tokens_BHWC = cast(Backbone, predictor.model).forward_features(batch_BCHW)
    return tokens_BHWC.mean(dim=(1, 2)).float().cpu().numpy()


def embed(
    source: Source, classes: Sequence[str], predictor: Predictor, batch_size: int, errors: list[DataError]
) -> Features:
    """Compute the features of all images that can be read; the errors of the others are added to `errors`.

    Raises:
        DataError: There is none.
    """
    rows: list[np.ndarray] = []
    indices: list[int] = []
    for batch in read_batches(source, predictor, batch_size, errors):
        rows.append(compute_features(predictor, list(batch.values())))
        indices += batch
    if not rows:
        check_read(errors, len(source.labels))
        raise DataError("the data set holds no images in this split; choose another --split.")
    files = [source.name(index) for index in indices]
    labels = source.labels[indices]
    if labels.ndim == 2:
        labels = np.where(labels.any(axis=1), labels.argmax(axis=1), -1)
    return Features(np.concatenate(rows), files, labels, list(classes), indices)


def open_source(options: argparse.Namespace, predictor: Predictor) -> tuple[Source, list[str]]:
    """Open the images that the options name, or else the data set of the checkpoint's own config; and their classes."""
    if options.input:
        return _open_folder(options.input, predictor)
    cfg = data_config(options)
    runs = (options.checkpoint, options.checkpoint.resolve().parent.parent)  # a folder's saved split, if it has one
    need_train = options.split == "train"
    sets = open_sets(cfg, runs=runs, need_train=need_train)  # classes are the data's own: any images have features
    source = sets.train if need_train else sets.val
    assert source is not None
    return source, sets.classes


def _open_folder(path: Path, predictor: Predictor) -> tuple[Source, list[str]]:
    """Open an image or a folder's; where all are in folders, these name the classes, as the model's if it has them."""
    source = open_images(path, predictor.channels)
    folders = [Path(name).parts[0] if len(Path(name).parts) > 1 else "" for name in source.names]
    if "" in folders:
        return source, []
    known = list(predictor.classes or ())
    classes = known if set(folders) <= set(known) else sorted(set(folders))
    label_of = {name: label for label, name in enumerate(classes)}
    source.labels = np.array([label_of[name] for name in folders])
    return source, classes


def data_config(options: argparse.Namespace) -> Config:
    """Return the config of --data-path as the checkpoint's run reads images, or else of that run's own data."""
    saved = read_weights(options.checkpoint).config
    if options.data_path is None:
        cfg = config_from_dict(saved or {})
        if cfg.DATA.DATASET != "digits" and not cfg.DATA.DATA_PATH:
            raise ConfigError(f"{options.checkpoint} names no data set: give --input or --data-path.")
        return cfg
    if saved is None:
        return load_config(None, (), {"DATA.DATA_PATH": options.data_path})
    return config_from_dict(with_data_path(saved, options.data_path))


def project(values: np.ndarray, method: str) -> np.ndarray:
    """Map features (N, F) to points of a plane (N, 2), by `tsne` or `pca`.

    Raises:
        DataError: There are too few of them.
    """
    least = {"tsne": 4, "pca": 2}[method]
    if len(values) < least:
        raise DataError(
            f"a picture by {method} takes {least} images, found {len(values)}: give more, or --picture none."
        )
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if method == "pca":
        return PCA(2, random_state=0).fit_transform(values)
    # The default perplexity is 30 neighbours; with a third of the images at most the points do not become one ball.
    return TSNE(perplexity=min(30, (len(values) - 1) / 3), init="pca", random_state=0).fit_transform(values)


def draw_points(points: np.ndarray, features: Features, method: str, output: Path) -> None:
    """Draw the images as points in the colours of their classes, with a legend unless these are many."""
    from matplotlib import color_sequences
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout="constrained", dpi=120)
    axes = figure.subplots()
    present = np.unique(features.labels)
    style: dict[str, Any] = {"s": 14 if len(points) <= 2000 else 4, "linewidths": 0}
    if len(present) > _LEGEND_CLASSES:
        axes.scatter(points[:, 0], points[:, 1], c=features.labels, cmap="viridis", **style)
    else:
        colours = color_sequences["petroff10"]  # told apart by people who are colour-blind
        for position, label in enumerate(present):
            rows = features.labels == label
            marker = _MARKERS[position % len(_MARKERS)]
            axes.scatter(*points[rows].T, color=colours[position % len(colours)], marker=marker, **style)
        names = [plain(f" {features.classes[label]}" if label >= 0 else "unknown") for label in present]
        handles = list(axes.collections)
        axes.legend(handles, names, markerscale=2, fontsize=8, bbox_to_anchor=(1.01, 1), loc="upper left")
    axes.set(xticks=[], yticks=[], title=f"{len(points):,} images by {method} of their features")
    rows_of = [
        {"file": file, "label": int(label), "class": features.class_of(row), "x": float(x), "y": float(y)}
        for row, (file, label, (x, y)) in enumerate(zip(features.files, features.labels, points, strict=True))
    ]
    save_picture(figure, output, {"method": method, "points": rows_of})


def find_neighbours(features: Features, query_F: np.ndarray, file: Path, count: int) -> list[tuple[int, float]]:
    """Return the rows of the images most like a query, but for its own file, with their cosine similarities."""
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=min(count + 1, len(features.files)), metric="cosine").fit(features.values)
    distances, rows = search.kneighbors(query_F[None])
    found = zip(rows[0].tolist(), distances[0].tolist(), strict=True)
    own = file.resolve()
    return [(row, 1 - far) for row, far in found if Path(features.files[row]).resolve() != own][:count]


def show_neighbours(
    file: Path, source: Source, features: Features, predictor: Predictor, count: int, output: Path
) -> None:
    """Print the images most like a file, and draw the first of them in a row after it."""
    from matplotlib.figure import Figure

    image = predictor.read(file)
    found = find_neighbours(features, compute_features(predictor, [image])[0], file, count)
    drawn = min(len(found), _MAX_DRAWN)
    figure = Figure(figsize=(1.8 * (drawn + 1), 2.2), layout="constrained", dpi=120)
    axes = np.atleast_1d(figure.subplots(1, drawn + 1))
    axes[0].imshow(to_rgb(image))
    axes[0].set_title(f"{plain(file.name, 20)}\n", fontsize=8)
    facts = []
    for rank, (row, similarity) in enumerate(found, start=1):
        name, class_name = features.files[row], features.class_of(row)
        if rank <= drawn:
            axes[rank].imshow(to_rgb(read_image(source, features.indices[row], predictor)))
            axes[rank].set_title(f"{plain(class_name or Path(name).name, 20)}\n{similarity:.3f}", fontsize=8)
        facts.append({"rank": rank, "file": name, "class": class_name, "similarity": similarity})
        print(f"{rank}  {similarity:.4f}  {class_name or ''}  {name}")
    for axis in axes:
        axis.axis("off")
    save_picture(figure, output, {"file": str(file), "neighbours": facts})


def _parser() -> argparse.ArgumentParser:
    example = "--checkpoint output/swin_tiny/default/checkpoints/best.pth --data-path FOLDER --output features"
    parser = model_parser("embed", "Turn images into features, and show which are alike.", example)
    images = parser.add_mutually_exclusive_group()
    images.add_argument("--input", type=Path, metavar="PATH", help="an image, or a folder whose folders name classes")
    images.add_argument("--data-path", metavar="DIR", help="a data set (default: the one of the checkpoint's config)")
    parser.add_argument("--split", choices=("train", "val"), default="val", help="of the data set (default: val)")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for what is written")
    parser.add_argument("--picture", choices=("tsne", "pca", "none"), default="tsne", help="default: tsne")
    parser.add_argument("--neighbours", type=Path, metavar="FILE", help="show the images most like this one")
    parser.add_argument("--top-k", type=positive, default=5, help="how many neighbours (default: 5)")
    return parser


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = _parser().parse_args(argv)
    output: Path = options.output
    errors: list[DataError] = []
    require("matplotlib", "pyarrow")
    predictor = load_torch_predictor(options.checkpoint, device=options.device, needs_head=False)
    source, classes = open_source(options, predictor)
    features = embed(source, classes, predictor, options.batch_size, errors)
    features.save(output)
    count, width = features.values.shape
    print(f"{output}: features.npz and features.parquet with {width} numbers for each of {count} images")
    if options.neighbours:
        show_neighbours(options.neighbours, source, features, predictor, options.top_k, output / "neighbours.png")
        print(f"{output / 'neighbours.png'}, with its numbers in neighbours.json")
    if options.picture != "none":
        picture = output / f"{options.picture}.png"
        draw_points(project(features.values, options.picture), features, options.picture, picture)
        print(f"{picture}, with its points in {options.picture}.json")
    check_read(errors, len(source.labels))
    return 0


if __name__ == "__main__":
    sys.exit(main())
