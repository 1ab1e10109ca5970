"""A minute of the fuzzers; ``make fuzz`` runs them for as long as you like."""

import json
import sys
from pathlib import Path

import pytest

from .harness import fuzz, targets

FOUND = json.loads(Path(__file__).with_name('found.json').read_text())
"""Target, seed and case of what was found and mended."""

pytestmark = pytest.mark.skipif(sys.platform != 'linux', reason='looks at /proc')


@pytest.mark.parametrize('target', targets())
def test_nothing_is_found_in_ten_seconds(target):
    report = fuzz(target, seed=0, seconds=10)

    assert report.findings == []
    assert report.cases > 20


@pytest.mark.parametrize(('target', 'seed', 'case'), FOUND)
def test_what_was_found_stays_mended(target, seed, case):
    report = fuzz(target, seed, only=case)

    assert report.cases == 1, f'the cases of {target} have changed: note another one'
    assert report.findings == []


def test_the_harness_notices_what_it_must():
    report = fuzz('misbehaving', seconds=200, seconds_per_case=5)
    found = {finding.case.split('::')[0]: finding.what for finding in report.findings}

    assert report.outcomes['accepted'] >= 1 and report.outcomes['refused'] >= 1
    expected = {
        'fails': 'KeyError',
        'deletes': 'os.remove',
        'reads': 'open /etc/hostname',
        'writes': 'open /dev/full to write',
        'connects': 'socket.connect',
        'starts': 'subprocess.Popen',
        'imports': 'ModuleNotFoundError',
        'hoards': 'MB of memory',
        'hangs': 'took more than 5 s',
        'dies': 'exit status 3',
        'babbles': 'a message of 2997 characters',
        'executes': 'exec ',
    }
    assert set(found) == set(expected)
    assert {case: expected[case] for case in found if expected[case] in found[case]} == expected
