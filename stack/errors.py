"""The launcher's errors: each a sentence that says what is wrong and what to do."""

EXIT_CONFIGURATION = 78  # EX_CONFIG: as acceptance_site/configuration.py, which the stack doesn't need


class StackError(Exception):
    """A server or service couldn't be started, stopped or found; the message is for the
    operator.
    """

    exit_code = 1


class WrongVariable(StackError):  # noqa: N818 - named by what it tells
    """A variable of the environment can't be used as it is; the message names it and says what to
    set.
    """

    exit_code = EXIT_CONFIGURATION
