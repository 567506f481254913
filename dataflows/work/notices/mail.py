"""Notices by e-mail. All of one alert are one thread, and a repeat has the same Message-ID."""

from __future__ import annotations

import re
import smtplib
import socket
import ssl
from contextlib import closing, suppress
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from pathlib import Path
from typing import Final

from dataflows.work.notices.delivery import too_slow
from dataflows.work.notices.text import facts_of, heading_of
from penstock.errors import AccessDenied, PenstockError, Refused, SettingsError, Unavailable, Unreachable
from penstock.models.notices import TRIAL, Notice
from penstock.models.receivers import SmtpConnection
from penstock.models.secrets import resolve

__all__ = ["message_of", "send"]

_ENHANCED: Final = re.compile(rb"[245]\.\d{1,3}\.\d{1,3}\b")
"""The further code of an answer (RFC 3463); its words may quote what was sent, and are left out."""
TEMPORARY: Final = range(400, 500)


def message_of(connection: SmtpConnection, notice: Notice) -> EmailMessage:
    """Return the message; its text is plain."""
    heading, domain = heading_of(notice), connection.from_.rpartition("@")[2]
    message = EmailMessage(policy=SMTP)
    message["From"], message["To"] = connection.from_, ", ".join(connection.to)
    message["Subject"] = f"[penstock] {heading}"
    message["Date"] = format_datetime(notice.at)
    message["Message-ID"] = f"<{notice.id}@{domain}>"
    message["References"] = f"<alert-{notice.about}@{domain}>"
    message["Auto-Submitted"] = "auto-generated"
    lines = [heading, "", *(f"{name}: {value}" for name, value in facts_of(notice))]
    lines += [] if notice.event == TRIAL else ["", f"penstock alerts show {notice.about[:8]}"]
    message.set_content("\n".join(lines).rstrip() + "\n")
    return message


def send(connection: SmtpConnection, notice: Notice, where: str, secrets: Path | None) -> None:
    """Send a notice; return once the server has taken it for everyone.

    Raises:
        Unavailable, Unreachable: another attempt may succeed.
        AccessDenied, Refused, SettingsError: it would not.
    """
    password = None if connection.password is None else resolve(connection.password, where=where, secrets=secrets)
    try:
        with closing(_session(connection, where)) as session:
            if connection.user is not None and password is not None:
                _log_in(session, connection.user, password, where)
            refused = session.send_message(message_of(connection, notice), connection.from_, connection.to)
            with suppress(smtplib.SMTPException, OSError):  # the server has taken it
                session.quit()
        if refused:
            raise smtplib.SMTPRecipientsRefused(refused)
    except smtplib.SMTPException as error:
        raise _found(error, connection, where) from None
    except TimeoutError:
        raise too_slow(where, connection.timeout.total_seconds()) from None
    except ssl.SSLError as error:
        raise _tls_failed(error, where) from None
    except OSError:
        hint = "check `host` and `port`, and that it is up"
        raise Unreachable("the mail server cannot be reached", where=where, hint=hint) from None


def _session(connection: SmtpConnection, where: str) -> smtplib.SMTP:
    try:
        tls = ssl.create_default_context(cafile=connection.ca)
    except OSError as error:
        what = f"the certificate authority {connection.ca} cannot be read: {error.strerror or 'it is not PEM'}"
        raise SettingsError(what, where=where, hint="check `ca`") from None
    host, port, seconds = connection.host, connection.at_port, connection.timeout.total_seconds()
    if connection.tls == "tls":
        return smtplib.SMTP_SSL(host, port, _own_name(), timeout=seconds, context=tls)
    session = smtplib.SMTP(host, port, _own_name(), timeout=seconds)
    if connection.tls == "starttls":
        try:
            session.starttls(context=tls)
        except BaseException:
            session.close()
            raise
    return session


def _log_in(session: smtplib.SMTP, user: str, password: str, where: str) -> None:
    try:
        session.login(user, password)
    except UnicodeEncodeError:
        what = "the `user` or `password` has characters that a login does not take"
        raise SettingsError(what, where=where, hint="use ASCII only") from None


def _own_name() -> str:
    """Return how this machine names itself; `smtplib` would look for another name, which may take long."""
    name = socket.gethostname()
    return name if "." in name and name.isascii() else "[127.0.0.1]"


def _found(error: smtplib.SMTPException, connection: SmtpConnection, where: str) -> PenstockError:
    """Return what an answer of the server means."""
    if isinstance(error, smtplib.SMTPNotSupportedError):
        offers = "encryption" if "STARTTLS" in str(error) else "what is needed to log in, or for an address"
        return Refused(f"the mail server does not offer {offers}", where=where, hint="check `port` and `tls`")
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return _recipients_refused(error, connection, where)
    if not isinstance(error, smtplib.SMTPResponseException):  # the connection was lost
        return Unavailable("the mail server broke off", where=where, hint="it is tried again")
    code = _code(error.smtp_code, error.smtp_error)
    if isinstance(error, smtplib.SMTPAuthenticationError) and error.smtp_code not in TEMPORARY:
        return AccessDenied(
            f"the mail server refuses the login ({code})", where=where, hint="check `user` and `password`"
        )
    if error.smtp_code in TEMPORARY or error.smtp_code < 0:
        return Unavailable(f"the mail server puts it off ({code})", where=where, hint="it is tried again")
    hint = "check `from`, and what the server allows"
    return Refused(f"the mail server does not take the notice ({code})", where=where, hint=hint)


def _recipients_refused(error: smtplib.SMTPRecipientsRefused, connection: SmtpConnection, where: str) -> PenstockError:
    """Return an error about recipients; while any may be accepted later, all get it once more."""
    temporary = any(code in TEMPORARY for code, _ in error.recipients.values())
    codes = sorted({_code(code, answer) for code, answer in error.recipients.values()})
    share = f"{len(error.recipients)} of {len(connection.to)} recipients"
    if temporary:
        what = f"the mail server puts off {share} ({', '.join(codes)})"
        return Unavailable(what, where=where, hint="it is tried again")
    what = f"the mail server refuses {share} ({', '.join(codes)})"
    return Refused(what, where=where, hint=f"check {', '.join(sorted(error.recipients))} in `to`")


def _code(code: int, answer: bytes | str) -> str:
    found = _ENHANCED.match(answer if isinstance(answer, bytes) else answer.encode(errors="replace"))
    return f"{code} {found[0].decode()}" if found else str(code)


def _tls_failed(error: ssl.SSLError, where: str) -> PenstockError:
    if isinstance(error, ssl.SSLCertVerificationError):
        hint = "check `host`; name a certificate authority of your own in `ca`"
        return Refused("the mail server's certificate is not valid", where=where, hint=hint)
    hint = "check `port` and `tls`: `tls: tls` is encrypted from the first byte, `starttls` is not"
    return Refused("the mail server does not speak TLS there", where=where, hint=hint)
