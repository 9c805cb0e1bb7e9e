"""What looks like a secret is not logged. Telemetry is written by many hands, and an API key may stand where a principal's name should."""

from __future__ import annotations

import logging
import re

SECRET = re.compile(
    r"""\b(?:sk|pk|rk|xox[abprs]|gh[opsur]|github_pat|glpat|hf|AIza|ya29)[-_.][A-Za-z0-9_\-.]{12,}   # keys of providers, by their prefix
    |\bAIza[A-Za-z0-9_\-]{30,}
    |\b(?:AKIA|ASIA)[A-Z0-9]{16}\b                                                              # AWS
    |\beyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{4,}(?:\.[A-Za-z0-9_\-]*)?                          # JSON web tokens
    |-----BEGIN[ A-Z]*PRIVATE\ KEY-----.*?(?:-----END[ A-Z]*-----|$)
    |(?i:\b(?:bearer|basic)\ +)[A-Za-z0-9_\-.=+/]{8,}
    |(?i:\b(?:password|passwd|secret|api[_-]?key|access[_-]?key|token)["']?\s*[=:]\s*["']?)[^\s"',;]{4,}
    |(?<=://)[^/\s:@]+:[^/\s@]+(?=@)                                                            # a password in an address
    """,
    re.VERBOSE | re.DOTALL,
)


def redacted(text: str) -> str:
    """The text with `[secret]` for all that looks like one.

    >>> redacted("opened for sk-proj-Abcdefghijkl0123 at postgresql://u:pw@db/x")
    'opened for [secret] at postgresql://[secret]@db/x'
    """
    return SECRET.sub("[secret]", text)


class Redact(logging.Filter):
    """For handlers: every record's message is redacted, its arguments and a traceback's text included."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redacted(record.getMessage()), None
        if record.exc_info:
            record.exc_text = redacted(record.exc_text or logging.Formatter().formatException(record.exc_info))
            record.exc_info = None
        return True
