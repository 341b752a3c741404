"""Bringing personal values to one form, so that equal ones meet in the blind indexes. Pure."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

import phonenumbers

MAX_NAME_TOKENS: Final = 16
_SPACE: Final = re.compile(r"\s+")
_NOT_WORD: Final = re.compile(r"[^\w]+")
# What networks and gateways send instead of a number that the caller withheld; the digits spell ANONYMOUS,
# UNAVAILABLE, RESTRICTED, UNKNOWN and PRIVATE on a telephone's keys.
_WITHHELD: Final = frozenset({"266696687", "86282452253", "7378742833", "8656696", "774828", "7748283", "0"})
_SIP: Final = re.compile(r"^(?:sips?|tel):", re.IGNORECASE)


def number(value: str) -> str:
    """A customer number: compatibility-composed, upper-cased, without any space.

    The empty string when nothing is left.
    """
    upper = _SPACE.sub("", unicodedata.normalize("NFKC", value)).upper()
    return _SPACE.sub("", unicodedata.normalize("NFKC", upper))


def phone(value: str, region: str) -> str | None:
    """A telephone number in E.164, or None when it is not one.

    Args:
        value: as a person or a telephone system wrote it; ``tel:`` and ``sip:`` addresses too.
        region: ISO 3166 country that numbers without a country code are dialled from.

    Returns:
        ``+358401234567``; None for short codes, extensions, withheld numbers and impossible lengths.
        A number need not be *assigned* (number plans change faster than libraries), only possible.
    """
    text = unicodedata.normalize("NFKC", value).strip()
    text = _SIP.sub("", text).split(";", 1)[0].split("@", 1)[0]
    if not text or len(text) > 64 or text.lstrip("+") in _WITHHELD:
        return None
    try:
        parsed = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return None
    if phonenumbers.is_possible_number_with_reason(parsed) != phonenumbers.ValidationResult.IS_POSSIBLE:
        return None
    e164 = phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164)
    # Leading zeros can make a text that reads as another number; such a thing is nobody's.
    again = phonenumbers.format_number(phonenumbers.parse(e164, None), phonenumbers.PhoneNumberFormat.E164)
    return e164 if again == e164 else None


def email(value: str) -> str | None:
    """An e-mail address, case-folded, or None when it has not the form of one.

    The local part is folded as well: in theory it is case-sensitive (RFC 5321 section 2.4), in a
    customer register two spellings are the same person.
    """
    text = unicodedata.normalize("NFKC", value).strip()
    local, at, domain = text.rpartition("@")
    if not at or not local or not domain or len(text) > 254 or _SPACE.search(text) or "@" in local:
        return None
    if domain.startswith(".") or domain.endswith(".") or ".." in domain:
        return None
    return unicodedata.normalize("NFKC", text.casefold())


def name_tokens(value: str) -> tuple[str, ...]:
    """The whole words of a name, folded and without marks, each once, in order.

    ``Åsa-Maria Räsänen`` gives ``asa``, ``maria``, ``rasanen``: a clerk types what the keyboard has.
    """
    bare = value
    for _ in range(2):  # taking one apart can make a letter that folds further
        decomposed = unicodedata.normalize("NFKD", bare.casefold())
        bare = "".join(c for c in decomposed if not unicodedata.combining(c))
    words = (word for word in _NOT_WORD.split(bare) if word)
    return tuple(dict.fromkeys(words))[:MAX_NAME_TOKENS]
