"""What can go wrong in ways that a user can mend, or that end one run and not the others."""


class UserError(Exception):
    """A mistake in what was asked for: shown as one line, without a traceback; exit code 2."""


class NonFiniteLossError(ArithmeticError):
    """A loss became infinite or not a number: the run cannot go on."""


class TrackingError(Exception):
    """The tracking store did not take what was written, for longer than one waits."""
