"""Fills the compiler's cache for the stage ``step``, while others do not mind."""

from __future__ import annotations

import torch

from .flops import TOKENS
from .stage import Piece, Stage
from .step import StepContestant, settings_of


def warm_up(stage: Stage, option: str) -> Piece:
    """Compile the steps of one option; other models find the same blocks in the cache."""
    StepContestant('PGSeg', option, settings_of(stage, stage.size(256, 4)), TOKENS).warm_up(1)
    torch.cuda.empty_cache()
    return Piece('compiled')


def main(stage: Stage) -> None:
    for option in ('bf16-compile', 'fp16-compile'):
        stage.run(option, lambda option=option: warm_up(stage, option))


if __name__ == '__main__':
    main(Stage.from_command_line())
