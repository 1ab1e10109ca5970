"""Prompt templates: the sentences a class name is put into before it is embedded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from string import Formatter

from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES

from pgseg_mm import limits
from pgseg_mm.messages import described


def _as_text(templates: Sequence[Callable[[str], str]]) -> tuple[str, ...]:
    return tuple(template('{}') for template in templates)


PROMPT_TEMPLATES: dict[str, tuple[str, ...]] = {
    'simple': ('a photo of a {}.',),
    'subset7': _as_text(SIMPLE_IMAGENET_TEMPLATES),
    'openai80': _as_text(OPENAI_IMAGENET_TEMPLATES),
    'tcl': (  # those seven, but for one word of the second, and two more
        'itap of a {}.',
        'a bad photo of a {}.',
        'a origami {}.',
        'a photo of the large {}.',
        'a {} in a video game.',
        'art of the {}.',
        'a photo of the small {}.',
        'a photo of many {}.',
        'a photo of {}s.',
    ),
}
"""Named template sets; ``template.format(word)`` is the prompt of a word."""


def get_templates(templates: str | Sequence[str]) -> tuple[str, ...]:
    """Look up a named set of templates, or check templates given as text.

    Args:
        templates: A name in :data:`PROMPT_TEMPLATES`, or the templates themselves, each with ``{}``
            where the class name belongs.

    Returns:
        The templates, each usable as ``template.format(word)``.

    Raises:
        ValueError: The name is unknown, the sequence is empty, or a template cannot be filled with
            exactly the class name.
    """
    if isinstance(templates, str):
        if templates not in PROMPT_TEMPLATES:
            raise ValueError(
                f'Unknown template set {templates!r}; choose one of {sorted(PROMPT_TEMPLATES)} '
                "or give a list of templates such as ['a photo of a {}.']."
            )
        return PROMPT_TEMPLATES[templates]
    if len(templates) > limits.MAX_TEMPLATES:
        raise ValueError(
            f'There are {len(templates)} prompt templates; give {limits.MAX_TEMPLATES} at most.'
        )
    if not templates:
        raise ValueError("No prompt template given; give at least one, such as 'a photo of a {}.'.")
    for index, template in enumerate(templates):
        _check_template(index, template)
    return tuple(templates)


def _check_template(index: int, template: str) -> None:
    if not isinstance(template, str) or len(template) > limits.MAX_TEMPLATE_LETTERS:
        raise ValueError(
            f'Template {index} is {described(template)}; expected a text of '
            f"{limits.MAX_TEMPLATE_LETTERS} letters at most, such as 'a photo of a {{}}.'."
        )
    try:
        fields = [field for _, *field in Formatter().parse(template) if field[0] is not None]
    except ValueError:
        fields = [['braces that do not match']]
    if not fields:
        raise ValueError(
            f"Template {index}, {template!r}, has no '{{}}'; "
            "write '{}' where the class name belongs."
        )
    if fields != [['', '', None]]:
        raise ValueError(
            f"Template {index}, {template!r}, must hold one '{{}}' for the class name and no other "
            "braces; write '{{' or '}}' for a brace that is part of the text."
        )
