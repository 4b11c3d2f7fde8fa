"""The page of a published model: Markdown with the front matter that huggingface_hub reads."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from swin.errors import printable

_MAX_NAMES = 100  # of classes on the page; the others are in a file beside it
_LIBRARIES = {"swin": "swin-trainer", "transformers": "transformers", "timm": "timm"}
_FIGURES = {
    "acc1": "Acc@1, %",
    "acc5": "Acc@5, %",
    "balanced_accuracy": "balanced accuracy",
    "mean_average_precision": "mean average precision",
    "macro_f1": "macro F1",
    "ece": "expected calibration error",
    "loss": "loss",
    "seen": "images",
}
_USES = {
    "swin": """from swin import inference_model

print(inference_model("FOLDER", "photo.jpg")["pred_class"])""",
    "transformers": """from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

processor = AutoImageProcessor.from_pretrained("FOLDER")
model = AutoModelForImageClassification.from_pretrained("FOLDER")
logits = model(**processor(Image.open("photo.jpg").convert("RGB"), return_tensors="pt")).logits""",
    "timm": """import timm
from PIL import Image

model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
logits = model(transform(Image.open("photo.jpg").convert("RGB"))[None])""",
}


def escape(text: str) -> str:
    """Return text that Markdown and HTML show as it is: what may be markup is given by its number."""
    return re.sub(r"[^\w ,'()-]|_|(?<!\w)-|-(?!\w)", lambda found: f"&#{ord(found[0])};", printable(text).strip())


def make_card(
    name: str,
    program: str,
    *,
    license_id: str | None,
    model: str,
    images: str,
    classes: Sequence[str] | None,
    outputs: str,
    metrics: Mapping[str, Mapping[str, Any]],
) -> str:
    """Write the page.

    Args:
        name: of the model, which is escaped.
        program: `swin`, `transformers` or `timm`: whose loader reads the folder.
        license_id: as the hub has them, such as `mit`; None where none is given.
        model: what it is, as Markdown.
        images: how images become its input, likewise.
        classes: names, which are escaped.
        outputs: what its outputs mean, as Markdown.
        metrics: figures by what they were measured on, see `metrics.json`.
    """
    front: dict[str, Any] = {"license": license_id} if license_id else {}
    front |= {"library_name": _LIBRARIES[program], "pipeline_tag": "image-classification"}
    front |= {"tags": ["image-classification", "swin"]}
    if results := [_result(on, figures) for on, figures in metrics.items() if "acc1" in figures]:
        front["model-index"] = [{"name": printable(name), "results": results}]
    shown = [f"{row}. {escape(label)}" for row, label in enumerate((classes or ())[:_MAX_NAMES])]
    if classes and len(classes) > _MAX_NAMES:
        shown += ["", f"and {len(classes) - _MAX_NAMES} more, in the files beside this page."]
    sections = {
        f"# {escape(name)}": model,
        "## Use": f"```python\n{_USES[program]}\n```",
        "## Images": images,
        "## Outputs": outputs,
        "## Figures": _table(metrics) or "None are known: the checkpoint was published without an evaluation.",
        "## Classes, by row": "\n".join(shown) or "The checkpoint does not name them.",
        "## Licence": f"{license_id}" if license_id else "None was given.",
    }
    body = "\n\n".join(f"{title}\n\n{text}" for title, text in sections.items())
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n{body}\n"


def _result(on: str, figures: Mapping[str, Any]) -> dict[str, Any]:
    accuracy = {"type": "accuracy", "name": "Acc@1", "value": figures["acc1"] / 100}
    dataset = {"type": "imagefolder", "name": f"the run's {on} images"}
    return {"task": {"type": "image-classification"}, "dataset": dataset, "metrics": [accuracy]}


def _table(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [key for key in _FIGURES if any(key in figures for figures in metrics.values())]
    lines = [["figure", *(f"{on} images" for on in metrics)], ["---"] * (1 + len(metrics))]
    for key in rows:
        found = (figures.get(key, "") for figures in metrics.values())
        lines.append([_FIGURES[key], *(f"{value:.4g}" if isinstance(value, float) else str(value) for value in found)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if rows else ""
