"""Batches: the same for any number of workers, after a resume, and as a set for any world size."""

import os
import random
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data import decode
from data.datasets import Transform
from data.digits import open_digits
from data.loaders import EvalLoader, TrainLoader
from data.sources import ArrayImages, FolderImages
from data.transforms import EvalPixels, TrainTransform
from swin.batches import Batch
from swin.errors import DataError
from swin.images import Content
from swin.phases import Phase

NUM_SAMPLES = 47
# Draws from all three generators: Python's and NumPy's in the policy, PyTorch's in the flip and the crop.
AUGMENT = TrainTransform(img_size=12, channels=1, mean=(0.5,), erase_prob=0.5)
PLAIN = EvalPixels(torch.nn.Identity(), channels=1)


def make_source(count: int = NUM_SAMPLES) -> ArrayImages:
    """Images whose every pixel is their index, and whose label is the index too."""
    images = np.repeat(np.arange(count, dtype=np.uint8), 64).reshape(count, 8, 8)
    return ArrayImages(images, np.arange(count), (f"image {index}" for index in range(count)))


def make_loader(transform: Transform = PLAIN, **arguments: object) -> TrainLoader:
    options = {"seed": 3, "batch_size": 4, "accumulation": 2} | arguments
    return TrainLoader(options.pop("source", None) or make_source(), transform=transform, **options)


def assert_same(ours: Iterable[Batch], theirs: Iterable[Batch]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one.rectangles, other.rectangles)
        assert one[3:] == other[3:]


def valid_labels(batches: Iterable[Batch]) -> list[int]:
    return [label for batch in batches for label in batch.labels[: batch.num_valid].tolist()]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(num_workers: int) -> None:
    alone, helped = make_loader(AUGMENT), make_loader(AUGMENT, num_workers=num_workers)
    for epoch, position in ((0, 0), (1, 0), (1, 16), (0, 0)):  # the same workers, several times over
        assert_same(alone.epoch(epoch, position), helped.epoch(epoch, position))


def test_an_abandoned_epoch_leaves_no_batches_behind() -> None:
    loader = make_loader(AUGMENT, num_workers=2)
    abandoned = loader.epoch(0)
    next(abandoned)
    assert_same(loader.epoch(1), make_loader(AUGMENT).epoch(1))


def test_a_sample_depends_on_seed_epoch_and_index_alone() -> None:
    def images(epoch: int, **arguments: object) -> dict[int, torch.Tensor]:
        batches = make_loader(AUGMENT, **arguments).epoch(epoch)
        return {int(label): image for batch in batches for image, label in zip(batch.images, batch.labels, strict=True)}

    base, larger = images(2), images(2, batch_size=9, accumulation=1)
    assert all(torch.equal(base[index], larger[index]) for index in base)
    for other in (images(1), images(2, seed=4)):
        assert sum(torch.equal(base[index], other[index]) for index in base) < NUM_SAMPLES // 2


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_process_keeps_its_own_random_numbers(num_workers: int) -> None:
    loader = make_loader(AUGMENT, num_workers=num_workers)
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    list(loader.epoch(0))
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected


def test_batches_say_where_they_stand() -> None:
    batches = list(make_loader().epoch(0))
    assert [len(batch.labels) for batch in batches] == [4] * 11 + [3]
    assert [batch.num_valid for batch in batches] == [4] * 11 + [3]
    assert [batch.update_size for batch in batches] == [8] * 10 + [7] * 2
    assert [batch.last_of_update for batch in batches] == [False, True] * 6
    assert [batch.position for batch in batches] == [*range(4, 45, 4), 47]
    assert sorted(valid_labels(batches)) == list(range(NUM_SAMPLES))
    assert batches[0].images.dtype == torch.uint8
    assert batches[0].labels.dtype == torch.int64
    # The label is the index here, and the pixel too: images and labels belong together.
    for batch in batches:
        assert batch.images[:, 0, 0, 0].tolist() == batch.labels.tolist()


@pytest.mark.parametrize("count", [1, 2, 24, 47])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_share_each_update(count: int, world_size: int) -> None:
    whole = list(make_loader(source=make_source(count), batch_size=6, accumulation=1).epoch(0))
    ranks = [
        list(
            make_loader(
                source=make_source(count), batch_size=6 // world_size, accumulation=1, rank=rank, world_size=world_size
            ).epoch(0)
        )
        for rank in range(world_size)
    ]
    for number, batch in enumerate(whole):
        together = [rank[number] for rank in ranks]
        assert [label for part in together for label in part.labels[: part.num_valid].tolist()] == batch.labels.tolist()
        assert {part[5:-1] for part in together} == {batch[5:-1]}
        assert all(list(part.indices) == part.labels.tolist() for part in (*together, batch))
        assert all(len(part.labels) == max(part.num_valid, 1) for part in together)
    assert {len(rank) for rank in ranks} == {len(whole)}


