"""Photographs that the page offers, with words, so that a first click shows something."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from web_uploads import NoRoomError, UploadFolder

FOLDER = Path(__file__).parent / 'examples'


class Example(NamedTuple):
    """A photograph that comes with the demo."""

    file: str
    title: str
    words: str
    background: bool = False


EXAMPLES = (
    Example('cat.jpg', 'a cat', 'cat . blanket . wall'),
    Example('coffee.jpg', 'a cup of coffee', 'cup of coffee . saucer . spoon . wooden table'),
)


def example_buttons() -> list[gr.Button]:
    """A button for each photograph, in a row."""
    with gr.Row():
        return [
            gr.Button(f'Example: {example.title}', size='sm', elem_id=f'example-{number}')
            for number, example in enumerate(EXAMPLES)
        ]


def connect_examples(
    buttons: Sequence[gr.Button],
    uploads: UploadFolder,
    answer: Callable[..., Any],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
) -> None:
    """Have each button fill the page in, and then segment.

    The photograph goes the way of an upload: a copy, which is removed like all others.

    Args:
        buttons: Those of :func:`example_buttons`.
        uploads: Folder of the uploads.
        answer: What segments.
        inputs: Its inputs: image, words and background come first.
        outputs: Its outputs.
    """

    def filler(example: Example) -> Callable[[], tuple[str, str, bool]]:
        def fill() -> tuple[str, str, bool]:
            try:
                return uploads.add(FOLDER / example.file), example.words, example.background
            except NoRoomError as error:
                raise gr.Error(str(error), print_exception=False) from error

        return fill

    for button, example in zip(buttons, EXAMPLES, strict=True):
        button.click(filler(example), [], inputs[:3]).success(answer, inputs, outputs)
