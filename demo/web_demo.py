"""Segment images by any words in a browser. Nothing is sent to other machines."""

import argparse
import html
import logging
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pgseg_mm import limits
from pgseg_mm.apis import PGSegInferencer, Segmentation, parse_words
from pgseg_mm.apis.inferencer import takes_every_pixel
from pgseg_mm.apis.model_choice import (
    add_model_choice,
    add_pamr,
    read_chosen_config,
)
from pgseg_mm.apis.naming_choice import add_naming, set_naming_rule
from pgseg_mm.background import is_background
from pgseg_mm.cli.arguments import add_model_options, find_device, require_port
from pgseg_mm.cli.config_files import ConfigError
from pgseg_mm.cli.numbers import number_from
from pgseg_mm.errors import RunError
from pgseg_mm.visualization.colours import Colours, class_colours, separate
from pgseg_mm.visualization.panels import fit_size
from pgseg_mm.visualization.segmentation_picture import ShownImage, group_panels, label_panels

os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'  # before gradio is imported

import gradio as gr  # noqa: E402
from starlette.middleware import Middleware  # noqa: E402
from web_examples import connect_examples, example_buttons  # noqa: E402
from web_guard import Guard, Listeners, checks_of  # noqa: E402
from web_hosts import Hosts  # noqa: E402
from web_uploads import NoRoomError, UploadFolder  # noqa: E402

PICTURE_SIDE = (512, 1024)
"""Bounds of a picture's longer side in pixels."""
PICTURE_BYTES = 3 * 3 * PICTURE_SIDE[1] ** 2
"""Most bytes of the three pictures of an answer."""
SHORTEST_PICTURE_SIDE = 16
COSINE_THRESHOLD = 0.2
"""Where a slider for cosines begins, which are small."""
HEADING = '# Segment by words\nAny words: the model has never seen a mask.'
BUTTONS = ['download', 'fullscreen']
"""Gradio's own would offer to send pictures away."""
CSS = """
.legend {width: 100%; border: 0 !important; border-collapse: collapse}
.legend tr {border: 0 !important}
.legend td, .legend th {padding: 4px 8px !important; text-align: left; border: 0 !important;
  border-bottom: 1px solid #8884 !important}
.legend .number {text-align: right; font-variant-numeric: tabular-nums}
.legend .swatch {display: inline-block; width: 1em; height: 1em; margin-right: .6em;
  border: 1px solid #8888; vertical-align: -.1em}
"""


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """Describe the command line.

    Args:
        command: Name of the command that this is; then the model is an option.
    """
    parser = argparse.ArgumentParser(prog=command, description=__doc__)
    add = parser.add_argument
    add_model_choice(parser, named=command is not None)
    add('--host', default='127.0.0.1', help='address to listen on; 0.0.0.0 lets others in')
    add(
        '--allowed-hosts',
        nargs='+',
        default=[],
        metavar='NAME',
        help='further names that browsers know the server by, such as that of a proxy; * for any',
    )
    add('--port', type=int, default=7860, help='port to listen on')
    add('--device', help='such as cpu or cuda:0; an accelerator by default, if there is one')
    add(
        '--max-file-size',
        type=number_from(0.001, 10**6, kind=float),
        default=limits.MAX_WEB_FILE_BYTES / 1e6,
        metavar='MB',
        help='largest upload (%(default)g)',
    )
    add_naming(parser)
    add_pamr(parser)
    add_model_options(parser)
    return parser


def segment(
    inferencer: PGSegInferencer,
    uploads: UploadFolder,
    path: str | None,
    words: str,
    background: bool,
    threshold: float,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8], str]:
    """What the page shows of an upload: segments, groups of both stages, and the legend.

    Raises:
        gr.Error: If there is nothing to segment, with a sentence for the user.
    """
    if path is None:
        raise gr.Error('Upload an image first.', title='No image', print_exception=False)
    try:
        classes = read_words(words)
        named = [word for word in classes if not is_background(word)]
        background = background or len(named) < len(classes)
        image = shrink(inferencer.read(uploads.read(path), Path(path).name))
        result = inferencer(
            image,
            classes,
            background=background,
            threshold=(threshold or None) if background else None,
            scores='classes',
            groups=inferencer.model.makes_groups,
        )[0]
    except ValueError as error:
        message = html.escape(str(error))
        raise gr.Error(message, title='That did not work', print_exception=False) from error
    except OSError as error:  # of this machine, of which a stranger need not know
        logging.getLogger('pgseg_mm.web').error('An image could not be segmented: %s', error)
        raise gr.Error('The server cannot do that now.', print_exception=False) from error
    if takes_every_pixel(inferencer.model, len(named), background):
        gr.Warning('One word alone takes every pixel: scores compare words. Add others.')
    return draw_answer(image[..., ::-1], result)


