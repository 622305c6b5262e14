"""Sign with the owner's Ed25519 key, and compute keyed hashes and encrypt with keys that are derived from it.

The keys for hashes and for encryption are derived from the private key by HKDF-SHA256, one for each purpose. With the
public key alone one can check a signature, but neither compute a hash nor decrypt. A private key is written to its own
file only, and no message contains one.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from relearn.core import console
from relearn.core.errors import InputError

# Names the file of the owner's key where a command gets none.
KEY_VARIABLE = "RELEARN_KEY"
CIPHER = "ChaCha20-Poly1305"
_LARGEST_KEY = 1 << 14  # bytes
_HASH_DIGITS = 32
_SIGNATURE, _PUBLIC = re.compile("[0-9a-f]{128}"), re.compile("[0-9a-f]{64}")
_RAW, _NO_ENCRYPTION = serialization.Encoding.Raw, serialization.NoEncryption()


class OwnerKey:
    """Hold a private key: sign, compute keyed hashes, encrypt and decrypt."""

    def __init__(self, private: Ed25519PrivateKey):
        self._private = private

    @classmethod
    def read(cls, path: Path) -> OwnerKey:
        """Read a private key in PEM or OpenSSH form. Raises InputError for any other file."""
        content = _key_bytes(path)
        way_out = "make one with relearn certify --new-key FILE"
        if content.startswith((b"-----BEGIN PUBLIC", b"ssh-")):
            raise InputError("is a public key, and the private key is needed", where=str(path), way_out=way_out)
        key = _first_key(content, (serialization.load_pem_private_key, serialization.load_ssh_private_key), path)
        if not isinstance(key, Ed25519PrivateKey):
            raise InputError("is no Ed25519 private key", where=str(path), way_out=way_out)
        if path.stat().st_mode & 0o077:
            console.note(f"{path}: other users can read or write this key -> chmod 600 {path}")
        return cls(key)

    @classmethod
    def create(cls, path: Path) -> OwnerKey:
        """Write a new private key to `path` (mode 0600) and its public key to `path`.pub; nothing is overwritten."""
        key, public_path = cls(Ed25519PrivateKey.generate()), path.with_name(f"{path.name}.pub")
        for place in (path, public_path):
            if os.path.lexists(place):
                way_out = "name another file"
                raise InputError("is there already, and a key is not overwritten", where=str(place), way_out=way_out)
        pem = serialization.Encoding.PEM
        private = key._private.private_bytes(pem, serialization.PrivateFormat.PKCS8, _NO_ENCRYPTION)
        public = key._private.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
        _write_new(path, private, 0o600)
        _write_new(public_path, public, 0o644)
        return key

    @property
    def public(self) -> str:
        """Return the public key as 64 hexadecimal digits."""
        return _hex(self._private.public_key())

    def sign(self, content: bytes) -> str:
        return self._private.sign(content).hex()

    def keyed_hash(self, purpose: str, content: str | bytes) -> str:
        """Compute an HMAC-SHA256, shortened to 32 hexadecimal digits, of a text or of the bytes of a file."""
        data = content.encode("utf-8") if isinstance(content, str) else content
        return hmac.new(self._derived(f"hash {purpose}"), data, hashlib.sha256).hexdigest()[:_HASH_DIGITS]

    def encrypt(self, purpose: str, text: str) -> str:
        """Encrypt and authenticate a text; returns JSON with the nonce and the ciphertext."""
        nonce = os.urandom(12)
        data = ChaCha20Poly1305(self._derived(purpose)).encrypt(nonce, text.encode("utf-8"), purpose.encode())
        values = {"cipher": CIPHER, "nonce": nonce.hex(), "data": data.hex()}
        return json.dumps({"relearn": purpose, **values}, indent=1) + "\n"

    def decrypt(self, purpose: str, encrypted: str) -> str:
        """Decrypt what `encrypt` returned. Raises ValueError for another key, and for a text that was changed."""
        try:
            values = json.loads(encrypted)
            nonce, data = bytes.fromhex(values["nonce"]), bytes.fromhex(values["data"])
            return ChaCha20Poly1305(self._derived(purpose)).decrypt(nonce, data, purpose.encode()).decode("utf-8")
        except (InvalidTag, KeyError, TypeError, ValueError, RecursionError):
            raise ValueError("another key, or changed") from None

    def _derived(self, purpose: str) -> bytes:
        secret = self._private.private_bytes(_RAW, serialization.PrivateFormat.Raw, _NO_ENCRYPTION)
        info = f"relearn owner key, {purpose}".encode()
        return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info).derive(secret)


def find_key(path: Path | None) -> OwnerKey:
    """Read the key in `path`, else in the file that KEY_VARIABLE names. Raises InputError where none is named."""
    named = path or (Path(os.environ[KEY_VARIABLE]).expanduser() if os.environ.get(KEY_VARIABLE) else None)
    if named is None:
        problem = f"no key: neither --key nor the environment variable {KEY_VARIABLE} names a file"
        raise InputError(problem, way_out="make one with relearn certify --new-key FILE")
    return OwnerKey.read(named)


def read_public_key(path: Path) -> str:
    """Read a public key in PEM or OpenSSH form, as 64 hexadecimal digits. Raises InputError for any other file."""
    content = _key_bytes(path)
    if b"PRIVATE KEY-----" in content:
        return OwnerKey.read(path).public
    key = _first_key(content, (serialization.load_pem_public_key, serialization.load_ssh_public_key), path)
    if not isinstance(key, Ed25519PublicKey):
        raise InputError("is no Ed25519 public key", where=str(path), way_out="give the file KEY.pub")
    return _hex(key)


def is_signed(content: bytes, signature: str, public: str) -> bool:
    """Return whether `signature` is that of `content` by the key `public`; both are lower-case hexadecimal digits."""
    # bytes.fromhex also accepts white space and capitals, so that a changed signature could pass.
    if not _SIGNATURE.fullmatch(signature) or not _PUBLIC.fullmatch(public):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).verify(bytes.fromhex(signature), content)
    except (InvalidSignature, ValueError):
        return False
    return True


def canonical_json(value: Any) -> bytes:
    """Encode a value as JSON that has one form: sorted keys, no white space, UTF-8. Raises ValueError for a float."""
    _refuse_floats(value)
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8")


def read_canonical(text: str) -> Any:
    """Parse JSON without floats and without two equal keys in an object. Raises ValueError for any other text."""
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_float=_no_float, parse_constant=_no_float)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(values := dict(pairs)) < len(pairs):
        raise ValueError("a key that stands twice")
    return values


def _no_float(text: str) -> Any:
    raise ValueError(f"a number that is not whole: {text[:20]}")


def _refuse_floats(value: Any) -> None:
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        _refuse_floats(part)
    if isinstance(value, float):
        raise ValueError("a float has several forms in JSON")


def _key_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InputError("is no file with a key", where=str(path))
            content = file.read(_LARGEST_KEY + 1)
    except FileNotFoundError:
        raise InputError("no such key file", where=str(path), way_out="check the path") from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path), way_out="check the path") from None
    if len(content) > _LARGEST_KEY:
        raise InputError("is too large for a key", where=str(path))
    return content


def _first_key(content: bytes, loaders: tuple[Callable[..., Any], ...], path: Path) -> Any:
    """Return the key that the first fitting loader reads; None if none fits. Raises InputError for a password."""
    for load in loaders:
        try:
            return load(content, None) if "private" in load.__name__ else load(content)
        except TypeError:
            problem, way_out = "is protected by a password, which is not supported", "give a key without one"
            raise InputError(problem, where=str(path), way_out=way_out) from None
        except (ValueError, UnsupportedAlgorithm):
            continue
    return None


def _write_new(path: Path, content: bytes, mode: int) -> None:
    """Write a file that does not exist yet; a file that cannot be completed is removed."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", where=str(path), way_out="name another file") from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _hex(public: Ed25519PublicKey) -> str:
    return public.public_bytes(_RAW, serialization.PublicFormat.Raw).hex()
