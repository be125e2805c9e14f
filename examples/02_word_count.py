"""Count the words of several text files by map, shuffle and reduce.

Map: one task per file counts its words and deals them into partitions, by a hash of the word. Shuffle: for each
partition, one task per file picks out that file's share. Reduce: one task per partition adds the shares up. Tasks
get each other's results as futures, so the counts travel between workers and never through this script; only the
most frequent words of each partition come back.

    python 02_word_count.py                     # the chapters of Python's own manual
    python 02_word_count.py --cluster slurm *.txt

The files must lie where the jobs can read them: on a cluster, on the shared file system.
"""

from __future__ import annotations

import re
import tempfile
import zlib
from collections import Counter
from pathlib import Path

from _cluster import arguments, open_cluster

from hpclaunch import Client

Counts = dict[str, int]


def words_of(path: str) -> list[str]:
    """Return the words of a text file, in lower case."""
    return re.findall(r"[a-z']+", Path(path).read_text(encoding="utf-8", errors="replace").lower())


def count_words(path: str, partitions: int) -> list[Counts]:
    """Map: count the words of one file, dealt into partitions.

    The hash is a checksum and not Python's ``hash``, which differs from process to process.
    """
    dealt: list[Counts] = [{} for _ in range(partitions)]
    for word, count in Counter(words_of(path)).items():
        dealt[zlib.crc32(word.encode()) % partitions][word] = count
    return dealt


def pick(dealt: list[Counts], partition: int) -> Counts:
    """Shuffle: one file's share of one partition."""
    return dealt[partition]


def add_up(shares: list[Counts]) -> Counts:
    """Reduce: the counts of one partition over all files."""
    total: Counter[str] = Counter()
    for share in shares:
        total.update(share)
    return dict(total)


def summary(counts: Counts, most: int) -> tuple[int, int, list[tuple[str, int]]]:
    """Return (words, different words, the most frequent ones) of one partition."""
    return sum(counts.values()), len(counts), Counter(counts).most_common(most)


def write_texts(directory: Path, files: int) -> list[str]:
    """Write the topics of Python's ``help()`` into some files, to have real text to count; return their paths."""
    from pydoc_data.topics import topics

    texts = list(topics.values())
    paths = [directory / f"chapter-{i + 1}.txt" for i in range(files)]
    for i, path in enumerate(paths):
        path.write_text("\n\n".join(texts[i::files]), encoding="utf-8")
    return [str(path) for path in paths]


def main() -> None:
    """Count, and compare with a plain loop in this process."""
    parser = arguments(__doc__)
    parser.add_argument(
        "files", nargs="*", help="text files (default: Python's manual, written here for a moment)"
    )
    parser.add_argument("--partitions", type=int, default=4, help="reducing tasks (default: 4)")
    parser.add_argument("--top", type=int, default=10, help="how many words to show (default: 10)")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="word-count-", dir=Path.cwd()) as directory:
        paths = options.files or write_texts(Path(directory), 8)
        with open_cluster(options) as cluster, Client(cluster) as client:
            mapped = client.map(count_words, paths, partitions=options.partitions)
            partitions = []
            for number in range(options.partitions):
                shares = client.map(pick, mapped, partition=number)
                partitions.append(client.submit(add_up, shares))
            results = client.gather(client.map(summary, partitions, most=options.top))
        plain = Counter(word for path in paths for word in words_of(path))

    words, distinct = sum(r[0] for r in results), sum(r[1] for r in results)
    print(f"{words} words, {distinct} different ones, in {len(paths)} files")
    top = sorted((pair for r in results for pair in r[2]), key=lambda pair: (-pair[1], pair[0]))[: options.top]
    for word, count in top:
        print(f"{count:8d}  {word}")
    is_same = (
        words == plain.total() and distinct == len(plain) and all(plain[word] == count for word, count in top)
    )
    print("a plain loop counts the same" if is_same else "A PLAIN LOOP COUNTS OTHERWISE")


if __name__ == "__main__":
    main()
