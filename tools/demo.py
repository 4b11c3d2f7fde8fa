"""A page to try a model: drop images, see classes, probabilities and what the model looked at.

python -m tools.demo --checkpoint output/swin_tiny/default [--port 7860]

The page is for this machine's browsers only, and takes nothing from elsewhere. The images that it is given are kept in
gradio's temporary folder for an hour.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image

from swin.config.messages import program_name
from swin.errors import ConfigError, DataError, printable
from swin.images import image_extensions
from swin.inference import load_torch_predictor
from swin.predictor import Predictor
from tools.arguments import command, positive
from tools.cam import make_cam

# What gradio asks of other hosts, as fonts, does not leave the browser.
_POLICY = (
    b"default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    b"style-src 'self' 'unsafe-inline'"
)
_KEEP_SEC = 3600
_HEADERS = ["file", "rank", "class", "probability"]

Picture = tuple[Image.Image, str]


def make_answer(predictor: Predictor, top_k: int) -> Callable[[Sequence[str] | None], tuple[list[Picture], list[Any]]]:
    """Make the function behind the page.

    Returns:
        For the paths of images: a picture of each that can be read, which is Grad-CAM of the predicted class over what
        the model saw, with a caption; and rows of `_HEADERS`, one with the error for a file that cannot be read.

    Raises:
        ConfigError: A package is not installed.
    """
    draw = make_cam(predictor)

    def answer(paths: Sequence[str] | None) -> tuple[list[Picture], list[Any]]:
        pictures: list[Picture] = []
        rows: list[Any] = []
        for path in paths or ():
            name = printable(Path(path).name)
            try:
                image = predictor.read(path)
            except DataError as error:
                rows.append([name, None, str(error).replace(str(path), name), None])
                continue
            result = predictor.describe(predictor.scores([image])[0], top_k)
            pictures.append((draw([image], [result["pred_label"]])[0], _caption(name, result)))
            rows += [
                [name, rank, best["class"], f"{best['score']:.2%}"]
                for rank, best in enumerate(result["top_k"], start=1)
            ]
        return pictures, rows

    return answer


def _caption(name: str, result: dict[str, Any]) -> str:
    shown = f"{result['pred_class']} {result['pred_score']:.1%}"  # first: the page cuts what is long
    if "pred_classes" in result:
        shown += f"; labels: {', '.join(result['pred_classes']) or 'none'}"
    return f"{shown}; {name}"


class OnlyFromHere:
    """Web middleware that forbids browsers to ask other hosts for anything on the page's behalf."""

    def __init__(self, app: Callable[..., Any]) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        async def send_with_policy(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"content-security-policy", _POLICY)]
            await send(message)

        await self.app(scope, receive, send_with_policy)


def make_page(predictor: Predictor, top_k: int, title: str) -> Any:
    """Make the page, a `gradio.Blocks`, which is not served yet."""
    import gradio

    endings = list(image_extensions(predictor.channels))
    with gradio.Blocks(title=title, analytics_enabled=False, delete_cache=(_KEEP_SEC, _KEEP_SEC)) as page:
        gradio.Markdown("## What is in these images?")
        files = gradio.File(file_count="multiple", file_types=endings, label="Images", elem_id="images")
        pictures = gradio.Gallery(
            label="What the model looked at",
            elem_id="pictures",
            buttons=["download"],
            columns=4,
            fit_columns=False,
            object_fit="contain",
        )
        table = gradio.Dataframe(headers=_HEADERS, label="Classes", elem_id="classes", interactive=False)
        files.change(make_answer(predictor, top_k), files, [pictures, table], api_visibility="private")
    return page


def serve(page: Any, port: int | None) -> str:
    """Serve a page in the background and return its address; `port` None is the first free one from 7860 on.

    Raises:
        ConfigError: The port is taken.
    """
    import gradio
    from starlette.middleware import Middleware

    theme = gradio.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    try:
        _, address, _ = page.launch(
            server_name="127.0.0.1",
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            ssr_mode=False,
            theme=theme,
            footer_links=[],
            app_kwargs={"middleware": [Middleware(OnlyFromHere)]},
        )
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"--port {port} cannot be used: it is taken, or not for users. Give another. ({error})"
        ) from None
    return str(address)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command until it is interrupted, and return its exit status."""
    parser = argparse.ArgumentParser(
        prog=program_name("swin-demo", "python -m tools.demo"), description="Serve a page to try a model."
    )
    parser.add_argument(
        "--checkpoint", required=True, metavar="FILE", help="checkpoint of a training run, or its folder"
    )
    parser.add_argument("--port", type=positive, help="of the page (default: the first free one from 7860 on)")
    parser.add_argument("--top-k", type=positive, default=5, help="classes to show, at most all (default: 5)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    options = parser.parse_args(argv)
    if find_spec("gradio") is None:
        raise ConfigError('gradio is not installed, which this needs: pip install "swin-trainer[demo]"')
    page = make_page(load_torch_predictor(options.checkpoint, device=options.device), options.top_k, options.checkpoint)
    print(f"open {serve(page, options.port)} in a browser; Ctrl-C ends this", flush=True)
    page.block_thread()
    return 0


if __name__ == "__main__":
    sys.exit(main())