def test_resuming_goes_on_with_the_same_batches_and_another_world_size_takes_the_rest() -> None:
    whole = list(make_loader(AUGMENT).epoch(4))
    position = whole[5].position
    assert_same(make_loader(AUGMENT).epoch(4, position), whole[6:])
    rest = [
        label for rank in range(3) for label in valid_labels(make_loader(rank=rank, world_size=3).epoch(4, position))
    ]
    assert sorted(rest + valid_labels(whole[:6])) == list(range(NUM_SAMPLES))
    assert list(make_loader().epoch(4, NUM_SAMPLES)) == []


def test_files_are_those_of_the_batches() -> None:
    loader = make_loader()
    second = list(loader.epoch(1))[1]
    assert loader.files(1, second.position - 4, 4) == [f"image {label}" for label in second.labels.tolist()]


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_evaluation_sees_each_sample_once(world_size: int, batch_size: int) -> None:
    shards = []
    for rank in range(world_size):
        loader = EvalLoader(make_source(), transform=PLAIN, batch_size=batch_size, rank=rank, world_size=world_size)
        assert loader.num_samples == NUM_SAMPLES
        batches = list(loader)
        assert all(batch.num_valid == len(batch.labels) for batch in batches)
        shards.append(valid_labels(batches))
        assert shards[-1] == valid_labels(loader)  # again
    assert shards == [list(range(NUM_SAMPLES))[rank::world_size] for rank in range(world_size)]


def test_a_rank_may_have_nothing_to_evaluate() -> None:
    arguments = {"batch_size": 4, "rank": 2, "world_size": 3, "num_workers": 1}
    assert list(EvalLoader(make_source(2), transform=PLAIN, **arguments)) == []


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_unreadable_image_is_one_clean_line(tmp_path: Path, num_workers: int) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"not an image")
    source = FolderImages(tmp_path, ["good.png", "bad.png"], np.array([0, 1]))
    loader = make_loader(source=source, num_workers=num_workers)
    with pytest.raises(DataError) as raised:
        list(loader.epoch(0))
    assert str(raised.value).startswith(f"{tmp_path}/bad.png: is not an image")
    assert "\n" not in str(raised.value)
    assert raised.value.__cause__ is None


def make_damaged(root: Path, count: int, *damaged: int) -> FolderImages:
    for index in range(count):
        Image.new("L", (8, 8), index).save(root / f"{index}.png")
    for index in damaged:
        (root / f"{index}.png").write_bytes(b"not an image")
    return FolderImages(root, [f"{index}.png" for index in range(count)], np.arange(count))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_unreadable_images_may_be_replaced_by_the_next(tmp_path: Path, num_workers: int) -> None:
    source = make_damaged(tmp_path, 12, 3, 4, 11)
    loader = make_loader(source=source, num_workers=num_workers, max_errors=3)
    for epoch in range(2):
        batches = list(loader.epoch(epoch))
        assert sorted(valid_labels(batches)) == sorted([0, 1, 2, 5, 5, 5, 6, 7, 8, 9, 10, 0])
        assert all(list(batch.indices) == batch.labels.tolist() for batch in batches)  # of those that were taken
        reasons = {reason.split(":")[0] for batch in batches for reason in batch.failures}
        assert reasons == {f"{tmp_path}/{n}.png" for n in (3, 4, 11)}


