"""Names of files and classes, as they may be shown to a person."""


def printable(name: str) -> str:
    """Return a name that is safe to print: bytes that are no UTF-8 become U+FFFD, control characters visible escapes.

    A file name may hold anything but `/`, and a terminal obeys the escape sequences that it is sent.
    """
    return "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c if c.isprintable() or c == " " else ascii(c)[1:-1] for c in name)
