"""A certificate as an in-toto statement: what `cosign attest-blob` signs as it is, or a key here in a DSSE envelope; and its check.

Sources: in-toto Statement v1, https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md, and the DSSE protocol,
https://github.com/secure-systems-lab/dsse/blob/master/protocol.md.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from refold.certificates import demand
from refold.errors import FoldError, VerificationError
from refold.files import digest_of

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "urn:refold:certificate:1"
PAYLOAD = "application/vnd.in-toto+json"
INSTALL = "signing needs securesystemslib and cryptography, not installed here; pip install 'refold[sign]'"


def make_statement(output: Path) -> dict[str, Any]:
    """The statement of a file that was saved: its name and digest and those of the data beside it, and its certificate as the predicate.

    Raises `VerificationError` where the files are not those that were certified, `FoldError` where no certificate lies beside the file.
    """
    found = demand(output) if output.is_file() else None
    files = None if found is None else found[1]["output"].get("files")
    if found is None or files is None:
        raise FoldError(f"{output} has no certificate beside it to make a statement of; save what `refold fold` verified")
    subjects = [{"name": name, "digest": {"sha256": digest}} for name, digest in files.items()]
    return {"_type": STATEMENT, "subject": subjects, "predicateType": PREDICATE, "predicate": found[1]}


def sign_statement(statement: Mapping[str, Any], key: Path) -> dict[str, Any]:
    """The statement in a DSSE envelope, signed with a private key in PEM without a password (ECDSA, Ed25519 or RSA).

    Raises `FoldError` where the key cannot be read or the packages of `refold[sign]` are missing.
    """
    try:
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
        from securesystemslib.dsse import Envelope
        from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]
    except ImportError as error:
        raise FoldError(INSTALL) from error
    try:
        signer = CryptoSigner(load_pem_private_key(key.read_bytes(), None))
    except (OSError, ValueError, TypeError) as error:
        raise FoldError(f"cannot read the private key {key}: {error}; give a PEM without a password") from error
    envelope = Envelope(json.dumps(statement, ensure_ascii=False, allow_nan=False).encode(), PAYLOAD, {})
    envelope.sign(signer)
    return dict(envelope.to_dict())


def check_envelope(envelope: Mapping[str, Any], key: Path, folder: Path) -> dict[str, Any]:
    """The statement in an envelope, or in a Sigstore bundle that holds one, after the signature and all files of the folder were checked.

    Every subject must stand in the folder under its name with its digest, so that a file that was renamed or removed is found, which a
    check of one file against the list of digests does not.

    Raises `VerificationError` where the signature is not of this key, or a file is missing, renamed or altered; `FoldError` where the
    key cannot be read or the packages of `refold[sign]` are missing.
    """
    statement = _signed(envelope.get("dsseEnvelope", envelope), key)
    if statement.get("_type") != STATEMENT or statement.get("predicateType") != PREDICATE or not statement.get("subject"):
        raise VerificationError(
            f"the statement is {statement.get('predicateType')!r} of {statement.get('_type')!r}, not a certificate of refold; "
            "give what `refold attest` wrote"
        )
    wrong = []
    for subject in statement["subject"]:
        name, expected = subject["name"], subject["digest"]["sha256"]
        place = folder / name
        if place.parent != folder or not place.is_file():
            wrong.append(f"{name} is missing")
        elif (actual := digest_of(place)) != expected:
            wrong.append(f"{name} is altered (sha256 {actual[:12]}… where {expected[:12]}… was signed)")
    if wrong:
        raise VerificationError(f"{folder} does not hold what was signed: {', '.join(wrong)}; take the files that were, under their names")
    return statement


def _signed(envelope: Mapping[str, Any], key: Path) -> dict[str, Any]:
    try:
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
        from securesystemslib.dsse import Envelope
        from securesystemslib.exceptions import FormatError, UnverifiedSignatureError
        from securesystemslib.exceptions import VerificationError as Unverified
        from securesystemslib.signer import Signature, SSlibKey  # type: ignore[attr-defined]
    except ImportError as error:
        raise FoldError(INSTALL) from error
    try:
        public = SSlibKey.from_crypto(load_pem_public_key(key.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise FoldError(f"cannot read the public key {key}: {error}; give a PEM") from error
    try:
        payload = base64.b64decode(envelope["payload"], validate=True)
        signatures = [base64.b64decode(one["sig"], validate=True).hex() for one in envelope["signatures"]]
        pae = Envelope(payload, envelope["payloadType"], {}).pae()
    except (KeyError, TypeError, AttributeError, binascii.Error) as error:
        raise VerificationError(f"this is no DSSE envelope: {error}; give what `refold attest --key` or cosign wrote") from error
    for signature in signatures:
        try:
            public.verify_signature(Signature(public.keyid, signature), pae)
        except (UnverifiedSignatureError, Unverified, FormatError, ValueError):
            continue
        if envelope["payloadType"] != PAYLOAD:
            raise VerificationError(f"the envelope holds {envelope['payloadType']!r}, not {PAYLOAD!r}; give what `refold attest` wrote")
        return dict(json.loads(payload))
    raise VerificationError(f"no signature of the envelope is by {key}, or what it holds was changed; give the key of who signed it")


def read_envelope(path: Path) -> dict[str, Any]:
    """An envelope, or a bundle, from its file."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise FoldError(f"cannot read {path}: {error.strerror or error}; name a file that exists") from error
    except (ValueError, RecursionError) as error:
        raise VerificationError(f"{path} is damaged: it is not JSON ({error}); sign anew") from error
    if not isinstance(content, dict):
        raise VerificationError(f"{path} is no DSSE envelope: it holds a {type(content).__name__}; give what `refold attest --key` wrote")
    return content
