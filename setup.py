import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
MIM = ('configs', 'tools', 'demo', 'model-index.yml')


def read_version() -> str:
    """Version of the package, read without importing it."""
    text = (ROOT / 'pgseg_mm' / 'version.py').read_text(encoding='utf-8')
    match = re.search(r"__version__ = '([^']+)'", text)
    if match is None:
        raise RuntimeError("pgseg_mm/version.py has no line __version__ = '...'")
    return match.group(1)


def read_requirements(name: str) -> list[str]:
    """Requirement lines of requirements/NAME.txt, without comments and empty lines."""
    text = (ROOT / 'requirements' / f'{name}.txt').read_text(encoding='utf-8')
    lines = (re.sub(r'(^|\s)#.*', '', line).strip() for line in text.splitlines())
    return [line for line in lines if line]


def read_readme() -> str:
    """The long description; a source archive may lack it."""
    readme = ROOT / 'README.md'
    return readme.read_text(encoding='utf-8') if readme.is_file() else ''


class BuildWithConfigs(build_py):
    """Puts configs, tools, demos and the index of models into the package's ``.mim``, where mim and
    mmengine look for them: as copies, or as links where the package is installed editable.
    """

    def run(self) -> None:
        super().run()
        parent = ROOT if self.editable_mode else Path(self.build_lib)
        folder = parent / 'pgseg_mm' / '.mim'
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in MIM:
            if self.editable_mode:
                (folder / name).symlink_to(Path('..', '..', name))
            elif (ROOT / name).is_dir():
                ignored = shutil.ignore_patterns('__pycache__')
                shutil.copytree(ROOT / name, folder / name, ignore=ignored)
            else:
                shutil.copy(ROOT / name, folder)


onedl, openmmlab, data, nouns, onnx, web, tests = map(
    read_requirements, ('onedl', 'openmmlab', 'data', 'nouns', 'onnx', 'web', 'tests')
)

setup(
    name='pgseg-mm',
    version=read_version(),
    description='Prototype-guided open-vocabulary segmentation from image-text pairs, '
    'as an OpenMMLab plug-in',
    long_description=read_readme(),
    long_description_content_type='text/markdown',
    author='The pgseg-mm authors',
    license='Apache-2.0',
    keywords='semantic segmentation, open vocabulary, zero-shot, vision-language, OpenMMLab',
    packages=find_packages(include=['pgseg_mm*']),
    py_modules=['pgseg_command'],
    entry_points={'console_scripts': ['pgseg = pgseg_command:main']},
    package_data={'pgseg_mm': ['text/vocabularies/*.txt', 'text/vocabularies/*/*.txt']},
    cmdclass={'build_py': BuildWithConfigs},
    python_requires='>=3.10,<3.15',
    install_requires=read_requirements('runtime'),
    # Two stacks provide mmengine, mmcv, mmseg and mmpretrain, and overwrite each other's files:
    # neither is required outright, the user picks one.
    extras_require={
        'onedl': onedl,
        'openmmlab': openmmlab,
        'data': data,
        'nouns': nouns,
        'onnx': onnx,
        'web': web,
        'tests': data + nouns + onnx + web + tests,
        'all': onedl + data + nouns + onnx + web + tests,
    },
)
