"""Teachers, and what a student minimises: against the definitions, and against other programs' own models."""

import copy

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from swin import SwinTransformer
from swin.config import config_to_dict, dump_config, load_config
from swin.create import build_model
from swin.distill import Distillation, Teacher, hard_loss, map_loss, open_teacher, soft_loss
from swin.distill.objective import TargetsWithLogits
from swin.distill.teacher import LoadedModel
from swin.engine.checkpoint import write_checkpoint
from swin.errors import CheckpointError, ConfigError
from swin.losses import make_loss
from swin.preprocess import EvalResize, Normalise
from tests.updates import make_batch

CLASSES = list("abcde")
GIVEN = Normalise([0.4, 0.5, 0.6], [0.2, 0.3, 0.25])


def make_student(**changes) -> SwinTransformer:
    options = {"img_size": 32, "embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4}
    torch.manual_seed(0)
    return SwinTransformer(**{**options, "num_classes": len(CLASSES), "drop_path_rate": 0.0, **changes})


def found_of(model, *, size=32, mean=GIVEN.mean_C11, std=GIVEN.std_C11, channels=3, classes=CLASSES) -> LoadedModel:
    def forward_with_map(images):
        features = model.forward_features(images)
        return model.classify(features), features.permute(0, 3, 1, 2)

    resize = EvalResize(img_size=size, crop=False, interpolation="bicubic")
    return LoadedModel(
        "a.pth",
        model,
        forward_with_map,
        resize,
        Normalise(mean.flatten().tolist(), std.flatten().tolist()),
        channels,
        classes,
    )


def make_teacher(found: LoadedModel | None = None, *, given=GIVEN, classes=CLASSES) -> Teacher:
    return Teacher(found or found_of(make_student(embed_dim=16)), given=given, classes=classes)


def make_objective(student: SwinTransformer, teacher: Teacher | None = None, **options) -> Distillation:
    return Distillation(make_loss(smoothing=0.0), student, teacher or make_teacher(), **options)


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_soft_loss_is_the_definition(temperature):
    student, teacher = draw(6, 5) * 4, draw(6, 5, 1)[..., 0] * 4
    p = np.exp(teacher.numpy() / temperature)
    q = np.exp(student.numpy() / temperature)
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    expected = temperature**2 * (p * np.log(p / q)).sum(1)
    found = soft_loss(student, teacher, temperature)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)
    np.testing.assert_allclose(soft_loss(student.float(), teacher.float(), temperature), expected, rtol=1e-4)
    # The gradient is T (q - p), whose size does not fall with T as that of the divergence does.
    student.requires_grad_()
    soft_loss(student, teacher, temperature).sum().backward()
    np.testing.assert_allclose(student.grad.numpy(), temperature * (q - p), rtol=1e-9)


def test_the_hard_loss_is_the_definition():
    student, teacher = draw(6, 5), draw(6, 5, 1)[..., 0]
    top, x = teacher.numpy().argmax(1), student.numpy()
    expected = np.log(np.exp(x).sum(1)) - x[np.arange(6), top]
    np.testing.assert_allclose(hard_loss(student, teacher).numpy(), expected, rtol=1e-10)


def test_the_loss_of_maps_is_the_definition_and_does_not_see_the_scale_of_features():
    student, teacher = draw(2, 3, 4, 7) * 3, draw(2, 7, 3, 4) * 5 + 2
    target = teacher.numpy().transpose(0, 2, 3, 1)
    target = (target - target.mean(-1, keepdims=True)) / np.sqrt(target.var(-1, keepdims=True) + 1e-5)
    distance = np.abs(student.numpy() - target)
    expected = np.where(distance < 2, distance**2 / 4, distance - 1).mean((1, 2, 3))
    np.testing.assert_allclose(map_loss(student, teacher).numpy(), expected, rtol=1e-9)
    np.testing.assert_allclose(map_loss(student, teacher * 10).numpy(), expected, rtol=1e-4)
    assert (distance > 2).any()