def read_words(text: str) -> list[str]:
    """The words that somebody typed.

    Raises:
        ValueError: There are none, too many, or some are too long.
    """
    if len(text) > limits.MAX_WEB_LETTERS:
        raise ValueError(
            f'The words have {len(text)} letters; at most {limits.MAX_WEB_LETTERS} are allowed.'
        )
    words = parse_words(text)
    if len(words) > limits.MAX_WEB_WORDS:
        raise ValueError(
            f'There are {len(words)} words; at most {limits.MAX_WEB_WORDS} are allowed.'
        )
    longest = max(words, key=len)
    if len(longest) > limits.MAX_WEB_WORD_LETTERS:
        raise ValueError(
            f"The word '{longest[:20]}…' has {len(longest)} letters; at most "
            f'{limits.MAX_WEB_WORD_LETTERS} are allowed.'
        )
    return words


def shrink(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A large image as one that shows the same and takes less memory."""
    height, width = image.shape[:2]
    scale = (limits.MAX_WEB_WORKING_PIXELS / (height * width)) ** 0.5
    if scale >= 1:
        return image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def draw_answer(image: NDArray[np.uint8], result: Segmentation) -> tuple[Any, ...]:
    """Segments with names, groups of the first and last stage, if there are any, and the legend."""
    assert result.mask is not None
    shown = ShownImage(image, {'prediction': result.mask}, result.groups or {})
    size = fit_size(image.shape[:2], PICTURE_SIDE, SHORTEST_PICTURE_SIDE)
    present = [result.classes.index(name) for name in result.areas]
    colours = separate(class_colours(result.classes), present)
    names = {label: result.classes[label] for label in present}
    segments = label_panels(shown, size, colours, names)['prediction']
    groups = list(group_panels(shown, size).values()) if result.groups else [None]
    return segments, groups[0], groups[-1], legend(result, colours)


def legend(result: Segmentation, colours: Colours) -> str:
    """A table of the classes: colour, name, share of the image and mean score."""
    assert result.scores is not None
    rows = []
    for name in sorted(result.classes, key=lambda name: -result.areas.get(name, 0)):
        label = result.classes.index(name)
        colour = 'rgb({}, {}, {})'.format(*colours[label])
        area = result.areas.get(name, 0)
        # the background's score is 0 or 1
        score = f'{result.scores[label]:.2f}' if area and not is_background(name) else '–'
        rows.append(
            f'<tr><td><span class="swatch" style="background: {colour}"></span>'
            f'{html.escape(name)}</td><td class="number">{area:.1%}</td>'
            f'<td class="number">{score}</td></tr>'
        )
    head = '<tr><th>class</th><th class="number">area</th><th class="number">mean score</th></tr>'
    return f'<table class="legend">{head}{"".join(rows)}</table>'


class Question(NamedTuple):
    """What is given to the model, in the order of the page's call."""

    upload: gr.Image
    words: gr.Textbox
    background: gr.Checkbox
    threshold: gr.Slider


class Answer(NamedTuple):
    """What was found, in the order of :func:`segment`."""

    segments: gr.Image
    first_stage: gr.Image
    last_stage: gr.Image
    found: gr.HTML


def build_page(
    inferencer: PGSegInferencer, uploads: UploadFolder, listeners: Listeners
) -> gr.Blocks:
    """The page: upload and words on the left, what was found on the right."""

    def answer(
        path: str | None, words: str, background: bool, threshold: float, request: gr.Request
    ) -> tuple[Any, ...]:
        if not listeners.waits_for(request.session_hash or ''):
            raise gr.Error('Nobody waits for the result.', print_exception=False)
        try:
            uploads.reserve(PICTURE_BYTES)
        except NoRoomError as error:
            raise gr.Error(str(error), print_exception=False) from error
        try:
            return segment(inferencer, uploads, path, words, background, threshold)
        finally:
            uploads.release(PICTURE_BYTES)

    with gr.Blocks(title='Segment by words', delete_cache=(3600, 3600)) as page:
        gr.Markdown(HEADING)
        with gr.Row():
            with gr.Column(scale=2):
                asked = place_question(first_threshold(inferencer))
                button = gr.Button('Segment', variant='primary', elem_id='segment')
                examples = example_buttons()
            with gr.Column(scale=3):
                given = place_answer(inferencer.model.makes_groups)
        asked.background.change(lambda on: gr.update(visible=on), asked.background, asked.threshold)
        gr.on([button.click, asked.words.submit], answer, list(asked), list(given))
        connect_examples(examples, uploads, answer, list(asked), list(given))
    return page.queue(max_size=limits.MAX_WEB_QUEUE, default_concurrency_limit=1)


def first_threshold(inferencer: PGSegInferencer) -> float:
    """Threshold to begin with; a low one for scores of which none is known, as cosines."""
    try:
        return inferencer.default_threshold()
    except ValueError:
        return COSINE_THRESHOLD


def place_question(threshold: float) -> Question:
    """Put what is to be filled in on the page, with the background's threshold to begin with."""
    upload = gr.Image(
        label='image',
        type='filepath',
        image_mode=None,
        sources=['upload', 'clipboard'],
        height=300,
        buttons=['fullscreen'],
        elem_id='upload',
    )
    # Gradio would decode the file itself, and fail without a sentence.
    upload.preprocess = lambda payload: None if payload is None else payload.path
    words = gr.Textbox(
        label='words', placeholder='dog . red car . grass', elem_id='words',
        max_lines=1, info='separated by commas, or by dots and blanks',
    )  # fmt: skip
    background = gr.Checkbox(
        label='background', elem_id='background', info='takes what is like none of the words'
    )
    slider = gr.Slider(
        min(0.05, threshold), 1, threshold, step=0.01, label='threshold',
        info='the higher, the more background', interactive=True, visible=False,
    )  # fmt: skip
    return Question(upload, words, background, slider)


def place_answer(groups: bool) -> Answer:
    """Put the places of pictures and legend on the page, and of groups if there will be some."""

    def picture(label: str, name: str) -> gr.Image:
        return gr.Image(label=label, format='png', buttons=BUTTONS, elem_id=name)

    segments = picture('segments', 'segments')
    found = gr.HTML(elem_id='legend')
    with gr.Row(visible=groups):
        first = picture('groups of the first stage', 'first-stage')
        last = picture('groups of the final stage', 'last-stage')
    return Answer(segments, first, last, found)


def serve(inferencer: PGSegInferencer, uploads: UploadFolder, args: argparse.Namespace) -> None:
    """Serve the page until it is interrupted."""
    os.environ['GRADIO_TEMP_DIR'] = str(uploads.path)  # of uploads, and of pictures that are shown
    listeners = Listeners()
    page = build_page(inferencer, uploads, listeners)
    guard = Middleware(
        Guard,
        hosts=Hosts(args.host, args.allowed_hosts),
        uploads=uploads,
        functions=checks_of(page, uploads),
        listeners=listeners,
    )
    fonts = ['ui-sans-serif', 'system-ui', 'sans-serif']
    page.launch(
        server_name=args.host,
        server_port=args.port,
        share=False,
        ssr_mode=False,
        mcp_server=False,
        max_file_size=uploads.max_file_bytes,
        theme=gr.themes.Default(font=fonts, font_mono=['ui-monospace', 'monospace']),
        css=CSS,
        footer_links=[],
        app_kwargs=dict(middleware=[guard], openapi_url=None, docs_url=None, redoc_url=None),
    )


def main(argv: Sequence[str] | None = None, command: str | None = None) -> None:
    """Serve the page until it is interrupted, and remove the uploads then.

    Args:
        argv: Arguments; those of the process by default.
        command: As for :func:`build_parser`.
    """
    parser = build_parser(command)
    args = parser.parse_args(argv)
    require_port(parser, args.host, args.port)
    cfg = read_chosen_config(parser, args)
    try:
        if set_naming_rule(cfg, args.naming):  # what is published is for the other rule
            cfg.model.decode_head.background_threshold = None
            cfg.background_thresholds = {}
    except ConfigError as error:
        parser.error(str(error))
    if args.pamr is not None:
        cfg.model.test_cfg = {**(cfg.model.get('test_cfg') or {}), 'pamr': args.pamr}
    args.device = find_device(parser, args.device)
    try:
        inferencer = PGSegInferencer(
            cfg,
            args.checkpoint,
            device=args.device,
            trust=args.trust,
            max_pixels=limits.MAX_WEB_PIXELS,
            allow_partial=args.allow_partial,
        )
    except (OSError, RunError, TypeError, ValueError) as error:
        parser.error(str(error))
    signal.signal(signal.SIGTERM, interrupt)
    uploads = UploadFolder(os.environ.get('GRADIO_TEMP_DIR'), round(args.max_file_size * 1e6))
    try:
        serve(inferencer, uploads, args)
    finally:
        uploads.close()


def interrupt(number: int, frame: object) -> None:
    """End as when somebody presses Ctrl-C, so that the uploads are removed."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == '__main__':
    main()
