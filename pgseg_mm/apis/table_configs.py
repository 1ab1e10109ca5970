"""Configs of the table of benchmarks: a model, the data of a benchmark, and a protocol."""

from __future__ import annotations

import argparse
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from pgseg_mm.cli.config_files import ConfigError, override, read_config_file
from pgseg_mm.cli.protocol_notes import notes_on, scores_of
from pgseg_mm.cli.protocols import (
    Protocol,
    ProtocolSettings,
    apply_protocol,
    deciding_threshold,
    settings_of,
    with_threshold,
)
from pgseg_mm.cli.run_configs import apply_settings, require_own_weights
from pgseg_mm.messages import first_of

from .naming_choice import naming_of, set_naming_rule

PUBLISHED_PROTOCOL = 'published'
"""The protocol of GroupViT and PGSeg on all benchmarks, with the thresholds of the config."""
OWN_THRESHOLDS = 'background_thresholds'
TRAINING_KEYS = (
    'train_dataloader',
    'train_cfg',
    'optim_wrapper',
    'param_scheduler',
    'auto_scale_lr',
)
EVALUATION_KEYS = ('benchmark', 'test_dataloader', 'test_evaluator', 'test_cfg', 'custom_hooks')
VALIDATION_KEYS = ('val_dataloader', 'val_evaluator', 'val_cfg')


def parse_thresholds(given: list[str], known: Collection[str]) -> dict[str, float]:
    """Thresholds by benchmark.

    Raises:
        ValueError: One is not written NAME=VALUE, with a benchmark and a positive number.
    """
    thresholds = {}
    for item in given:
        name, _, value = item.partition('=')
        try:
            thresholds[name] = float(value)
        except ValueError:
            raise ValueError(f'--thresholds takes NAME=VALUE, got {item!r}') from None
        if not 0 < thresholds[name] < math.inf:
            raise ValueError(f'a background threshold must be positive, got {item!r}')
        if name not in known:
            raise ValueError(f'--thresholds: no {name} is evaluated, but {", ".join(known)}')
    return thresholds


def benchmark_config(config: Config, benchmark: Config) -> Config:
    """The model of a config on a benchmark, whose data, metric and words are taken.

    Args:
        config: Config with a model.
        benchmark: Config of ``configs/pgseg/zero_shot``.
    """
    cfg = Config(config.to_dict())
    for key in (*TRAINING_KEYS, *VALIDATION_KEYS, 'protocol', 'applied_protocol'):
        cfg.pop(key, None)
    for key in EVALUATION_KEYS:
        cfg[key] = benchmark[key]
    if 'class_embed_cache' in benchmark.model:
        cfg.model.class_embed_cache = benchmark.model.class_embed_cache
    return cfg


def set_published_threshold(
    cfg: Config, benchmark: Config, name: str, thresholds: dict[str, float]
) -> None:
    """Give the head the threshold of a benchmark, if it has a background class.

    Args:
        cfg: Config with the model, and ``background_thresholds`` if it has any; changed in place.
        benchmark: Config of ``configs/pgseg/zero_shot``.
        name: Name of the benchmark.
        thresholds: Background thresholds by benchmark that go before those of the config.

    Raises:
        ValueError: The benchmark has a background class and nobody says its threshold.
    """
    threshold = None
    if benchmark.model.decode_head.get('background_threshold') is not None:
        known = {**(cfg.get('background_thresholds') or {}), **thresholds}
        if name not in known:
            raise ValueError(
                f'{name} has a background class, and neither background_thresholds of the config '
                f'nor --thresholds says its threshold; add --thresholds {name}=VALUE '
                '(tools/analysis_tools/sweep_threshold.py finds one on a split)'
            )
        threshold = known[name]
    elif name in thresholds:
        raise ValueError(f'{name} has no background class, so there is no threshold; leave it out')
    cfg.model.decode_head.background_threshold = threshold


def configure(
    name: str,
    protocol: Protocol | None,
    args: argparse.Namespace,
    thresholds: dict[str, float],
    benchmarks: Mapping[str, Path],
) -> tuple[Config, ProtocolSettings]:
    """Config of a benchmark by a protocol (``None``: as published), and what is in force there.

    Args:
        name: Name of the benchmark.
        protocol: The protocol.
        args: ``config``, ``cfg_options`` and ``naming`` of the command line.
        thresholds: Background thresholds that were given, by benchmark.
        benchmarks: Config of each benchmark.

    Raises:
        ValueError: If a threshold lacks, or the protocol cannot be applied.
    """
    config = read_config_file(args.config)
    override(config, _options(args, OWN_THRESHOLDS))
    if not config.get('model'):
        raise ConfigError(f'config {args.config} has no model to evaluate')
    benchmark = read_config_file(benchmarks[name])
    cfg = benchmark_config(config, benchmark)
    set_naming_rule(cfg, args.naming)
    notes: tuple[str, ...] = ()
    if protocol is None:
        set_published_threshold(cfg, benchmark, name, thresholds)
    else:
        settings = with_threshold(protocol.settings(name), thresholds.get(name))
        apply_protocol(cfg, settings)
        notes = settings.notes if name in thresholds else notes_on(cfg, settings)
    apply_settings(cfg, args.cfg_options)
    other_rule = naming_of(cfg) != naming_of(config)
    if protocol is not None and settings.scores is not None:
        other_rule = other_rule and scores_of(cfg) != settings.scores
    if other_rule and deciding_threshold(cfg)[0] is not None and name not in thresholds:
        raise ValueError(
            f'the threshold that is known for {name} is for scores of another naming rule; add '
            f'--thresholds {name}=VALUE (tools/analysis_tools/sweep_threshold.py --naming '
            f'{naming_of(cfg)} finds one on a split), or leave {name} out by --benchmarks'
        )
    return cfg, settings_of(cfg, PUBLISHED_PROTOCOL if protocol is None else protocol.name, notes)


def _options(args: argparse.Namespace, prefix: str) -> dict[str, Any]:
    given = args.cfg_options or {}
    return {name: value for name, value in given.items() if name.startswith(prefix)}


def with_options(args: argparse.Namespace) -> Config:
    """The config with what ``--cfg-options`` says of its model."""
    config = read_config_file(args.config)
    override(config, _options(args, 'model.'))
    return config


def check_all(
    chosen: list[tuple[str, Protocol | None]],
    args: argparse.Namespace,
    thresholds: dict[str, float],
    benchmarks: Mapping[str, Path],
) -> None:
    """Refuse what would stop the last benchmark before the first is evaluated.

    Args:
        chosen: Benchmarks and protocols.
        args: As :func:`configure` takes it.
        thresholds: The same.
        benchmarks: The same.

    Raises:
        ValueError: If a threshold is missing, is for something else by one of several protocols, or
            a protocol cannot be applied.
    """
    if args.checkpoint is None:
        require_own_weights(with_options(args), args.allow_partial)
    faults: dict[str, None] = {}
    kinds: dict[str, set[str | None]] = {}
    for name, protocol in chosen:
        if protocol is not None and protocol.benchmarks.get(name) is None:
            continue
        try:
            cfg, _ = configure(name, protocol, args, thresholds, benchmarks)
        except ValueError as error:
            faults[str(error)] = None
        else:
            kinds.setdefault(name, set()).add(deciding_threshold(cfg)[0])
    for name in thresholds:
        means = ' and '.join(sorted(map(str, kinds.get(name, ()))))
        if len(kinds.get(name, ())) > 1:
            faults[f'{name} of --thresholds would be {means}; give those protocols alone'] = None
    if faults:
        raise ValueError(first_of(list(faults), separator='; '))