def test_a_set_without_readable_images_ends(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not an image"):
        list(make_loader(source=make_damaged(tmp_path, 3, 0, 1, 2), max_errors=100).epoch(0))


@pytest.mark.parametrize("options", [{"repeats": 3}, {"balanced": True}, {"balanced": True, "repeats": 2}])
def test_repeated_samples_differ_and_resume(options: dict[str, object]) -> None:
    whole = list(make_loader(AUGMENT, **options).epoch(2))
    assert_same(make_loader(AUGMENT, num_workers=2, **options).epoch(2), whole)
    assert_same(make_loader(AUGMENT, **options).epoch(2, whole[3].position), whole[4:])
    assert len(valid_labels(whole)) == NUM_SAMPLES
    if options.get("repeats") == 3:
        images, labels = whole[0].images, whole[0].labels.tolist()
        assert labels[0] == labels[1] == labels[2] != labels[3]
        assert not torch.equal(images[0], images[1])
    loader = make_loader(**options)
    assert loader.files(2, 4, 4) == [f"image {label}" for label in whole[1].labels.tolist()]


PHASES = [Phase(0.0, (8, 8), 2.25), Phase(0.4, (10, 8), 1.5), Phase(0.7, (12, 12))]
SIZED = {"resized": {phase.img_size: replace(AUGMENT, img_size=phase.img_size) for phase in PHASES[:2]}}


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_same_workers_give_images_of_each_phase(num_workers: int, repeats: int) -> None:
    helped = make_loader(AUGMENT, num_workers=num_workers, repeats=repeats, **SIZED)
    for epoch, phase in enumerate([*PHASES, PHASES[0]]):
        batches = list(helped.epoch(epoch, 0, phase))
        assert {tuple(batch.images.shape[2:]) for batch in batches} == {phase.img_size}
        assert batches[0].update_size == int(8 * phase.growth)
        alone = make_loader(replace(AUGMENT, img_size=phase.img_size), repeats=repeats)
        assert_same(alone.epoch(epoch, 0, Phase(0.0, phase.img_size, phase.growth)), batches)
        position = batches[1].position
        assert_same(helped.epoch(epoch, position, phase), batches[2:])


def test_ranks_and_accumulation_share_the_grown_updates() -> None:
    def images(**layout: int) -> list[dict[int, torch.Tensor]]:
        """Each update's images by their index."""
        ranks = [make_loader(AUGMENT, rank=rank, **SIZED, **layout) for rank in range(layout.get("world_size", 1))]
        updates: list[dict[int, torch.Tensor]] = [{}]
        for parts in zip(*(loader.epoch(1, 0, PHASES[0]) for loader in ranks), strict=True):
            for batch in parts:
                pairs = zip(batch.labels.tolist(), batch.images, strict=True)
                updates[-1] |= dict(list(pairs)[: batch.num_valid])
            updates += [{}] if parts[0].last_of_update else []
        return updates[:-1]

    whole = images(batch_size=12, accumulation=1)
    assert [len(update) for update in whole] == [26, 21]  # 12 x 2.25 = 27, and 26 is even
    for batch_size, world_size, accumulation in ((6, 2, 1), (4, 1, 3), (2, 3, 2), (1, 2, 6)):
        parts = images(batch_size=batch_size, world_size=world_size, accumulation=accumulation)
        for one, other in zip(whole, parts, strict=True):
            assert one.keys() == other.keys()
            assert all(torch.equal(one[index], other[index]) for index in one)


def test_sizes_of_small_images_are_cropped_from_a_padded_copy() -> None:
    transform = TrainTransform(
        img_size=48, channels=1, mean=(0.5,), auto_augment=None, color_jitter=0, hflip=0, scale=(0.05, 0.05)
    )
    source = ArrayImages(np.arange(64, dtype=np.uint8).reshape(1, 8, 8), np.zeros(1, dtype=np.int64), ["image"])
    sizes = [(48, 48), (32, 32), (33, 20)]
    loader = make_loader(transform, source=source, resized={size: replace(transform, img_size=size) for size in sizes})
    values = {size: next(loader.epoch(0, 0, Phase(0.0, size))).images.unique().tolist() for size in sizes}
    assert len(values[32, 32]) > 40, "most of the image, moved by a few pixels"
    assert 0 in values[32, 32]
    assert len(values[48, 48]) < 40, "a twentieth of it"
    assert len(values[33, 20]) < 40


def process_group(content: Content, name: str) -> tuple[torch.Tensor, tuple[()]]:
    return torch.tensor([[[os.getpgrp()]]]), ()


def die(content: Content, name: str) -> tuple[torch.Tensor, tuple[()]]:
    os._exit(1)


def test_workers_are_out_of_reach_of_the_terminal() -> None:
    groups = {batch.images[0].item() for batch in make_loader(process_group, num_workers=2).epoch(0)}
    assert len(groups) == 2
    assert os.getpgrp() not in groups


def test_a_worker_that_dies_is_explained() -> None:
    with pytest.raises(DataError, match=r"A data worker died: .*Lower DATA\.NUM_WORKERS"):
        list(make_loader(die, num_workers=1).epoch(0))


def test_digits_are_divided_the_same_way_for_everyone() -> None:
    opened = open_digits()
    assert opened.classes == [str(digit) for digit in range(10)]
    train_set, test_set = (opened.sources[part] for part in ("train", "test"))
    assert (len(train_set.labels), len(test_set.labels)) == (1437, 360)
    assert np.bincount(test_set.labels).tolist() == [36, 37, 35, 37, 36, 36, 36, 36, 35, 36]
    train, val = ({half.name(index) for index in range(len(half.labels))} for half in (train_set, test_set))
    assert not train & val
    assert sorted(val)[:5] == [
        "digits/0000",
        "digits/0008",
        "digits/0012",
        "digits/0019",
        "digits/0026",
    ]  # a literal: results are only comparable on one split
    pixels = train_set.read(0)
    assert (pixels.dtype, pixels.shape, pixels.min(), pixels.max()) == (np.uint8, (8, 8), 0, 255)
    with pytest.raises(DataError, match="digits, with classes 0 to 9"):
        open_digits(classes=["cat", "dog"])


def test_digits_are_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file is encoded or decoded, the source hands out views, and each image is resized once."""
    monkeypatch.setattr(Image, "open", None)
    monkeypatch.setattr(decode.simplejpeg, "decode_jpeg", None)
    monkeypatch.setattr(Image.Image, "save", None)
    resized = []
    resize = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda *arguments: resized.append(0) or resize(*arguments))
    source = open_digits().sources["train"]
    assert all(np.shares_memory(source.read(index), source.images) for index in range(len(source.labels)))
    transform = TrainTransform(
        img_size=32, channels=1, mean=(0.5,), auto_augment=None, color_jitter=0, hflip=0, erase_prob=0
    )
    list(make_loader(transform, source=source, batch_size=64).epoch(0))
    assert len(resized) == len(source.labels)
