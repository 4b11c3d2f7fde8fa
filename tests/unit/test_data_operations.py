"""What `data.operations` takes from timm without its promise: where timm moves a name, one of these says which."""

import pytest
import timm.data.auto_augment as timm_augment

from data import operations
from data.transforms import TrainTransform

REPLACED = ("posterize", "sharpness", "shear_x", "shear_y", "rotate", "translate_x_rel", "translate_y_rel")


@pytest.mark.parametrize("name", [*REPLACED, "NAME_TO_OP", "AugmentOp", "RandAugment", "AugMixAugment", "AutoAugment"])
def test_timm_has_the_names_that_are_used(name: str) -> None:
    assert hasattr(timm_augment, name), f"timm.data.auto_augment has no {name}: data/operations.py has to follow"


def test_exactly_the_named_functions_are_replaced() -> None:
    assert set(operations._REPLACEMENTS) == {getattr(timm_augment, name) for name in REPLACED}


@pytest.mark.parametrize(
    ("policy", "kind", "attribute"),
    [
        ("rand-m9-mstd0.5-inc1", timm_augment.RandAugment, "ops"),
        ("augmix-m5-w4-d2", timm_augment.AugMixAugment, "ops"),
        ("original", timm_augment.AutoAugment, "policy"),
        ("v0", timm_augment.AutoAugment, "policy"),
    ],
)
def test_operations_are_found_and_replaced_in_every_policy(policy: str, kind: type, attribute: str) -> None:
    (built,) = TrainTransform(img_size=64, channels=3, mean=(0.5,) * 3, auto_augment=policy).colours
    assert type(built) is kind, f"timm makes {type(built).__name__} of {policy}"
    assert hasattr(built, attribute), f"timm's {kind.__name__} has no {attribute}: data/operations.py has to follow"
    found = list(operations._operations(built))
    assert len(found) >= 5
    for operation in found:
        assert isinstance(operation, timm_augment.AugmentOp)
        for name, expected in (("aug_fn", object), ("kwargs", dict)):
            assert isinstance(getattr(operation, name, None), expected), f"timm's AugmentOp has no {name}"
        assert operation.aug_fn not in operations._REPLACEMENTS, f"{operation.aug_fn} was not replaced"
    assert {operation.aug_fn for operation in found} & set(operations._REPLACEMENTS.values())
