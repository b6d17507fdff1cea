"""Members of password-protected zip archives, in memory: classic encryption and AES (WinZip AE-1, AE-2)."""

from __future__ import annotations

import hashlib
import hmac
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from coe.core.errors import ConfigError

_AES = 99
_AES_EXTRA = 0x9901
_LOCAL_HEADER = 30
_MAC_BYTES = 10


def read_member(path: Path, ending: str, password: str | None) -> bytes:
    """The member of a zip archive whose name ends in ``ending``, decrypted. Nothing is written to disk.

    Raises ConfigError for a missing member or password, a wrong password, or a damaged archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            member = _member(archive, path, ending)
            if member.flag_bits & 1 and not password:
                raise ConfigError(
                    f"{path} is encrypted and no password is given",
                    hint="Name an environment variable that holds it with --password-env; "
                    "GPQA's authors state theirs in their README.",
                )
            if member.compress_type == _AES:
                return _read_aes(path, member, (password or "").encode())
            return archive.read(member, pwd=(password or "").encode())
    except (zipfile.BadZipFile, zlib.error, OSError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    except RuntimeError:  # what zipfile raises for a wrong password
        raise _wrong_password(path) from None


def _member(archive: zipfile.ZipFile, path: Path, ending: str) -> zipfile.ZipInfo:
    for member in archive.infolist():
        if member.filename.endswith(ending) and not member.is_dir():
            return member
    names = ", ".join(member.filename for member in archive.infolist() if not member.is_dir())
    raise ConfigError(f"{path} has no {ending}; it has {names}")


@dataclass(frozen=True)
class _Aes:
    """From the member's extra field: bytes of the key, and how the plain bytes are compressed."""

    key_bytes: int
    method: int


def _read_aes(path: Path, member: zipfile.ZipInfo, password: bytes) -> bytes:
    """WinZip's AES: salt, two bytes to check the password, counter-mode text, a shortened HMAC-SHA1."""
    aes = _aes_extra(member.extra)
    raw = _raw(path, member)
    salt_bytes = aes.key_bytes // 2
    salt, check, text = raw[:salt_bytes], raw[salt_bytes : salt_bytes + 2], raw[salt_bytes + 2 : -_MAC_BYTES]
    keys = hashlib.pbkdf2_hmac("sha1", password, salt, 1000, 2 * aes.key_bytes + 2)
    if not hmac.compare_digest(keys[-2:], check):
        raise _wrong_password(path)
    mac = hmac.new(keys[aes.key_bytes : 2 * aes.key_bytes], text, hashlib.sha1).digest()[:_MAC_BYTES]
    if not hmac.compare_digest(mac, raw[-_MAC_BYTES:]):
        raise ConfigError(f"{path} is damaged: {member.filename} does not match its checksum")
    plain = _counter_mode(keys[: aes.key_bytes], text)
    return zlib.decompress(plain, -zlib.MAX_WBITS) if aes.method == zipfile.ZIP_DEFLATED else plain


def _aes_extra(extra: bytes) -> _Aes:
    while len(extra) >= 4:
        kind, size = struct.unpack("<HH", extra[:4])
        if kind == _AES_EXTRA and size >= 7:
            _, _, strength, method = struct.unpack("<HHBH", extra[4:11])
            return _Aes({1: 16, 2: 24, 3: 32}[strength], method)
        extra = extra[4 + size :]
    raise zipfile.BadZipFile("the AES header is missing")


def _raw(path: Path, member: zipfile.ZipInfo) -> bytes:
    with path.open("rb") as file:
        file.seek(member.header_offset)
        header = file.read(_LOCAL_HEADER)
        name_bytes, extra_bytes = struct.unpack("<HH", header[26:30])
        file.seek(name_bytes + extra_bytes, 1)
        return file.read(member.compress_size)


def _counter_mode(key: bytes, text: bytes) -> bytes:
    """AES with a little-endian counter from 1, which no library's counter mode offers."""
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import AES
    from cryptography.hazmat.primitives.ciphers.modes import ECB

    blocks = (len(text) + 15) // 16
    counters = b"".join(number.to_bytes(16, "little") for number in range(1, blocks + 1))
    stream = Cipher(AES(key), ECB()).encryptor().update(counters)[: len(text)]
    mixed = int.from_bytes(text, "big") ^ int.from_bytes(stream, "big")
    return mixed.to_bytes(len(text), "big")


def _wrong_password(path: Path) -> ConfigError:
    return ConfigError(f"the password does not open {path}", hint="GPQA's authors state it in their README.")
