"""Lines of text that hold their labels in a way which is not read, and the command that makes a file of them which is.

That file has labels in front as fastText writes them, or behind a tab where they have a file of their own: bytes are
left as they are, in whatever encoding.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatch
from glob import has_magic
from pathlib import Path

from ftloop.data.columns import is_usual_label
from ftloop.data.recognize import DELIMITERS, HEAD, find_shown_format, recognize, separates, whole_lines
from ftloop.data.sources import FORMATS
from ftloop.errors import UserError
from ftloop.system.text import expand_path, join_some, short_repr

MAX_NAMED = 5
MAX_BESIDE = 100
"""A folder of more files is not looked through for labels."""
MAX_LABELS = 200
SETS = {"train": "train", "validation": "val valid validation dev eval evaluation", "test": "test"}
"""Words in the names of files that tell which set they belong to."""
BOM = "\ufeff"


class UnknownForm(UserError):
    """A file or folder whose form nothing shows."""


def told_of_files(given: str | Sequence[str], flag: str) -> str | None:
    """Say what files that are not read seem to be, and give the way to one that is: texts and labels in parallel, a
    file for each class with a text a line, or a label in front of each text. None for anything else.
    """
    try:
        if (told := told_of_parallel(given, flag)) is not None:
            return told
        paths = [expand_path(path, flag) for path in ([given] if isinstance(given, str) else given)]
        is_alone = len(paths) == 1
        if is_alone and (told := told_of_labels_in_front(paths[0])) is not None:
            return told
        of_classes = _files_of_classes(_beside(paths[0]) if is_alone else paths)
        are_all = not is_alone or paths[0].is_dir() or has_magic(paths[0].name)
        if of_classes and (are_all or paths[0] in of_classes.values()):
            return _told_of_classes(of_classes)
    except (OSError, UserError):  # of the folder, or of a path that is none
        pass
    return None


def told_of_parallel(given: str | Sequence[str], flag: str) -> str | None:
    """Say that line n of one file seems to be the label of line n of another, and give the way; None where it is
    otherwise. The other may lie beside the one that is given.
    """
    try:
        paths = [expand_path(path, flag) for path in ([given] if isinstance(given, str) else given)]
        beside = _beside(paths[0]) if len(paths) == 1 else paths
        found = _parallel_files(beside) if len(beside) <= MAX_BESIDE else []
    except (OSError, UserError):
        return None
    if len(paths) == 1 and not paths[0].is_dir():
        named = {file for file in beside if file == paths[0] or fnmatch(file.name, paths[0].name)}
        found = [files for files in found if named & {*files}]
    if not found:
        return None
    folder = found[0][0].parent
    made = [folder / f"{_shared_name(files)}labelled.tsv" for files in found]
    if len(set(made)) < len(made):
        return None
    names = join_some([" and ".join(file.name for file in files) for files in found], MAX_NAMED)
    told = f"{names} in {folder} have the same number of lines and seem to be texts and their labels in parallel"
    commands = [_paste(files, file) for files, file in zip(found, made, strict=True)]
    return f"{told}, line n of one for line n of the other; {_way(made, '; '.join(commands), 'bash')}"


def told_of_labels_in_front(path: Path) -> str | None:
    """Say that the first word of each line seems to be its label, and give the way; None where it does not, or where
    there is a doubt: a file made of the first words of sentences would ruin the training.
    """
    head = _head(path)
    lines = [line for line in head.removeprefix(BOM).split("\n") if line.strip()]
    have_tabs = all("\t" in line for line in lines)  # as a table has whose quotes are not closed
    if len(lines) < 4 or have_tabs or not all(re.match(r"[^\s,;|]+[ \t]+\S", line) for line in lines):
        return None
    labels = Counter(line.split(None, 1)[0] for line in lines)
    if len(labels) < 2 or not _are_labels(labels, {word.casefold() for line in lines for word in line.split()[1:]}):
        return None
    shown = join_some([short_repr(label) for label in labels], MAX_NAMED)
    made = path.with_name(f"{path.name.partition('.')[0]}.fasttext.txt")
    command = f"""LC_ALL=C awk '{_strip([head])}NF {{print "__label__" $0}}' {_quote(path)} > {_quote(made)}"""
    return f"{path}: the first word of each line seems to be its label ({shown}); {_way([made], command)}"


def _are_labels(first: Mapping[str, int], words: Collection[str]) -> bool:
    """Whether the first words of lines look like labels, and not like the beginnings of sentences: few, which come
    again and again, none with marks around it or a capital in front; words of letters alone are not among the other
    `words`.
    """
    if any(label.startswith("__label__") or not re.fullmatch(r"[+-]?\w([\w:/+.&-]*\w)?", label) for label in first):
        return False
    if any(label.isalpha() and label[0].isupper() and (len(label) < 2 or label[1:].islower()) for label in first):
        return False
    lines = sum(first.values())
    plain = {label: count for label, count in first.items() if label.isalpha()}
    are_apart = sum(count for label, count in plain.items() if label.casefold() in words) <= lines / 5
    are_few = len(first) <= min(60, lines / (10 if plain else 5))
    return are_apart and are_few and sum(count == 1 for count in first.values()) <= len(first) / 5


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


def _parallel_files(files: Sequence[Path]) -> list[list[Path]]:
    """Return the files that belong together: one of texts, or two, and behind them that of their labels."""
    labels = [file for file in files if _is_of_labels(file)]
    texts = [file for file in files if file not in labels and _is_of_lines(file)] if labels else []
    counts = {file: _count_lines(file) for file in ([*labels, *texts] if texts else [])}
    found = []
    for file in labels:
        fitting = [
            (_distance(text.name, file.name), text)
            for text in texts
            if counts[text] == counts[file] and not _are_of_two_sets(text, file)
        ]
        nearest = [text for distance, text in fitting if distance == min(fitting)[0]]
        if len(nearest) == 1 or (len(nearest) == 2 and not _are_of_two_sets(*nearest)):
            found.append([*nearest, file])
    claimed = Counter(text for *texts, _ in found for text in texts)
    return [files for files in found if all(claimed[text] == 1 for text in files[:-1])]


def _is_of_labels(file: Path) -> bool:
    """Whether each line is one of a few short values that come again and again, or a number with a fraction."""
    lines = [line.strip() for line in _head(file).removeprefix(BOM).splitlines()]
    values = Counter(lines[1:] if _has_header(lines) else lines)
    if len(lines) < 4 or any(not value or len(value) > 40 or len(value.split()) > 3 for value in values):
        return False
    if any(character in value for value in values for character in '\t"'):
        return False
    are_scores = all(re.fullmatch(r"[+-]?\d+(\.\d+)?", value) for value in values) and any("." in v for v in values)
    return are_scores or len(values) <= min(MAX_LABELS, len(lines) / 2)


def _has_header(lines: Sequence[str]) -> bool:
    return bool(lines) and is_usual_label(lines[0]) and lines.count(lines[0]) == 1


def _count_lines(file: Path) -> int:
    with open(file, "rb") as content:
        return sum(1 for _ in content)


def _distance(name: str, other: str) -> int:
    """Return how many words of two names are in one of them alone."""
    words, others = (Counter(re.split(r"[._-]", each)) for each in (name, other))
    return ((words - others) + (others - words)).total()


def _are_of_two_sets(file: Path, other: Path) -> bool:
    of_set = {word: name for name, words in SETS.items() for word in words.split()}
    first, second = ({of_set.get(word) for word in re.split("[^a-z]+", each.name.lower())} for each in (file, other))
    return bool(first - {None}) and bool(second - {None}) and first.isdisjoint(second - {None})


def _shared_name(files: Sequence[Path]) -> str:
    """Return the words that are in all names."""
    first, *others = (re.split(r"[._-]", file.name) for file in files)
    shared = [word for word in first if all(word in words for words in others)]
    return "".join(f"{word}_" for word in shared if word not in ("", "txt", "text", "csv", "tsv"))


def _paste(files: Sequence[Path], made: Path) -> str:
    """Return the command that puts lines side by side. What a row of tabs cannot hold becomes a space."""
    names = ("text", "label") if len(files) == 2 else ("sentence1", "sentence2", "label")
    command = f"paste {' '.join(map(_as_cells, files))}"
    if not _has_header([line.strip() for line in _head(files[-1]).removeprefix(BOM).splitlines()]):
        header = "\\t".join(names)
        command = f"{{ printf '{header}\\n'; {command}; }}"
    return f"{command} > {_quote(made)}"


def _as_cells(file: Path) -> str:
    with open(file, "rb") as content:
        is_plain = not any(b"\t" in line or b"\r" in line for line in content)
    strip = _strip([_head(file)])
    if is_plain and not strip:
        return _quote(file)
    return rf"""<(LC_ALL=C awk '{strip}{{sub(/\r$/, ""); gsub(/[\t\r]/, " "); print}}' {_quote(file)})"""


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
    if any(label.lower() in sets or label in FORMATS or not re.fullmatch(r"\w+", label) for label in labels):
        return None
    return dict(zip(labels, files, strict=True)) if all(map(_may_be_class, files)) else None


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
    return _way([made], f"for c in {' '.join(map(shlex.quote, files))}; do {each}; done > {_quote(made)}")


def _way(made: Sequence[Path], command: str, shell: str = "a shell") -> str:
    names, are_read = join_some([file.name for file in made], MAX_NAMED), "is read" if len(made) == 1 else "are read"
    return f"in {shell}, this makes {names} of it, which {are_read}: {command}"


def _beside(path: Path) -> list[Path]:
    """Return the files of a folder, or of that of a file, but for those that hold no data."""
    folder = path if path.is_dir() else path.parent
    return [file for file in sorted(folder.iterdir()) if file.is_file() and _is_data(file)]


def _strip(heads: Iterable[str]) -> str:
    """Return what takes a byte order mark away, where there is one."""
    return r'FNR == 1 {sub(/^\357\273\277/, "")} ' if any(head.startswith(BOM) for head in heads) else ""


def _is_data(file: Path) -> bool:
    return not re.match(r"\.|readme|licen[sc]e|.*\.fasttext\.txt$", file.name.lower())


def _may_be_class(file: Path) -> bool:
    """Whether a file may hold the texts of a class: no numbers alone, and no labels."""
    are_numbers = all(re.fullmatch(r"[+-]?[\d.,]+", line.strip()) for line in _head(file).split("\n") if line.strip())
    return _is_of_lines(file) and not are_numbers and not _is_of_labels(file)


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
