"""The exceptions that end a command: their message is the whole story."""

NO_MEMORY = "there is not enough memory"
"""How a command begins that ended for want of memory: at another time there may be enough."""


class RegrnnError(Exception):
    """Bad input. The message names the file, line, key or flag and says what to do.

    The command line prints it as one line on standard error and exits with status 1.
    """


class Interrupted(Exception):
    """A signal stopped a run; its state is saved. The command line exits with 128 + `signum`."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum
