"""The check of a whole run before its first step."""

from pgseg_mm.cli.folders import check_space, check_writable, check_writable_file
from pgseg_mm.errors import PreflightError

from .building import build_runner, telling
from .pretrained import check_pretrained
from .rehearsal import rehearse_validation
from .run import before_test, before_train, build_loops, build_test_loop
from .steps import (
    check_batches,
    check_evaluated,
    check_length,
    check_npr_begin,
    check_readers,
    check_steps,
)
from .words import check_metric, check_words

__all__ = [
    'PreflightError',
    'before_test',
    'before_train',
    'build_loops',
    'build_runner',
    'build_test_loop',
    'check_batches',
    'check_evaluated',
    'check_length',
    'check_metric',
    'check_npr_begin',
    'check_pretrained',
    'check_readers',
    'check_space',
    'check_steps',
    'check_words',
    'check_writable',
    'check_writable_file',
    'rehearse_validation',
    'telling',
]
