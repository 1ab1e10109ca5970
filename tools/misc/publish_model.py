"""Make a checkpoint of training ready for others: weights and what is needed to use them.

    python tools/misc/publish_model.py work_dirs/pgseg/epoch_30.pth pgseg.pth

writes pgseg-HASH.pth, with the first eight digits of the file's SHA-256. Optimizer, schedules, log,
random and data states are left out, and so are paths of the machine that it was trained on, but for
those in the config (--no-config leaves that out, too). --text-free also leaves out what embeds
texts, for a model that has its class embeddings from a file (projects/text_free).
"""

import argparse
import io
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pgseg_mm.checkpoints.push import refuse_not_finite
from pgseg_mm.cli.checkpoint_sources import require_checkpoint
from pgseg_mm.serialization.loading import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    write_atomically,
)

KEPT_META = ('cfg', 'dataset_meta', 'epoch', 'iter', 'mmengine_version', 'pgseg_mm')
"""What of a checkpoint's meta information is kept."""
AVERAGE = 'ema_state_dict'
TEXT_PARTS = ('text_encoder.', 'decode_head.text_projector.', 'decode_head.text_prototypes.')
"""Entries of what embeds texts."""


def choose_weights(checkpoint: Checkpoint, which: str) -> dict[str, Tensor]:
    """Weights to publish: where training averaged them, the average is in the first place.

    Raises:
        CheckpointError: If the average is asked for, or what is beside it, and there is none.
    """
    beside = checkpoint.extras.get(AVERAGE)
    if which == 'as-saved':
        return checkpoint.state_dict
    if not isinstance(beside, dict):
        raise CheckpointError(
            f'--weights {which} needs a checkpoint of a run with EMAHook, and this one has no '
            f'{AVERAGE}'
        )
    if which == 'average':
        return checkpoint.state_dict
    prefix = 'module.'
    live = {key[len(prefix) :]: beside[key] for key in beside if key.startswith(prefix)}
    if live.keys() != checkpoint.state_dict.keys():
        raise CheckpointError(f'{AVERAGE} has other names than the state dict')
    return live


def publishable(checkpoint: Checkpoint, which: str, with_config: bool) -> dict[str, Any]:
    """Content of the file to publish.

    Raises:
        CheckpointError: If a weight is NaN or infinite, or the choice is not there.
    """
    weights = choose_weights(checkpoint, which)
    refuse_not_finite(weights)
    meta = checkpoint.extras.get('meta')
    meta = meta if isinstance(meta, dict) else {}
    kept = {key: meta[key] for key in KEPT_META if key in meta and (with_config or key != 'cfg')}
    return {'state_dict': {k: v.detach().clone() for k, v in weights.items()}, 'meta': kept}


def without_text(content: dict[str, Any]) -> dict[str, Any]:
    """The same without the entries of what embeds texts, and without the config that has it.

    Raises:
        CheckpointError: If there is no such entry.
    """
    weights = content['state_dict']
    kept = {name: value for name, value in weights.items() if not name.startswith(TEXT_PARTS)}
    if len(kept) == len(weights):
        raise CheckpointError('--text-free needs a checkpoint with a text encoder; it has none')
    meta = {key: value for key, value in content['meta'].items() if key != 'cfg'}
    return {'state_dict': kept, 'meta': meta}


def publish(
    path: str, out: Path, which: str, with_config: bool, trust: bool, text_free: bool = False
) -> Path:
    """Write the file to publish.

    Returns:
        Its path, with the hash.

    Raises:
        CheckpointError: If the checkpoint cannot be read, or should not be published.
    """
    checkpoint = load_checkpoint(path, trust)
    content = publishable(checkpoint, which, with_config)
    if text_free:
        content = without_text(content)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    data = buffer.getvalue()
    try:
        torch.load(io.BytesIO(data), weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f'the meta information of {path} is not made of plain values, and others could not '
            f'load it safely: {str(error).splitlines()[0]}'
        ) from error
    name = out.stem if out.suffix in ('.pth', '.pt') else out.name
    final = out.with_name(f'{name}-{sha256(data).hexdigest()[:8]}.pth')
    write_atomically(final, lambda temporary: temporary.write_bytes(data))
    return final


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('checkpoint', help='checkpoint of a training run')
    parser.add_argument('out', type=Path, help='file to write; the hash is put into its name')
    parser.add_argument(
        '--weights',
        choices=['as-saved', 'average', 'live'],
        default='as-saved',
        help='of a run with EMAHook: its moving average, which is what such a run saves as its '
        'weights, or the live weights beside it (default: %(default)s)',
    )
    parser.add_argument('--no-config', action='store_true', help='leave out the config')
    parser.add_argument(
        '--text-free',
        action='store_true',
        help='leave out the text encoder and its projector, and the config, which has them',
    )
    parser.add_argument(
        '--trust', action='store_true', help='run whatever code the checkpoint may hold'
    )
    args = parser.parse_args()
    require_checkpoint(parser, args.checkpoint)
    if args.out.is_dir():
        parser.error(f'{args.out} is a folder; give a file in it, such as {args.out / "pgseg.pth"}')
    try:
        final = publish(
            args.checkpoint,
            args.out,
            args.weights,
            not args.no_config,
            args.trust,
            args.text_free,
        )
    except (CheckpointError, OSError) as error:
        parser.exit(2, f'{parser.prog}: error: {error}\n')
    print(f'{final}: {final.stat().st_size / 2**20:.1f} MiB')


if __name__ == '__main__':
    main()
