"""RedCaps: its annotation files as one list for img2dataset.

    python tools/dataset_converters/redcaps.py annotations data/redcaps12m.parquet

The folder holds a SUBREDDIT_YEAR.json for each subreddit and year, which are read one at a time.
Captions are RedCaps' cleaned ones (lower case, without what stood in brackets).
"""

import argparse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pair_lists import ListError, Pair, add_output, read_json, write_list

POST_FIELDS = ('url', 'caption', 'image_id', 'subreddit')


def annotation_files(folder: Path, subreddits: list[str] | None) -> list[Path]:
    """Annotation files of a folder, of some subreddits or of all.

    Raises:
        ListError: If there are none, or none for one of the subreddits.
    """
    paths = sorted(folder.glob('*.json'))
    if not paths:
        raise ListError(f'{folder} holds no annotation files, SUBREDDIT_YEAR.json')
    if subreddits is None:
        return paths
    names = {path: path.stem.rpartition('_')[0].lower() for path in paths}
    wanted = {name.lower() for name in subreddits}
    absent = sorted(wanted - set(names.values()))
    if absent:
        raise ListError(f'{folder} holds no annotation files of: {", ".join(absent)}')
    return [path for path, name in names.items() if name in wanted]


def read_posts(paths: list[Path], left_out: Counter[str]) -> Iterator[Pair]:
    """Pairs of annotation files, with the post's id and its subreddit."""
    for path in paths:
        content = read_json(path)
        posts = content.get('annotations') if isinstance(content, dict) else None
        if not isinstance(posts, list):
            raise ListError(f'{path} has no list "annotations", as files of RedCaps do')
        for post in posts:
            values = (
                [post.get(field) for field in POST_FIELDS] if isinstance(post, dict) else [None]
            )
            if None in values:
                left_out[
                    'an annotation lacks ' + ', '.join(POST_FIELDS[:-1]) + ' or subreddit'
                ] += 1
            else:
                url, caption, *extra = map(str, values)
                yield Pair(url, caption, tuple(extra))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('folder', type=Path, help='folder of the annotation files')
    add_output(parser)
    parser.add_argument('--subreddits', nargs='+', metavar='NAME', help='keep these alone')
    args = parser.parse_args()
    left_out: Counter[str] = Counter()
    try:
        paths = annotation_files(args.folder, args.subreddits)
    except ListError as error:
        parser.error(str(error))
    write_list(read_posts(paths, left_out), left_out, args.out, POST_FIELDS[2:], paths)


if __name__ == '__main__':
    main()
