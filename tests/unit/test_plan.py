"""How a run's plan names the classes of its data."""

from swin.engine.plan import describe_classes


def test_few_classes_are_all_named_in_order():
    line = describe_classes(["photo", "mask"], [120, 119], [30, 0])
    assert line == "classes with their training + validation images: photo (120 + 30), mask (119 + 0)"


def test_of_many_classes_the_largest_and_the_smallest_are_named():
    train, val = [50, 3, *[20] * 8, 60, 1, 40], range(13)
    line = describe_classes([f"n{label}" for label in range(13)], train, val)
    assert line == (
        "classes with their training + validation images: the largest n10 (60 + 10), n0 (50 + 0), n12 (40 + 12); "
        "the smallest n9 (20 + 9), n1 (3 + 1), n11 (1 + 11)"
    )
