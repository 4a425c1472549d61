"""The one exception a user's mistake raises, so that `main()` can tell it from a bug."""

from __future__ import annotations


class UserError(ValueError):
    """Something the user can mend: a flag, a file, a row. Carries every problem found, not only the first.

    `main()` prints the problems without a traceback and exits with code 2.
    """

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))
