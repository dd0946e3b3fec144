"""What was saved can be signed; a file that is then renamed, missing or altered is found, by the check of DSSE and by model-signing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from refold import attestation
from refold.cli import main
from refold.errors import FoldError, VerificationError
from refold.files import digest_of

pytest.importorskip("cryptography")
pytest.importorskip("securesystemslib")
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from tests.files.kills import fold


def refold_(*words: str) -> Result:
    return CliRunner().invoke(main, words)


def write_keys(folder: Path, private: Any) -> tuple[Path, Path]:
    secret, public = folder / "key.pem", folder / "key.pub"
    secret.write_bytes(private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    public.write_bytes(private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    return secret, public


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, its data and its certificate."""
    folder = tmp_path_factory.mktemp("saved")
    fold("external", tmp_path_factory.mktemp("train"), 3).save(folder / "deploy.onnx")
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "out"))


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return write_keys(tmp_path, ec.generate_private_key(ec.SECP256R1()))


def data_in(folder: Path) -> Path:
    (data,) = folder.glob("deploy.onnx.*.data")
    return data


def rename_model(folder: Path) -> None:
    (folder / "deploy.onnx").rename(folder / "other.onnx")


def rename_data(folder: Path) -> None:
    data_in(folder).rename(folder / "other.data")


def swap(folder: Path) -> None:
    data, model = data_in(folder), folder / "deploy.onnx"
    one, other = data.read_bytes(), model.read_bytes()
    data.write_bytes(other)
    model.write_bytes(one)


def alter(folder: Path) -> None:
    data = data_in(folder)
    data.write_bytes(data.read_bytes()[:-1] + bytes([data.read_bytes()[-1] ^ 1]))


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "the model renamed": (rename_model, "deploy.onnx is missing"),
    "the data renamed": (rename_data, r"deploy\.onnx\.\w+\.data is missing"),
    "the model missing": (lambda folder: (folder / "deploy.onnx").unlink(), "deploy.onnx is missing"),
    "the data missing": (lambda folder: data_in(folder).unlink(), r"deploy\.onnx\.\w+\.data is missing"),
    "one bit altered": (alter, r"deploy\.onnx\.\w+\.data is altered \(sha256 \w+… where \w+… was signed\)"),
    "names exchanged": (swap, "deploy.onnx is altered"),
}


def test_a_statement_names_every_file_and_holds_the_figures(folder: Path) -> None:
    result = refold_("attest", str(folder / "deploy.onnx"))
    assert result.exit_code == 0, result.output
    statement = json.loads((folder / "deploy.intoto.json").read_text())
    assert (statement["_type"], statement["predicateType"]) == ("https://in-toto.io/Statement/v1", "urn:refold:certificate:1")
    named = {one["name"]: one["digest"]["sha256"] for one in statement["subject"]}
    assert named.keys() == {"deploy.onnx", data_in(folder).name}
    assert all(digest_of(folder / name) == digest for name, digest in named.items())
    assert statement["predicate"] == json.loads((folder / "deploy.certificate.json").read_text())
    assert statement["predicate"]["regions"][0]["residual"] <= statement["predicate"]["regions"][0]["bound"]


def test_the_statement_is_one_of_in_toto(folder: Path) -> None:
    """Their own library takes it, field by field."""
    pytest.importorskip("in_toto_attestation")
    from google.protobuf import json_format  # type: ignore[import-untyped]
    from in_toto_attestation.v1 import statement_pb2  # type: ignore[import-untyped]
    from in_toto_attestation.v1.statement import Statement  # type: ignore[import-untyped]

    made = attestation.make_statement(folder / "deploy.onnx")
    read = json_format.ParseDict(made, statement_pb2.Statement())
    Statement.copy_from_pb(read).validate()
    made["subject"][0]["digest"] = {}
    with pytest.raises(ValueError, match="digest"):
        Statement.copy_from_pb(json_format.ParseDict(made, statement_pb2.Statement())).validate()


@pytest.mark.parametrize("make", [lambda: ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate])
def test_signed_and_checked(folder: Path, tmp_path: Path, make: Callable[[], Any]) -> None:
    secret, public = write_keys(tmp_path, make())
    signed = tmp_path / "signed.json"
    assert refold_("attest", str(folder / "deploy.onnx"), "--key", str(secret), "-o", str(signed)).exit_code == 0
    checked = refold_("attest", str(folder / "deploy.onnx"), "--check", str(signed), "--public-key", str(public))
    assert checked.exit_code == 0, checked.output
    assert f"deploy.onnx and {data_in(folder).name} are what was signed" in checked.stdout
    bundle = {"dsseEnvelope": json.loads(signed.read_text()) | {}}
    bundle["dsseEnvelope"]["signatures"][0].pop("keyid")  # as cosign writes it
    assert attestation.check_envelope(bundle, public, folder)["subject"]


@pytest.mark.parametrize("title", SPOILT)
def test_files_that_are_not_what_was_signed(folder: Path, keys: tuple[Path, Path], title: str) -> None:
    spoil, says = SPOILT[title]
    envelope = attestation.sign_statement(attestation.make_statement(folder / "deploy.onnx"), keys[0])
    spoil(folder)
    with pytest.raises(VerificationError, match=rf"does not hold what was signed: .*{says}"):
        attestation.check_envelope(envelope, keys[1], folder)


