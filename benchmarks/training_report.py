"""The results of training_step.py as Markdown."""

from pathlib import Path
from typing import Any

from pgseg_mm.cli.provenance import describe

from .groupvit_peer import PEER
from .timing import show_ratio
from .training_contestants import OPTIONS

BEGIN_MARK = '<!-- measured by benchmarks.training_step -->'
END_MARK = '<!-- end of what was measured -->'


def report(result: dict[str, Any]) -> str:
    """Tables of time and memory, of profiles, and how they were made."""
    settings = result['settings']
    lines = [
        f'{settings["batch"]} images, {settings["rounds"]} rounds, device: {settings["device"]}, '
        f'threads: {settings["threads"]}. Ratios are medians of the ratios within a round, with '
        'their middle half in brackets; below 1 is faster.',
        '',
        *_steps(result['times'], result['memory'], settings),
        '',
        f'"x {PEER}" compares with its step on captions of the same length, in the same precision '
        f'and with the same AdamW, never compiled; the last column with its step on '
        f'{settings["tokens"]} tokens.',
        *(
            [
                '',
                'Peak memory is that of '
                + (
                    'the whole process, libraries and model included.'
                    if settings['device'] == 'cpu'
                    else 'the allocator.'
                ),
            ]
            if result['memory']
            else []
        ),
    ]
    for profile in result['profiles']:
        lines += ['', *_profile(profile)]
    return '\n'.join([*lines, '', *describe(result), ''])


def place(text: str, page: Path) -> str:
    """The page with the text between the two lines that mark its place; the text if it is new."""
    text = f'{BEGIN_MARK}\n\n{text}\n{END_MARK}\n'
    if not page.is_file():
        return text
    old = page.read_text(encoding='utf-8')
    if BEGIN_MARK not in old or END_MARK not in old:
        raise SystemExit(
            f'{page} has no lines {BEGIN_MARK} and {END_MARK}, between which the tables go'
        )
    return old[: old.index(BEGIN_MARK)] + text + old[old.index(END_MARK) + len(END_MARK) + 1 :]


def _steps(
    rows: list[dict[str, Any]], memory: list[dict[str, Any]], settings: dict[str, Any]
) -> list[str]:
    peaks = {(row['model'], row['option'], row['tokens']): row['peak_mib'] for row in memory}
    lines = [
        f'| Model | Step | Tokens | ms | peak, MiB | x plain | x {PEER} '
        f'| the same, {settings["tokens"]} tokens |',
        '| --- | --- | --: | --: | --: | --: | --: | --: |',
    ]
    for row in rows:
        mib = peaks.get((row['model'], row['option'], row['tokens']))
        lines.append(
            f'| {row["model"]} | {OPTIONS[row["option"]].label} | {row["tokens"]} '
            f'| {row["milliseconds"]:.0f} | {"" if mib is None else f"{mib:.0f}"} '
            f'| {show_ratio(row["times_plain"])} | {show_ratio(row["times_peer"])} '
            f'| {show_ratio(row["times_peer_untrimmed"])} |'
        )
    return lines


def _profile(profile: dict[str, Any]) -> list[str]:
    total = profile['total_seconds']
    lines = [
        f'{profile["model"]}, a plain step, {total:.2f} s in operations:',
        '',
        '| Operation | % | ms | calls |',
        '| --- | --: | --: | --: |',
    ]
    lines += [
        f'| `{entry["name"]}` | {100 * entry["seconds"] / total:.1f} '
        f'| {1e3 * entry["seconds"]:.0f} | {entry["calls"]} |'
        for entry in profile['operations']
    ]
    return lines
