"""Class heads mapped by name."""

import pytest

from swin.weights.labels import imagenet_classes, match_classes

TEDDY_BEAR, TEDDY_BEAR_ROW = "n04399382", 5564


@pytest.fixture(scope="module")
def official_map() -> list[int | None]:
    return match_classes(imagenet_classes(21841), imagenet_classes(1000))


def test_imagenets_heads_have_their_classes():
    assert [len(imagenet_classes(count)) for count in (1000, 21841, 21843)] == [1000, 21841, 21843]
    assert imagenet_classes(21842) is None
    assert imagenet_classes(10) is None
    assert imagenet_classes(1000)[:2] == ("n01440764", "n01443537")


def test_all_1000_rows_of_the_22k_head_are_found(official_map):
    assert len(official_map) == len(set(official_map)) == 1000
    assert None not in official_map
    assert max(official_map) < 21841


def test_rows_equal_the_official_map(official_map):
    """Against values of the official repository's data/map22kto1k.txt: its beginning, end, and some between."""
    assert official_map[:12] == [359, 368, 460, 475, 486, 492, 496, 514, 516, 525, 547, 548]
    assert official_map[-7:] == [21163, 21171, 21181, 21196, 21200, 21369, 21817]
    assert official_map[::100] == [359, 1577, 2251, 2532, 4151, 5676, 7672, 9039, 10487, 11771]
    assert official_map[845:855] == [11045, 11055, 11095, 11110, 11137, TEDDY_BEAR_ROW, 11168, 11186, 11221, 11223]
    assert imagenet_classes(1000).index(TEDDY_BEAR) == 850
    # All rows but the teddy bear's ascend, in the file too.
    others = [row for row in official_map if row != TEDDY_BEAR_ROW]
    assert others == sorted(others)


def test_the_22k_lists_lack_the_teddy_bear_and_it_is_found_by_name_too():
    classes = imagenet_classes(21841)
    assert TEDDY_BEAR not in classes
    assert match_classes(classes, ["teddy_bear", "Teddy Bear", TEDDY_BEAR]) == [TEDDY_BEAR_ROW] * 3


def test_own_folders_find_imagenets_classes_by_id_or_english_name():
    classes = imagenet_classes(1000)
    found = match_classes(
        classes, ["n01443537", "goldfish", "Great_White_Shark", "great-white-shark", "roses", "tench"]
    )
    assert found == [1, 1, 2, 2, None, 0]


def test_a_name_that_two_classes_share_finds_none():
    classes = imagenet_classes(1000)
    assert sorted(i for i, name in enumerate(classes) if name in ("n02012849", "n03126707")) == [134, 517]
    assert match_classes(classes, ["crane", "n02012849", "n03126707"]) == [None, 134, 517]


def test_the_first_name_of_a_class_goes_before_others():
    assert match_classes(["bathtub, tub", "tub, vat"], ["tub", "bathtub", "vat"]) == [1, 0, 1]


def test_own_names_match_in_any_case_with_underscores_or_spaces():
    assert match_classes(["red fox", "Blue_Whale", "owl"], ["OWL", "red_fox", "cat", "blue-whale"]) == [2, 0, None, 1]
    assert match_classes(["A", "a"], ["a", "A"]) == [1, 0]  # the same spelling decides


def test_ids_and_names_meet_in_both_directions_but_two_ids_never():
    assert match_classes(["goldfish", "tench"], ["n01440764", "n01443537"]) == [1, 0]
    assert match_classes(["n03126707"], ["n02012849"]) == [None]  # the crane that lifts is not the one that flies
