"""Text that is safe in HTML and in XML, whatever a program's names contain."""

import html
import re

# XML 1.0 allows no other characters; HTML readers replace or drop them.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def escape(text: object) -> str:
    """Returns the text for an element or a quoted attribute of HTML or XML."""
    return html.escape(_FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", str(text)))