@pytest.mark.parametrize("title", SPOILT)
def test_model_signing_finds_them_too(folder: Path, keys: tuple[Path, Path], tmp_path: Path, title: str) -> None:
    """It signs the folder, certificate included."""
    model_signing = pytest.importorskip("model_signing")
    signature = tmp_path / "model.sig"
    model_signing.signing.Config().use_elliptic_key_signer(private_key=keys[0]).sign(folder, signature)
    verifier = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=keys[1])
    verifier.verify(folder, signature)
    SPOILT[title][0](folder)
    with pytest.raises(ValueError, match=r"[Mm]ismatch|[Mm]issing|[Ee]xtra|not match|Signature"):
        verifier.verify(folder, signature)


def test_model_signing_covers_the_certificate(folder: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    model_signing = pytest.importorskip("model_signing")
    model_signing.signing.Config().use_elliptic_key_signer(private_key=keys[0]).sign(folder, tmp_path / "model.sig")
    place = folder / "deploy.certificate.json"
    place.write_text(place.read_text() + "\n")
    with pytest.raises(ValueError, match=r"deploy\.certificate\.json"):
        model_signing.verifying.Config().use_elliptic_key_verifier(public_key=keys[1]).verify(folder, tmp_path / "model.sig")


def test_signatures_that_are_not(folder: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    statement = attestation.make_statement(folder / "deploy.onnx")
    envelope = attestation.sign_statement(statement, keys[0])
    (tmp_path / "b").mkdir()
    other = write_keys(tmp_path / "b", ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(VerificationError, match=r"no signature of the envelope is by .*, or what it holds was changed"):
        attestation.check_envelope(envelope, other[1], folder)
    changed = attestation.sign_statement(statement | {"subject": statement["subject"][:1]}, other[0])
    with pytest.raises(VerificationError, match="no signature of the envelope is by"):
        attestation.check_envelope(envelope | {"payload": changed["payload"]}, keys[1], folder)
    with pytest.raises(VerificationError, match="no signature of the envelope is by"):
        attestation.check_envelope(envelope | {"payloadType": "text/plain"}, keys[1], folder)
    with pytest.raises(VerificationError, match="this is no DSSE envelope: 'payload'"):
        attestation.check_envelope({}, keys[1], folder)
    elsewhere = attestation.sign_statement(statement | {"predicateType": "https://slsa.dev/provenance/v1"}, keys[0])
    with pytest.raises(VerificationError, match="not a certificate of refold; give what `refold attest` wrote"):
        attestation.check_envelope(elsewhere, keys[1], folder)
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]

    text = Envelope(b"{}", "text/plain", {})
    text.sign(CryptoSigner(serialization.load_pem_private_key(keys[0].read_bytes(), None)))
    with pytest.raises(VerificationError, match=r"the envelope holds 'text/plain', not 'application/vnd.in-toto"):
        attestation.check_envelope(text.to_dict(), keys[1], folder)


def test_what_cannot_be_attested(folder: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    envelope = attestation.sign_statement(attestation.make_statement(folder / "deploy.onnx"), keys[0])
    with pytest.raises(FoldError, match=r"cannot read the private key .*; give a PEM without a password"):
        attestation.sign_statement({}, keys[1])
    with pytest.raises(FoldError, match=r"cannot read the public key .*; give a PEM"):
        attestation.check_envelope(envelope, tmp_path / "none", folder)
    with pytest.raises(FoldError, match=r"cannot read .*none: No such file or directory; name a file that exists"):
        attestation.read_envelope(tmp_path / "none")
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(VerificationError, match="is no DSSE envelope: it holds a list"):
        attestation.read_envelope(tmp_path / "x.json")
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(VerificationError, match="is damaged: it is not JSON"):
        attestation.read_envelope(tmp_path / "x.json")
    words = ("attest", str(folder / "deploy.onnx"))
    alone = refold_(*words, "--check", "x.json")
    assert (alone.exit_code, "--check and --public-key go together; give both" in alone.stderr) == (2, True)
    both = refold_(*words, "--check", "x.json", "--public-key", str(keys[1]), "--key", str(keys[0]))
    assert (both.exit_code, "--check writes nothing; leave --key and -o out" in both.stderr) == (2, True)
    (tmp_path / "signed.json").write_text(json.dumps(envelope))
    other = refold_("attest", str(folder / "y.onnx"), "--check", str(tmp_path / "signed.json"), "--public-key", str(keys[1]))
    assert (other.exit_code, "not of y.onnx; name the file that was signed" in other.stderr) == (3, True)
    (folder / "deploy.certificate.json").unlink()
    with pytest.raises(FoldError, match="has no certificate beside it to make a statement of; save what `refold fold` verified"):
        attestation.make_statement(folder / "deploy.onnx")


def test_without_the_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "securesystemslib.dsse", None)
    calls: list[Callable[[], object]] = [
        lambda: attestation.sign_statement({}, tmp_path),
        lambda: attestation.check_envelope({}, tmp_path, tmp_path),
    ]
    for call in calls:
        with pytest.raises(FoldError, match="signing needs securesystemslib and cryptography, not installed here"):
            call()
