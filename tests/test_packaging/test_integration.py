"""What the package changes outside of itself is changed in integration.py alone."""

import ast
import logging
import os
import re
import sys
import warnings
from pathlib import Path

import pytest

from pgseg_mm import integration

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / 'pgseg_mm'
RANDOM_NUMBERS = {
    'datasets/sampling/random_state.py': 'that is what it is for',
    'checkpoints/release.py': 'within torch.random.fork_rng, which puts them back',
}
"""Modules that may change the state of the process's random numbers, and why."""
CHANGES = re.compile(
    r"""os\.(_exit|putenv|unsetenv|umask|chdir)
    |os\.environ\.(setdefault|update|pop|clear)
    |sys\.path\.\w+
    |sys\.set\w+
    |(atexit|faulthandler|resource\.setrlimit|socket\.setdefaulttimeout)\b.*
    |signal\.(signal|pthread_sigmask|alarm|setitimer|set_wakeup_fd)
    |warnings\.(simplefilter|filterwarnings|resetwarnings)
    |logging\.(disable|captureWarnings|basicConfig|setLoggerClass|addLevelName)
    |(\w+\.)*(register_backend|register_scheme|set_start_method|set_sharing_strategy)
    |torch\.(set_(?!rng_state)\w+|use_deterministic_algorithms|backends\..*|manual_seed)
    |cv2\.set\w+
    |random\.seed|np\.random\.(seed|set_state)|random\.setstate|torch\.set_rng_state""",
    re.VERBOSE,
)
"""Calls that change the process or another package."""


def is_own(node):
    return node.level > 0 or node.module.split('.')[0] == 'pgseg_mm'


def foreign_names(tree):
    """Names that a module imports from elsewhere than this package."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {(alias.asname or alias.name).split('.')[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not is_own(node):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def root_of(target):
    while isinstance(target, ast.Attribute | ast.Subscript):
        target = target.value
    return target.id if isinstance(target, ast.Name) else None


def changed_targets(node):
    if isinstance(node, ast.Assign | ast.Delete):
        return [t for t in node.targets if isinstance(t, ast.Attribute | ast.Subscript)]
    if isinstance(node, ast.AugAssign | ast.AnnAssign):
        return [node.target] if isinstance(node.target, ast.Attribute | ast.Subscript) else []
    return []


def is_forced(call):
    """Whether a component takes a name in a registry from another one."""
    return any(
        word.arg == 'force' and not (isinstance(word.value, ast.Constant) and not word.value.value)
        for word in call.keywords
    )


def outside_changes(source):
    """Lines of a module that change what is not the package's."""
    tree = ast.parse(source)
    foreign = foreign_names(tree)
    found = set()
    for node in ast.walk(tree):
        if any(root_of(target) in foreign for target in changed_targets(node)):
            found.add(node.lineno)
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            setting = name == 'setattr' and root_of(node.args[0]) in foreign
            registering = name.endswith('register_module') and is_forced(node)
            if CHANGES.fullmatch(name) or setting or registering:
                found.add(node.lineno)
    return sorted(found)


def test_nothing_else_changes_what_is_not_the_packages():
    found = {}
    for path in PACKAGE.rglob('*.py'):
        name = path.relative_to(PACKAGE).as_posix()
        if '.mim' not in path.parts and (lines := outside_changes(path.read_text())):
            found[name] = lines
    assert all(found.pop(name) for name in RANDOM_NUMBERS)
    assert len(found.pop('integration.py')) > 10
    assert found == {}


@pytest.mark.parametrize(
    'line',
    [
        "os.environ['A'] = 'b'",
        "os.environ.setdefault('A', 'b')",
        'os._exit(0)',
        'signal.signal(signal.SIGINT, signal.SIG_IGN)',
        "sys.path.insert(0, '.')",
        "warnings.filterwarnings('ignore')",
        'dependency.WITH_MULTIMODAL = False',
        "MODULE2PACKAGE['a'] = 'a'",
        'torch._dynamo.config.recompile_limit = 64',
        'torch.backends.cudnn.benchmark = True',
        'torch.set_num_threads(1)',
        'cv2.setNumThreads(0)',
        "setattr(dependency, 'WITH_MULTIMODAL', False)",
        "register_backend('a', Backend)",
        "CheckpointLoader.register_scheme('', load, force=True)",
        "TRANSFORMS.register_module(name='Resize', force=True)(Mine)",
        'del os.environ["A"]',
        'atexit.register(print)',
    ],
)
def test_changes_are_found(line):
    imports = (
        'import atexit, cv2, os, signal, sys, torch, warnings\n'
        'from a import MODULE2PACKAGE, CheckpointLoader, TRANSFORMS, dependency, register_backend\n'
    )
    assert outside_changes(f'{imports}{line}\n') == [3]


def test_changes_of_the_packages_own_are_not_found():
    own = (
        'import os\nfrom . import limits\nfrom pgseg_mm import messages\n'
        'limits.A = messages.B = 1\nname = os.environ["A"]\nname.part = {}\n'
        'TRANSFORMS.register_module(force=False)\n'
    )
    assert outside_changes(own) == []


def test_the_list_names_all_functions():
    listed = set(re.findall(r':func:`(\w+)`', integration.__doc__))
    tree = ast.parse(Path(integration.__file__).read_text())
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert listed == {name for name in defined if not name.startswith('_')} - {'apply_on_import'}


def test_variables_are_put_back(monkeypatch):
    monkeypatch.setenv('PGSEG_CACHE', 'before')
    with pytest.raises(RuntimeError), integration.environment({'PGSEG_CACHE': 'within'}):
        assert os.environ['PGSEG_CACHE'] == 'within'
        raise RuntimeError
    assert os.environ['PGSEG_CACHE'] == 'before'


def test_filters_of_warnings_are_put_back():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        with integration.without_warnings():
            warnings.warn('within', stacklevel=1)
        warnings.warn('behind', stacklevel=1)
    assert [str(warning.message) for warning in seen] == ['behind']


def test_a_logger_speaks_again_behind_an_error():
    logger = logging.getLogger('pgseg_mm.test_integration')
    with pytest.raises(RuntimeError), integration.silenced(logger):
        assert logger.disabled
        raise RuntimeError
    assert not logger.disabled


def test_a_folder_is_added_once_and_behind_the_others(monkeypatch, tmp_path):
    monkeypatch.setattr('sys.path', ['first'])
    for _ in range(2):
        integration.import_from(str(tmp_path))
    assert sys.path == ['first', str(tmp_path)]


def test_a_name_is_taken_with_a_reason_only():
    with pytest.raises(ValueError, match='Resize is not in REPLACED_TRANSFORMS'):
        integration.replace_transform('Resize')