def test_a_map_of_another_grid_is_resized():
    student = draw(2, 2, 3, 7)
    coarse = draw(2, 7, 2, 3)
    fine = coarse.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    assert map_loss(student, fine).shape == (2,)
    flat = draw(2, 7, 1, 1).expand(2, 7, 6, 6)  # of the same values everywhere, at any size
    torch.testing.assert_close(map_loss(student, flat), map_loss(student, flat[:, :, :2, :3]))


@pytest.mark.parametrize("kind", ["soft", "hard"])
@pytest.mark.parametrize("features", [0.0, 0.7])
def test_the_parts_are_weighed(kind, features):
    student, teacher = make_student(), make_teacher()
    objective = make_objective(student, teacher, kind=kind, alpha=0.3, temperature=2.0, features=features)
    images, labels = draw(3, 3, 32, 32).float(), torch.tensor([0, 4, 2])
    losses = objective(objective.network(student), images, labels, None)
    logits, taught = student(images), teacher.model(images)
    lesson = soft_loss(logits, taught, 2.0) if kind == "soft" else hard_loss(logits, taught)
    expected = 0.7 * nn.functional.cross_entropy(logits, labels, reduction="none") + 0.3 * lesson
    if features:
        maps = teacher.model.forward_features(images).permute(0, 3, 1, 2)
        expected = expected + 0.7 * map_loss(objective.auxiliary(student.forward_features(images)), maps)
    torch.testing.assert_close(losses, expected)


def test_a_teacher_gets_no_gradient_and_stays_in_evaluation_mode():
    teacher = make_teacher(found_of(make_student(embed_dim=16, drop_rate=0.5, drop_path_rate=0.5)))
    before = copy.deepcopy(teacher.model.state_dict())
    student = make_student()
    objective = make_objective(student, teacher, features=1.0)
    teacher.train()
    objective.network(student).train()
    assert not any(module.training for module in teacher.modules())
    objective(objective.network(student), draw(2, 3, 32, 32).float(), torch.tensor([0, 1]), None).sum().backward()
    assert all(each.grad is None and not each.requires_grad for each in teacher.parameters())
    assert all(each.grad is not None for each in objective.network(student).parameters())
    names = {name.split(".")[0] for name, _ in objective.network(student).named_parameters()}
    assert names == {"model", "projection"}  # and not the teacher's
    assert all(torch.equal(value, before[name]) for name, value in teacher.model.state_dict().items())


def test_a_teacher_sees_images_at_its_own_size_mean_and_deviation():
    own = Normalise([0.5, 0.5, 0.5], [0.1, 0.2, 0.3])
    teacher = make_teacher(found_of(make_student(), size=48, mean=own.mean_C11, std=own.std_C11))
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    resized = nn.functional.interpolate(pixels / 255, (48, 48), mode="bicubic", antialias=True)
    expected = (resized - own.mean_C11) / own.std_C11
    torch.testing.assert_close(teacher.adapt(GIVEN(pixels)), expected, rtol=1e-4, atol=1e-4)
    same, images = make_teacher(), GIVEN(pixels)
    assert same.adapt(images) is images


