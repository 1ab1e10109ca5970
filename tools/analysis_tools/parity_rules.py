"""Seeds to arrays: the weights, images and token ids behind the parity files."""

import zlib

import numpy as np


def weight(name: str, shape: tuple, seed: int) -> np.ndarray:
    """Value of one entry of the release's state dict, float64 (int64 for counters)."""
    rng = np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32)
    noise = rng.standard_normal(shape) if shape else np.float64(rng.standard_normal())
    last = name.rsplit('.', 1)[-1]
    if last == 'num_batches_tracked':
        return np.array(7, dtype=np.int64)
    if last == 'running_var':
        return np.abs(noise) * 0.1 + 0.9
    if last == 'running_mean':
        return noise * 0.1
    if name.endswith('logit_scale'):
        return np.log(50.0) + 0.1 * noise
    if last == 'mu':
        return noise / np.linalg.norm(noise, axis=-1 if shape[-1] > 1 else 1, keepdims=True)
    if len(shape) == 1 and last == 'weight':
        return 1 + 0.1 * noise
    if last == 'bias' or len(shape) == 1:
        return 0.05 * noise
    if 'embed' in name and 'patch_embed' not in name:
        return 0.3 * noise
    if 'group_token' in name:
        return noise
    if 'positional' in name:
        return 0.3 * noise
    fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 1
    return noise * (1.5 / np.sqrt(fan_in))


def clip_weight(name: str, shape: tuple, seed: int) -> np.ndarray:
    """Value of one entry of a CLIP tower's state dict, by open_clip's name, float64.

    As :func:`weight`, but attention's input projection is halved: soft attention tells methods
    apart.
    """
    value = weight(name, shape, seed)
    return 0.5 * value if name.endswith('in_proj_weight') else value


def image(seed: int, shape: tuple, cell: int) -> np.ndarray:
    """A (B, 3, H, W) image, already normalised; cell = training size // 4 for the release."""
    rng = np.random.RandomState(seed)
    b, c, h, w = shape
    coarse = rng.standard_normal((b, c, -(-h // cell), -(-w // cell)))
    blocks = coarse.repeat(cell, 2).repeat(cell, 3)[:, :, :h, :w]
    return 1.5 * blocks + 0.25 * rng.standard_normal(shape)


def tokens(seed: int, num_texts: int, length: int, eot_id: int) -> np.ndarray:
    """(num_texts, length) token ids: start, 1 to 10 words, end, zeros."""
    rng = np.random.RandomState(seed)
    ids = np.zeros((num_texts, length), np.int64)
    for row in ids:
        words = rng.randint(1, min(10, length - 2) + 1)
        row[0] = eot_id - 1
        row[1 : 1 + words] = rng.randint(1, eot_id - 1, words)
        row[1 + words] = eot_id
    return ids
