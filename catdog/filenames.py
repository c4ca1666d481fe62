"""Names of files: which of them mean the same, and which any system can have.

macOS may give an accent apart from its letter, where people type both as one. There and on
Windows `Cat.jpg` and `cat.jpg` are one file. Windows has no file `con.jpg`, and none with a `:`
in its name. Pure.
"""

from __future__ import annotations

import re
import unicodedata

REFUSED = re.compile(r'[\x00-\x1f<>:"/\\|?*]')
RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])\s*(\.|$)", re.IGNORECASE)
"""What Windows takes for a device, whatever the suffix."""


def normal(name: str) -> str:
    """The name with each accent and its letter as one sign, as people type it."""
    return unicodedata.normalize("NFC", name)


def alike(name: str) -> str:
    """What is equal for names that some system takes for one file's."""
    return normal(unicodedata.normalize("NFD", name).casefold())


def portable(name: str) -> str:
    """A name like this one that a file can have on any system; "" where nothing is left of it."""
    plain = REFUSED.sub("_", normal(name)).rstrip(". ")
    return f"_{plain}" if RESERVED.match(plain) else plain