def test_grey_images_do_as_red_green_and_blue():
    grey = Normalise([0.3], [0.4])
    teacher = make_teacher(given=grey)
    pixels = torch.randint(0, 256, (2, 1, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(teacher.adapt(grey(pixels)), GIVEN(pixels.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="takes images of 3 channels, and the student's have 4"):
        make_teacher(given=Normalise([0.3] * 4, [0.4] * 4))


def test_classes_are_compared_by_name():
    model = make_student()
    images = draw(2, 3, 32, 32).float()
    turned = make_teacher(found_of(model, classes=CLASSES[::-1]))
    assert turned.has_names
    assert torch.equal(turned(images), model.eval()(images).flip(1))
    assert not make_teacher(found_of(model, classes=None)).has_names
    with pytest.raises(ConfigError, match=r"knows 5 classes and the data have 5; it does not know 'c'\. A teacher"):
        make_teacher(found_of(model, classes=["a", "b", "x", "d", "e"]))
    for names in (CLASSES, None):
        with pytest.raises(ConfigError, match="knows 5 classes and the data have 4"):
            make_teacher(found_of(model, classes=names), classes=CLASSES[:4])


def test_a_table_is_read_by_the_numbers_of_the_images():
    student, teacher = make_student(), make_teacher()
    table = draw(9, 5).numpy().astype(np.float16)
    objective = make_objective(student, teacher, alpha=0.6, table=table)
    batch = make_batch([0, 1], update_size=2, is_last=True)._replace(indices=[7, 2])
    images, labels = draw(2, 3, 32, 32).float(), torch.tensor([1, 3])
    prepare = objective.prepare(lambda *_: (images, labels))
    given, targets = prepare(batch, torch.device("cpu"), 0)
    assert isinstance(targets, TargetsWithLogits)
    assert given is images
    teacher.model = None  # is not asked
    losses = objective(student, images, targets, None)
    kept = torch.from_numpy(table[[7, 2]]).float()
    logits = student(images)
    expected = 0.4 * nn.functional.cross_entropy(logits, labels, reduction="none") + 0.6 * soft_loss(logits, kept, 1.0)
    torch.testing.assert_close(losses, expected)


def test_the_projection_draws_nothing_from_the_process(tmp_path):
    student, teacher = make_student(), make_teacher()
    state = torch.random.get_rng_state()
    one, other = (make_objective(student, teacher, features=1.0) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(one.auxiliary.weight, other.auxiliary.weight)
    nn.init.ones_(one.auxiliary.weight)
    other.load_state_dict(one.state_dict(), tmp_path)
    assert torch.equal(one.auxiliary.weight, other.auxiliary.weight)


def test_a_run_goes_on_with_its_own_teacher_alone(tmp_path):
    student = make_student()
    saved = make_objective(student, features=1.0).state_dict()
    changed = make_student(embed_dim=16)
    nn.init.ones_(changed.head.weight)
    with pytest.raises(CheckpointError, match=r"trained with another teacher than a\.pth is now"):
        make_objective(student, make_teacher(found_of(changed)), features=1.0).load_state_dict(saved, tmp_path)
    with pytest.raises(CheckpointError, match=r"no projection of the feature map, which TRAIN\.DISTILL\.FEATURES"):
        make_objective(student, features=1.0).load_state_dict(make_objective(student).state_dict(), tmp_path)
    seen_otherwise = make_teacher(found_of(make_student(embed_dim=16), size=40))
    assert len({make_teacher().digest, make_teacher().digest, seen_otherwise.digest}) == 2


# Teachers of files.


def save_run(tmp_path, name: str = "run.pth", **options: str):
    cfg = load_config(
        None,
        [
            *("DATA.IMG_SIZE", "32", "MODEL.SWIN.EMBED_DIM", "8", "MODEL.SWIN.DEPTHS", "[1, 1]"),
            *("MODEL.SWIN.NUM_HEADS", "[1, 2]", "MODEL.SWIN.WINDOW_SIZE", "4"),
            *("DATA.MEAN", "[0.1, 0.2, 0.3]", "TEST.CROP", "False"),
        ],
    )
    model = build_model(cfg, len(CLASSES))
    path = tmp_path / name
    write_checkpoint(path, {"model": model.state_dict(), "classes": CLASSES, "config": config_to_dict(cfg), **options})
    return path, model.eval(), cfg


def test_a_run_and_bare_weights_with_a_config_are_teachers(tmp_path):
    path, model, cfg = save_run(tmp_path)
    images = draw(2, 3, 32, 32).float()
    found = open_teacher(str(path))
    assert (found.classes, found.channels, found.resize.size) == (CLASSES, 3, (32, 32))
    assert found.normalise.mean_C11.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    bare, yaml = tmp_path / "bare.pth", tmp_path / "bare.yaml"
    torch.save(model.state_dict(), bare)
    yaml.write_text(dump_config(cfg))
    for each in (found, open_teacher(str(bare), str(yaml))):
        assert each.resize.size == (32, 32)
        logits, maps = each.forward_with_map(images)
        assert torch.equal(each.model(images), model(images))
        assert torch.equal(logits, model(images))
        assert torch.equal(maps, model.forward_features(images).permute(0, 3, 1, 2))


def test_a_teacher_of_several_labels_is_refused(tmp_path):
    path, *_ = save_run(tmp_path, multi_label=True, threshold=0.5)
    with pytest.raises(ConfigError, match="gives an image any number of labels"):
        open_teacher(str(path))


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_model_of_timm_is_a_teacher(tmp_path, name, channels):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5, in_chans=channels).eval()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "a.pth")
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    size, images = model.pretrained_cfg["input_size"][1:], draw(2, channels, 160, 160).float()
    for file in ("a.pth", "a.safetensors"):
        found = open_teacher(f"timm:{name}:{tmp_path / file}")
        assert (found.channels, found.resize.size, found.normalise.mean_C11.numel()) == (channels, size, channels)
        teacher = Teacher(found, given=found.normalise, classes=CLASSES)
        logits, maps = teacher.forward_with_map(images)
        torch.testing.assert_close(logits, model(images))
        assert torch.equal(teacher(images), model(images))
        assert maps.shape == (2, teacher.count_features(), *maps.shape[2:])
        torch.testing.assert_close(maps, model.forward_intermediates(images, indices=1, norm=True)[1][-1])


def test_a_config_says_the_size_of_another_programs_model(tmp_path):
    yaml = tmp_path / "small.yaml"
    yaml.write_text("DATA: {IMG_SIZE: 32, MEAN: [0.1, 0.1, 0.1], STD: [0.5, 0.5, 0.5]}\n")
    for name, options in (("test_vit", {"img_size": 32}), ("test_resnet", {})):
        model = timm.create_model(name, num_classes=5, **options).eval()
        torch.save(model.state_dict(), tmp_path / "a.pth")
        found = open_teacher(f"timm:{name}:{tmp_path / 'a.pth'}", str(yaml))
        assert found.resize.size == (32, 32)
        assert found.normalise.std_C11.flatten().tolist() == [0.5] * 3
        images = draw(2, 3, 32, 32).float()
        assert torch.equal(Teacher(found, given=found.normalise, classes=CLASSES)(images), model(images))


def test_a_model_of_torchvision_is_a_teacher(tmp_path):
    torch.manual_seed(0)
    images = draw(2, 3, 224, 224).float()
    for name in ("resnet18", "mobilenet_v3_small"):
        model = torchvision.models.get_model(name, weights=None, num_classes=5).eval()
        torch.save(model.state_dict(), tmp_path / "a.pth")
        found = open_teacher(f"torchvision:{name}:{tmp_path / 'a.pth'}")
        assert (found.resize.size, found.resize.crop, found.channels) == ((224, 224), True, 3)
        teacher = Teacher(found, given=found.normalise, classes=CLASSES)
        logits, maps = teacher.forward_with_map(images)
        assert torch.equal(logits, model(images))
        assert torch.equal(teacher(images), logits)
        assert teacher.count_features() == maps.shape[1]
        pooled = torch.flatten(model.avgpool(maps), 1)
        assert torch.equal(model.fc(pooled) if name == "resnet18" else model.classifier(pooled), logits)


def test_what_is_wrong_with_a_teacher_is_said(tmp_path):
    with pytest.raises(ConfigError, match="timm has no model 'resnet188'; did you mean resnet18"):
        open_teacher("timm:resnet188")
    with pytest.raises(ConfigError, match="torchvision has no model 'resnet19'; did you mean"):
        open_teacher("torchvision:resnet19")
    with pytest.raises(ConfigError, match=r"timm has no model ''; expected timm:NAME\[:FILE\], as timm:resnet18"):
        open_teacher("timm:")
    with pytest.raises(CheckpointError, match=r"absent\.pth does not exist"):
        open_teacher(f"timm:test_resnet:{tmp_path / 'absent.pth'}")
    with pytest.raises(CheckpointError, match=r"absent\.pth does not exist"):
        open_teacher(str(tmp_path / "absent.pth"))
    torch.save(timm.create_model("test_vit", num_classes=5).state_dict(), tmp_path / "vit.pth")
    with pytest.raises(CheckpointError, match="are not those of this model: "):
        open_teacher(f"timm:test_resnet:{tmp_path / 'vit.pth'}")
    torch.save({"state_dict": {"a": torch.full((2,), torch.nan)}}, tmp_path / "nan.pth")
    with pytest.raises(CheckpointError, match="is damaged: a has NaN"):
        open_teacher(f"timm:test_resnet:{tmp_path / 'nan.pth'}")
    with pytest.raises(CheckpointError, match=r"cannot be had \(Invalid pretrained tag \(nope\) for test_vit\)\.$"):
        open_teacher(f"timm:test_vit.nope:{tmp_path / 'vit.pth'}")
    mobile = torchvision.models.mobilenet_v2(num_classes=5)
    torch.save(mobile.state_dict(), tmp_path / "mobile.pth")
    found = open_teacher(f"torchvision:mobilenet_v2:{tmp_path / 'mobile.pth'}")
    with pytest.raises(ConfigError, match=r"refuses an image of 224 x 224 .*avgpool.* Set TRAIN\.DISTILL\.FEATURES"):
        Teacher(found, given=GIVEN, classes=CLASSES).count_features()


@pytest.mark.parametrize("library", ["timm:test_resnet", "torchvision:resnet18"])
def test_weights_that_cannot_be_downloaded_are_said_to_be_wanted_as_a_file(monkeypatch, tmp_path, library):
    def refuse(*args, **options):
        raise TypeError("no img_size") if "img_size" in options else OSError("no network")

    yaml = tmp_path / "small.yaml"
    yaml.write_text("DATA: {IMG_SIZE: 64}\n")
    monkeypatch.setattr(timm, "create_model", refuse)
    monkeypatch.setattr(torchvision.models, "get_model", refuse)
    for config in ("", str(yaml)):
        with pytest.raises(CheckpointError, match=r"cannot be had \(no network\).*give its weights as a file"):
            open_teacher(library, config)


TAUGHT = ["TRAIN.DISTILL.TEACHER", "a.pth"]
CACHED = [*TAUGHT, "TRAIN.DISTILL.CACHE", "True", "AUG.MIXUP", "0", "AUG.CUTMIX", "0"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([*TAUGHT, "DATA.MULTI_LABEL", "True", "TRAIN.LOSS", "bce"], "for images with one label each"),
        ([*TAUGHT, "TRAIN.LOSS", "bce"], "set TRAIN.LOSS to ce"),
        ([*TAUGHT, "TRAIN.DISTILL.ALPHA", "0"], "teaches nothing"),
        ([*CACHED, "TRAIN.DISTILL.FEATURES", "1"], "keeps logits alone"),
        ([*CACHED, "AUG.MIXUP", "0.1"], "set AUG.MIXUP to 0"),
        ([*CACHED, "AUG.CUTMIX", "0.1"], "set AUG.CUTMIX to 0"),
        ([*CACHED, "AUG.CUTMIX_MINMAX", "[0.1, 0.2]"], "set AUG.CUTMIX_MINMAX to null"),
        ([*CACHED, "DATA.ON_ERROR", "skip"], "needs all images"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(options, message):
    load_config(None, CACHED)
    with pytest.raises(ConfigError, match=message):
        load_config(None, options)


def test_a_config_of_no_teacher_is_warned_of():
    assert "there is none" in " ".join(load_config(None, ["TRAIN.DISTILL.CONFIG", "a.yaml"]).warnings)
