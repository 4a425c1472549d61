"""Inference with a fine-tuned model: of texts on the command line, or of files
with any number of rows.

ftloop predict --model DIR TEXT [TEXT ...]
ftloop predict --model DIR --input FILE [FILE ...] --output FILE
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
from collections.abc import Sequence

from ftloop.config.checks import reading_problems
from ftloop.data.sources import FORMATS, INPUT_FORMATS, OUTPUT_FORMATS, make_reading
from ftloop.errors import ExitCode, UserError
from ftloop.system.console import say
from ftloop.system.exit import report_error
from ftloop.system.flags import CommandParser
from ftloop.system.text import check_utf8, short_repr

# What to use instead of names that training and other tools have.
HINTS = {
    **dict.fromkeys(("model_name_or_path", "model_name", "model_path", "checkpoint"), "its name is --model"),
    **dict.fromkeys(("test_file", "validation_file", "file", "data"), "its name is --input"),
    **dict.fromkeys(
        ("batch_size", "per_device_eval_batch_size"), "batches are made of rows of nearly one length; leave it out"
    ),
    **dict.fromkeys(
        ("use_cpu", "no_cuda", "device"),
        "a GPU is used where there is one; an empty CUDA_VISIBLE_DEVICES in the environment hides it",
    ),
    **dict.fromkeys(("text", "texts"), "texts follow without a flag"),
    **dict.fromkeys(("top_k", "return_all_scores"), "--all_probabilities gives that of every class"),
    "trust_remote_code": "leave it out: ftloop runs no code that comes with a model, and most models need none. If you "
    "trust the code of one that does, load it in Python, AutoModelForSequenceClassification.from_pretrained('DIR', "
    "trust_remote_code=True), and its tokenizer likewise: classify(model, tokenizer, texts) predicts",
    "tokenizer_name": "the tokenizer lies with the model; this Python puts it there: "
    "from transformers import AutoTokenizer; AutoTokenizer.from_pretrained('ITS_NAME').save_pretrained('DIR')",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Returns: an ExitCode. Only a bug has a traceback; `--traceback` shows one for every error."""
    words = sys.argv[1:] if argv is None else list(argv)
    parser = _parser()
    if words and os.path.isdir(words[0]) and not any(word.startswith("--model") for word in words):
        return report_error(UserError(f"{words[0]} is a folder: --model {words[0]} names a model"), False)
    args = parser.parse_args(words)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a console that cannot show a text ends nothing
    if argv is None:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # or a half-written file would be left beside
    try:
        _check_flags(args)
        from ftloop.inference.command import predict  # torch and transformers: only now that the flags are right

        predict(args, is_own_process=argv is None)
    except KeyboardInterrupt:
        say("Stopped", "before the end", sys.stderr)
        return ExitCode.INTERRUPTED
    except BrokenPipeError:  # whoever reads what we write has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python writes when it ends
    except Exception as error:
        return report_error(error, args.traceback)
    return ExitCode.DONE


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        HINTS,
        prog="ftloop predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("texts", nargs="*", metavar="TEXT", help="texts; with --pairs, two for each prediction")
    add("--model", required=True, metavar="DIR", help="the output_dir of a run")
    add(
        "--input",
        nargs="+",
        metavar="FILE",
        help=f"rows: {', '.join(FORMATS)}, or compressed; files, a pattern, a folder; - is standard input",
    )
    add(
        "--output",
        default="-",
        metavar="FILE",
        help="csv, tsv, jsonl, also .gz, .bz2, .xz, or parquet; by default standard output",
    )
    add(
        "--input_format",
        choices=INPUT_FORMATS,
        metavar="FORMAT",
        help=f"{', '.join(INPUT_FORMATS)}; by default from the ending, jsonl for standard input; text is a text a line",
    )
    add("--output_format", choices=OUTPUT_FORMATS, help="by default from the ending; jsonl for standard output")
    add("--encoding", metavar="NAME", help="of the input; by default UTF-8, or by a byte order mark")
    add("--delimiter", metavar="CHARACTERS", help="what separates the columns of csv, tsv and txt input")
    add("--column_names", nargs="+", metavar="NAME", help="of csv, tsv and txt input without a header")
    add("--text_column_names", nargs="+", metavar="NAME", help="one or two; by default the run's, or the usual names")
    add(
        "--label_column_name",
        nargs="+",
        metavar="NAME",
        help="the labels of the input, to score the predictions by the run's metrics; or a 0/1 column for each label",
    )
    add("--all_probabilities", action="store_true", help="of every class, not only of the predicted one")
    add("--strict", action="store_true", help="a row that cannot be predicted is an error")
    add("--pairs", action="store_true", help="the texts of the command line are pairs")
    add("--max_seq_length", type=int, help="in tokens; by default the run's own, or the model's limit")
    add("--traceback", action="store_true", help="show where in the code an error was raised")
    return parser


def _check_flags(args: argparse.Namespace) -> None:
    """Raises: UserError with everything that is wrong."""
    problems = []
    if (args.input is None) == (not args.texts):
        problems.append(
            "what is to be predicted? Give texts, or a file of them with --input FILE, or a pipe with --input -"
        )
    if args.input is None:
        for_files = ["input_format", "output_format", "text_column_names", "label_column_name", "strict"]
        for_files += vars(make_reading(args.encoding, args.delimiter, args.column_names))
        unused = [f"--{name}" for name in for_files if getattr(args, name)] + ["--output"] * (args.output != "-")
        if unused and args.texts:
            problems.append(f"{', '.join(unused)}: only with --input")
        problems += [
            f"{short_repr(text)} is a file here: --input {text} predicts its rows; a text of that name goes through a "
            "pipe: --input - --input_format text"
            for text in args.texts
            if os.path.isfile(text)
        ]
        if args.texts == ["-"]:
            problems.append("'-': a pipe is read by --input -, with --input_format text where each line is a text")
    elif args.pairs:
        problems.append("--pairs: of a file the columns say it, two of them with --text_column_names")
    problems += reading_problems(args.encoding, args.delimiter, args.column_names)
    names = args.text_column_names or []
    if len(names) > 2:
        problems.append("text_column_names: one or two columns")
    if len(set(names)) < len(names):
        problems.append("text_column_names: one column is named twice")
    values = [("model", args.model), *(("input", path) for path in args.input or ()), ("output", args.output)]
    for name, value in [*values, *(("TEXT", text) for text in args.texts)]:
        try:
            check_utf8(value)
        except ValueError as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise UserError(*problems)


if __name__ == "__main__":
    sys.exit(main())
