"""Ed25519 signatures of manifests: whoever has a key vouches for a model.

What is signed is the whole manifest but the signature itself: name, version, the hash of the model's file, features,
threshold, lineage, figures, and fields that this release does not know. It is written as JSON with sorted keys and
without spaces, behind a line that no other signed text begins with. So a signature fits no other file, version or
threshold, and stays good when the manifest is written in another order.
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Collection
from typing import Any

from app.errors import UsageError

_PURPOSE = b"fraudstream model manifest 1\n"
_FIELD = "signature"


class SignatureError(UsageError):
    """A model is not signed as this deployment requires. Remedy: sign it with a key that the deployment knows."""


def new_key() -> tuple[bytes, str]:
    """A private key as PEM (PKCS 8, not encrypted), and its public key as settings name it."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    return pem, _text(private.public_key().public_bytes_raw())


def sign_manifest(manifest: str, pem: bytes) -> str:
    """A manifest with a signature; one that it has is replaced.

    Args:
        manifest: the text of manifest.json.
        pem: what `new_key` has made.

    Raises:
        UsageError: the key is none.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        private = load_pem_private_key(pem, None)
    except (ValueError, TypeError) as error:
        msg = "the key file does not contain an unencrypted private key in PEM format"
        raise UsageError(msg) from error
    if not isinstance(private, Ed25519PrivateKey):
        msg = "the key is not an Ed25519 key: `fraudstream models keygen FILE` makes one"
        raise UsageError(msg)
    told = json.loads(manifest)
    told[_FIELD] = {
        "key": _text(private.public_key().public_bytes_raw()),
        "value": _text(private.sign(_signed(told))),
    }
    return json.dumps(told, indent=2) + "\n"


def check_signature(manifest: dict[str, Any], model: str, keys: Collection[str]) -> None:
    """Refuse a manifest that nobody of these has signed.

    Args:
        manifest: what manifest.json says, with fields that this release does not know.
        model: the name and version that it is to be.
        keys: public keys.

    Raises:
        SignatureError: it is not signed, by another key, or its signature is of something else.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    remedy = f"`fraudstream models sign {model} --key FILE` signs it"
    signature = manifest.get(_FIELD)
    if not signature:
        msg = f"model {model} is not signed, and FRAUDSTREAM_MODEL_KEYS requires it: {remedy}"
        raise SignatureError(msg)
    key, value = signature["key"], signature["value"]
    if key not in keys:
        msg = f"model {model} is signed by key {key}, which is not in FRAUDSTREAM_MODEL_KEYS: {remedy} with a known key"
        raise SignatureError(msg)
    try:
        Ed25519PublicKey.from_public_bytes(b64decode(key)).verify(
            b64decode(value), _signed(manifest)
        )
    except (InvalidSignature, ValueError):
        msg = f"the signature of model {model} is of another manifest: compare it with what was trained; {remedy} again"
        raise SignatureError(msg) from None


def _signed(manifest: dict[str, Any]) -> bytes:
    told = {name: value for name, value in manifest.items() if name != _FIELD}
    return _PURPOSE + json.dumps(told, sort_keys=True, separators=(",", ":")).encode()


def _text(raw: bytes) -> str:
    return b64encode(raw).decode()
