"""Embed the words of a vocabulary once, for a model that then needs no text tower.

    python tools/misc/embed_vocabulary.py CONFIG CHECKPOINT --vocabulary voc21 --out embeds.npy

The file goes into the head: decode_head=dict(class_embeds='embeds.npy'), see projects/text_free.
Where the config sets background_threshold or background_score, class 0 must be the background; it
has no embedding. Classes of several words are written to an .npz file.
"""

import argparse
from pathlib import Path

import numpy as np

from pgseg_mm.apis.model import build_with_weights
from pgseg_mm.cli.arguments import add_model_options, check_output, find_device
from pgseg_mm.cli.checkpoint_sources import SOURCES_OR_NONE
from pgseg_mm.cli.run_configs import read_model_config
from pgseg_mm.errors import RunError
from pgseg_mm.models import OpenVocabSegmentor
from pgseg_mm.serialization.loading import CheckpointError
from pgseg_mm.text.templates import PROMPT_TEMPLATES, get_templates
from pgseg_mm.text.vocabulary import Vocabulary
from pgseg_mm.text.words import resolve


def write_embeds(model: OpenVocabSegmentor, vocabulary: Vocabulary, out: Path) -> tuple[int, int]:
    """Embed a vocabulary and write the file.

    Args:
        model: Model with a text encoder.
        vocabulary: The classes.
        out: An ``.npy`` file, for classes of one word each, or an ``.npz`` file, which also names
            the classes.

    Returns:
        Number of words, and channels of their embeddings.

    Raises:
        ValueError: If the file is of another type, or cannot hold classes of several words.
    """
    if out.suffix not in ('.npy', '.npz'):
        raise ValueError(f'--out must be a .npy or .npz file, got {out}')
    model.set_vocabulary(vocabulary)  # complains if the background is not in its place
    words, labels = vocabulary.labelled_words(model.skips_background)
    if out.suffix == '.npy' and len(set(labels)) < len(labels):
        raise ValueError(
            f'{len(words)} words name {len(set(labels))} classes, which a .npy file cannot tell; '
            f'use --out {out.with_suffix(".npz")}'
        )
    embeds = model.embed_words(words).cpu().numpy()
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == '.npy':
        np.save(out, embeds)
    else:
        names = np.array(vocabulary.names)
        np.savez(out, embeds=embeds, class_index=np.array(labels), classes=names)
    return embeds.shape


def parse_arguments() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config of a model with a text encoder')
    parser.add_argument('checkpoint', help=f'its weights: {SOURCES_OR_NONE}')
    words = parser.add_mutually_exclusive_group(required=True)
    words.add_argument(
        '--vocabulary',
        help='name of a vocabulary that comes with the package, such as voc21, or a text file with '
        'one class a line, synonyms separated by commas',
    )
    words.add_argument('--classes', nargs='+', metavar='NAME', help='class names in label order')
    parser.add_argument(
        '--templates',
        nargs='+',
        metavar='TEMPLATE',
        help=f'one of {", ".join(PROMPT_TEMPLATES)}, or templates with a {{}} each (default: the '
        "config's)",
    )
    parser.add_argument('--out', type=Path, default=Path('class_embeds.npy'))
    parser.add_argument('--device', default='cpu')
    add_model_options(parser)
    return parser, parser.parse_args()


def main() -> None:
    parser, args = parse_arguments()
    cfg = read_model_config(parser, args, or_none=True)
    args.device = find_device(parser, args.device)
    if args.out.suffix in ('.npy', '.npz'):
        check_output(parser, args.out)
    if args.templates is not None:
        named = len(args.templates) == 1 and args.templates[0] in PROMPT_TEMPLATES
        cfg.model.templates = args.templates[0] if named else args.templates
    try:
        get_templates(cfg.model.get('templates', 'simple'))
        # these are names of labels, in which a comma divides nothing
        names = args.classes if args.vocabulary is None else args.vocabulary
        vocabulary = resolve(vocabulary=names)
        if 'text_encoder' not in cfg.model:
            raise ValueError(
                f'{args.config} has no text encoder to embed words with: its model is a '
                f'{cfg.model.type}; give the config of the PGSeg that it was made from'
            )
        model = build_with_weights(cfg, args.checkpoint, args.trust, args.allow_partial)
        words, channels = write_embeds(model.to(args.device), vocabulary, args.out)
    except (CheckpointError, FileNotFoundError, RunError, ValueError) as error:
        parser.exit(2, f'{parser.prog}: error: {error}\n')
    background = ', the background left to its threshold' if model.skips_background else ''
    print(
        f'{args.out}: {words} words of {len(vocabulary)} classes{background}, {channels} channels'
    )


if __name__ == '__main__':
    main()
