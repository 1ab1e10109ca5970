"""Training-free methods on CLIP in numpy, head by head, from the formulas alone (docs/clip.md)."""

import math
from typing import Any

import numpy as np

erf = np.vectorize(math.erf)
METHODS: dict[str, tuple[tuple[str, ...], bool]] = {
    'clip': (('qk',), True),
    'maskclip': ((), True),
    'sclip': (('qq', 'kk'), True),
    'clearclip': (('qq',), False),
    'naclip': (('kk',), False),
    'kk': (('kk',), False),
}
"""Whose similarities are softmaxed and added, and whether residual and MLP stay."""


def softmax(x: np.ndarray) -> np.ndarray:
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def bicubic(old: int, new: int, offset: float) -> np.ndarray:
    """(new, old) weights of an axis, its border repeated."""

    def kernel(t: float, a: float = -0.75) -> float:
        t = abs(t)
        if t <= 1:
            return (a + 2) * t**3 - (a + 3) * t**2 + 1
        return a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0

    weights = np.zeros((new, old))
    for i in range(new):
        place = (i + 0.5) * old / (new + offset) - 0.5
        for j in range(math.floor(place) - 1, math.floor(place) + 3):
            weights[i, min(max(j, 0), old - 1)] += kernel(place - j)
    return weights


class Reference:
    """The image tower of a CLIP with the entries of a state dict, in float64."""

    def __init__(self, weights: dict[str, Any], heads: int, quick_gelu: bool) -> None:
        self.w = {name: np.asarray(value, np.float64) for name, value in weights.items()}
        self.heads = heads
        self.quick_gelu = quick_gelu
        self.depth = 1 + max(int(name.split('.')[2]) for name in self.w if 'resblocks' in name)

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * self.w[f'{name}.weight'] + self.w[f'{name}.bias']

    def linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self.w[f'{name}.weight'].T + self.w[f'{name}.bias']

    def embed(self, image: np.ndarray, offset: float) -> tuple[np.ndarray, int, int]:
        kernel = self.w['conv1.weight']
        p = kernel.shape[-1]
        h, w = (length // p for length in image.shape[1:])
        patches = image[:, : h * p, : w * p].reshape(3, h, p, w, p).transpose(1, 3, 0, 2, 4)
        x = patches.reshape(h * w, -1) @ kernel.reshape(len(kernel), -1).T
        positions = self.w['positional_embedding']
        n = round(math.sqrt(len(positions) - 1))
        grid = positions[1:].reshape(n, n, -1)
        if (h, w) != (n, n):
            rows, columns = bicubic(n, h, offset), bicubic(n, w, offset)
            grid = np.einsum('ia,jb,abc->ijc', rows, columns, grid)
        x = np.concatenate([self.w['class_embedding'][None], x])
        x = x + np.concatenate([positions[:1], grid.reshape(h * w, -1)])
        return self.norm(x, 'ln_pre'), h, w

    def mlp(self, x: np.ndarray, block: str) -> np.ndarray:
        y = self.linear(self.norm(x, f'{block}.ln_2'), f'{block}.mlp.c_fc')
        if self.quick_gelu:
            y = y / (1 + np.exp(-1.702 * y))
        else:
            y = y * (1 + erf(y / math.sqrt(2))) / 2
        return x + self.linear(y, f'{block}.mlp.c_proj')

    def attend(
        self, x: np.ndarray, block: str, pairs: tuple[str, ...], bonus: np.ndarray
    ) -> np.ndarray:
        y = self.norm(x, f'{block}.ln_1')
        y = y @ self.w[f'{block}.attn.in_proj_weight'].T + self.w[f'{block}.attn.in_proj_bias']
        width = x.shape[-1] // self.heads
        heads = []
        for head in range(self.heads):
            q, k, v = (
                part[:, head * width : (head + 1) * width] for part in np.split(y, 3, axis=-1)
            )
            sides = {'q': q, 'k': k}
            maps = [
                softmax(sides[a] @ sides[b].T / math.sqrt(width) + bonus) for a, b in pairs
            ] or [np.eye(len(x))]
            heads.append(sum(maps) @ v)
        return self.linear(np.concatenate(heads, axis=-1), f'{block}.attn.out_proj')

    def features(
        self,
        image: np.ndarray,
        method: str,
        residual: bool | None = None,
        std: float | None = None,
        layers: int = 1,
        offset: float = 0.0,
    ) -> np.ndarray:
        """(h, w, D) of an image (3, H, W)."""
        x, h, w = self.embed(image, offset)
        pairs, keeps = METHODS[method]
        keeps = keeps if residual is None else residual
        std = 5.0 if method == 'naclip' and std is None else std
        bonus = np.zeros((len(x), len(x)))
        if std is not None:
            at = np.stack(np.meshgrid(np.arange(h), np.arange(w), indexing='ij'), -1).reshape(-1, 2)
            distance = ((at[:, None] - at) ** 2).sum(-1)
            bonus[1:, 1:] = np.exp(-distance / (2 * std**2))
        for i in range(self.depth):
            block = f'transformer.resblocks.{i}'
            replaced = i >= self.depth - layers
            seen = self.attend(
                x, block, pairs if replaced else ('qk',), bonus if replaced else 0 * bonus
            )
            last = i == self.depth - 1
            x = seen if last and not keeps else self.mlp(x + seen, block)
        return (self.norm(x, 'ln_post') @ self.w['proj'])[1:].reshape(h, w, -1)
