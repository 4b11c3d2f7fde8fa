"""Images of one group, as a patient's or a video's: which group each is of, and whether groups straddle parts."""

import re
from collections.abc import Mapping, Sequence

from data.sources import Opened
from swin.errors import DataError, printable

_SHOWN = 3  # examples in a message


def find_groups(opened: Opened, part: str, group_by: str) -> Sequence[str]:
    """Return the group of each image of a part.

    Args:
        opened: The data set; where its layout gives groups, these count.
        part: The part's own name.
        group_by: Else, a regular expression with one group, which is searched in the names of the images.

    Raises:
        DataError: It is no such expression, or does not match some images.
    """
    if part in opened.groups:
        return opened.groups[part]
    pattern = re.compile(group_by)
    if pattern.groups != 1:
        raise DataError(
            f"DATA.GROUP_BY is {group_by!r}, which is no column of the data, nor a regular expression with one group "
            "in parentheses. Write one, as '(patient[0-9]+)/', which is searched in the path of each image."
        )
    names = opened.sources[part].names
    found = [pattern.search(name) for name in names]
    missing = [name for name, match in zip(names, found, strict=True) if not (match and match[1])]
    if missing:
        raise DataError(
            f"DATA.GROUP_BY {group_by!r} does not match {len(missing)} of {len(names)} images, as "
            f"{_examples(missing)}. Change it so that it finds the group of each."
        )
    return [match[1] for match in found if match]


def check_apart(groups: Mapping[str, Sequence[str]], group_by: str) -> None:
    """Raise a DataError where images of one group are in two parts.

    Args:
        groups: The group of each image, by what messages call the parts.
        group_by: The key, for the message.
    """
    seen: dict[str, str] = {}
    for part, own in groups.items():
        both = sorted({group for group in own if seen.setdefault(group, part) != part})
        if both:
            raise DataError(
                f"{len(both)} groups by DATA.GROUP_BY {group_by!r} have images in {part} and in {seen[both[0]]}, as "
                f"{_examples(both)}: accuracy would be too good. Move each group to one part, or leave GROUP_BY out."
            )


def _examples(names: Sequence[str]) -> str:
    return ", ".join(printable(name) for name in names[:_SHOWN])
