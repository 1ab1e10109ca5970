"""Run the fuzzers of some targets, or of all, and say what they found."""

import argparse
import sys
from pathlib import Path

folder = Path(__file__).resolve().parent
sys.path[:0] = [str(path) for path in (folder.parent / 'helpers', *folder.parents[:2])]

from fuzz.harness import REFUSED, fuzz, targets  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(prog='python tests/fuzz', description=__doc__)
    parser.add_argument('targets', nargs='*', metavar='TARGET', help=', '.join(targets()))
    parser.add_argument('--all', action='store_true', help='all targets, one after another')
    parser.add_argument('--seconds', type=float, default=60, help='at most, for each target')
    parser.add_argument('--cases', type=int, help='at most, for each target')
    parser.add_argument('--seed', type=int, default=0, help='which cases')
    parser.add_argument('--keep', type=Path, metavar='FOLDER', help='keeps payloads of findings')
    args = parser.parse_args()
    names = targets() if args.all else args.targets
    unknown = set(names) - set(targets())
    if unknown or not names:
        parser.error(f'expected one of {", ".join(targets())}, or --all')
    failed = False
    for name in names:
        report = fuzz(name, args.seed, args.cases, args.seconds, args.keep)
        failed = failed or bool(report.findings) or not report.cases
        print(
            f'{name}: {report.cases} cases, {report.outcomes[REFUSED]} refused, '
            f'{report.cases - report.outcomes[REFUSED] - len(report.findings)} accepted, '
            f'{len(report.findings)} findings, {report.seconds:.0f} s, '
            f'{report.peak_growth >> 20} MB of memory at most'
        )
        for finding in report.findings:
            print(f'  {finding}')
    sys.exit(int(failed))


if __name__ == '__main__':
    main()
