"""The launcher's error: a sentence that says what is wrong and what to do."""


class StackError(Exception):
    """A server or service couldn't be started, stopped or found; the message is for the
    operator.
    """
