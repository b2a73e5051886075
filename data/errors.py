"""The two errors that end a command; the command line turns each into its exit code."""

from functools import partial


class InputError(Exception):
    """The user's input is wrong (exit code 2).

    `what` names the value and the problem, `where` the file, key or flag, `hint` the fix.
    """

    def __init__(self, what: str, *, where: str, hint: str) -> None:
        super().__init__(what, where, hint)
        self.what, self.where, self.hint = what, where, hint

    def __reduce__(self) -> tuple[object, ...]:
        # The default would lose keyword-only arguments when the error is sent from an actor to the driver.
        return partial(InputError, where=self.where, hint=self.hint), (self.what,)

    def __str__(self) -> str:
        return f"{self.what}\n  where: {self.where}\n  hint:  {self.hint}"


class ResumableError(Exception):
    """Something failed on the cluster; the same command resumes the work (exit code 3)."""
