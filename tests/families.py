"""Small models of each family, as options of main.py on top of the runner's config."""

_SHAPE = {"EMBED_DIM": "16", "DEPTHS": "[2, 2]", "NUM_HEADS": "[1, 2]", "WINDOW_SIZE": "4"}


def small(family: str) -> list[str]:
    """Options that make the runner's model one of a family, by MODEL.TYPE."""
    group = {"swin": "SWIN", "swinv2": "SWINV2", "swin_mlp": "SWIN_MLP"}[family]
    shape = [item for key, value in _SHAPE.items() for item in (f"MODEL.{group}.{key}", value)]
    return ["MODEL.TYPE", family, *shape]
