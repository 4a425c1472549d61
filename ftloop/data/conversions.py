"""Lines of text that hold their labels in a way which is not read, and the command that makes a file of them which is.

That file has labels in front as fastText writes them: bytes are left as they are, in whatever encoding.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from glob import has_magic
from pathlib import Path

from ftloop.data.recognize import DELIMITERS, HEAD, find_shown_format, recognize, separates, whole_lines
from ftloop.errors import UserError
from ftloop.system.text import expand_path, join_some, short_repr

MAX_NAMED = 5
SETS = {"train": "train", "validation": "val valid validation dev eval evaluation", "test": "test"}
"""Words in the names of files that tell which set they belong to."""
BOM = "\ufeff"


class UnknownForm(UserError):
    """A file or folder whose form nothing shows."""


def told_of_files(given: str | Sequence[str], flag: str) -> str | None:
    """Say what files that are not read seem to be, and give the way to one that is: a file for each class with a text a
    line, or a label in front of each text. None for anything else.
    """
    try:
        paths = [expand_path(path, flag) for path in ([given] if isinstance(given, str) else given)]
        folder = paths[0] if paths[0].is_dir() else paths[0].parent
        beside = sorted(file for file in folder.iterdir() if file.is_file())
        is_alone = len(paths) == 1
        of_classes = _files_of_classes([*filter(_is_data, beside)] if is_alone else paths)
        are_all = not is_alone or paths[0].is_dir() or has_magic(paths[0].name)
        if of_classes and (are_all or paths[0] in of_classes.values()):
            return _told_of_classes(of_classes)
        return told_of_labels_in_front(paths[0]) if is_alone else None
    except (OSError, UserError):  # of the folder, or of a path that is none
        return None


def told_of_labels_in_front(path: Path) -> str | None:
    """Say that the first word of each line seems to be its label, and give the way; None where it does not."""
    head = _head(path)
    lines = [line for line in head.removeprefix(BOM).split("\n") if line.strip()]
    have_tabs = all("\t" in line for line in lines)  # as a table has whose quotes are not closed
    if len(lines) < 4 or have_tabs or not all(re.match(r"[^\s,;|]+[ \t]+\S", line) for line in lines):
        return None
    labels = Counter(line.split(None, 1)[0] for line in lines)
    words = {word.casefold() for line in lines for word in line.split()[1:]}
    are_apart = sum(count for label, count in labels.items() if label.casefold() in words) <= len(lines) / 5
    are_few = len(labels) <= len(lines) / (2 if are_apart else 10)
    if len(labels) < 2 or not are_few or all(label.startswith("__label__") for label in labels):
        return None
    shown = join_some([short_repr(label) for label in labels], MAX_NAMED)
    made = path.with_name(f"{path.name.partition('.')[0]}.fasttext.txt")
    command = f"""LC_ALL=C awk '{_strip([head])}NF {{print "__label__" $0}}' {_quote(path)} > {_quote(made)}"""
    return f"{path}: the first word of each line seems to be its label ({shown}); {_way(made, command)}"


def told_of_folders(folder: Path, classes: Mapping[str, Sequence[str]]) -> str | None:
    """Say that each class has one file of several lines, which makes a single row, and give the way to a row a line;
    None where it is otherwise.
    """
    if any(len(files) > 1 for files in classes.values()):
        return None
    files = {label: folder / label / names[0] for label, names in classes.items()}
    if not all(sum(bool(line.strip()) for line in _head(file).split("\n")) > 1 for file in files.values()):
        return None
    told = f"{folder}: each class has one file, of several lines, which is one row"
    made = folder.with_name(f"{folder.name}.fasttext.txt")
    return f"{told}; if each line is a text, {_way_of_classes(files, f'{folder}/', '/*', made)}"


def _files_of_classes(files: Sequence[Path]) -> dict[str, Path] | None:
    """Return the file of each class, where the names of files with a text a line differ by one word and no more."""
    parts = [re.split(r"([._-])", file.name) for file in files]
    if len(files) < 2 or len({(file.parent, len(part)) for file, part in zip(files, parts, strict=True)}) > 1:
        return None
    differing = [words for words in zip(*parts, strict=True) if len(set(words)) > 1]
    labels = differing[0] if len(differing) == 1 else ()
    are_numbered = len({re.sub(r"\d+", "", label) for label in labels}) < 2
    if len(set(labels)) < len(files) or are_numbered:
        return None
    sets = {word for words in SETS.values() for word in words.split()}
    if any(label.lower() in sets or not re.fullmatch(r"\w+", label) for label in labels):
        return None
    return dict(zip(labels, files, strict=True)) if all(map(_is_of_lines, files)) else None


def _told_of_classes(files: Mapping[str, Path]) -> str:
    folder = next(iter(files.values())).parent
    parts = [re.split(r"([._-])", file.name) for file in files.values()]
    place = next(at for at, words in enumerate(zip(*parts, strict=True)) if len(set(words)) > 1)
    before, after = "".join(parts[0][:place]), "".join(parts[0][place + 1 :])
    made = folder / f"{before.rstrip('._-') or folder.absolute().name}.fasttext.txt"
    names = join_some([file.name for file in files.values()], MAX_NAMED)
    told = f"{names} in {folder} seem to be a file for each class with a text a line"
    way = _way_of_classes(files, f"{folder}/{before}", shlex.quote(after) if after else "", made)
    return f"{told}; {way}"


def _way_of_classes(files: Mapping[str, Path], before: str, after: str, made: Path) -> str:
    """Return the way for files of which each has its class in its path, between what is `before` and `after`."""
    if any(re.search(r"[\s,;|\\]", label) for label in files):
        return "write them as a csv with columns text and label"
    place = f'{shlex.quote(before)}"$c"{after}'
    strip = _strip(map(_head, files.values()))
    each = f"""LC_ALL=C awk -v c="$c" '{strip}NF {{print "__label__" c, $0}}' {place}"""
    return _way(made, f"for c in {' '.join(map(shlex.quote, files))}; do {each}; done > {_quote(made)}")


def _way(made: Path, command: str) -> str:
    return f"in a shell, this makes {made.name} of it, which is read: {command}"


def _strip(heads: Iterable[str]) -> str:
    """Return what takes a byte order mark away, where there is one."""
    return r'FNR == 1 {sub(/^\357\273\277/, "")} ' if any(head.startswith(BOM) for head in heads) else ""


def _is_data(file: Path) -> bool:
    return not re.match(r"\.|readme|licen[sc]e|.*\.fasttext\.txt$", file.name.lower())


def _is_of_lines(file: Path) -> bool:
    """Whether a file holds a text a line, as far as its first lines show."""
    head = _head(file)
    is_table = find_shown_format(head.encode("utf-8", "surrogateescape"), None) is not None
    is_table = is_table or any(separates(head, delimiter) for delimiter in DELIMITERS)
    return sum(bool(line.strip()) for line in head.split("\n")) > 1 and not is_table


def _head(file: Path) -> str:
    """Return the first lines of a file, whole; nothing of what is no text or cannot be read."""
    head = b""
    with suppress(OSError), open(file, "rb") as content:
        head = content.read(HEAD)
    if b"\0" in head or recognize(head) is not None:
        return ""
    return whole_lines(head.decode("utf-8", "surrogateescape"), len(head) == HEAD)


def _quote(path: Path) -> str:
    return shlex.quote(str(path))
