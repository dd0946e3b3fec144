"""Certificates as files: which weights were folded into which file, how well that was proven, and hashes by which a change is seen.

A certificate is JSON. It hashes its own content too, so that a field that was changed is found; a hash is no signature, and whoever wants
to know who wrote a certificate signs the file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from refold.dialects import is_onnx
from refold.errors import FoldError, VerificationError
from refold.files import Switch, digest_of, locked, standing
from refold.verification import Certificate

FORMAT = "refold certificate 1"
WORKERS = 2
AHEAD = 8
"""Tensors that may wait to be hashed; each is held in memory until then."""

Tensor: TypeAlias = tuple[str, str, Sequence[int], Any]
"""One weight: its name, dtype and shape, and a buffer of its bytes."""


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of a network: a hash over them all, how many tensors and how many bytes they are."""

    sha256: str
    tensors: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Proof:
    """What a certificate says besides the output: the original and its weights, the regions, the comparison, the inputs."""

    original: str
    weights: Weights
    inputs: Mapping[str, Any]
    laws: Mapping[str, Sequence[str]]
    certificate: Certificate


def hash_weights(tensors: Iterable[Tensor]) -> Weights:
    """Hash names, dtypes, shapes and bytes; in which order the tensors come, or lie in a file, changes nothing.

    >>> one, other = ("a", "uint8", [2], b"xy"), ("b", "uint8", [1], b"z")
    >>> hash_weights([one, other]) == hash_weights([other, one])
    True
    >>> hash_weights([one]) == hash_weights([("a", "uint8", [2], b"xz")])
    False
    """
    source = iter(tensors)
    hashes: list[bytes] = []
    size = 0
    with ThreadPoolExecutor(WORKERS) as pool:
        while batch := list(islice(source, AHEAD)):
            size += sum(memoryview(data).nbytes for *_, data in batch)
            hashes.extend(pool.map(_hash_tensor, batch))
    return Weights(hashlib.sha256(b"".join(sorted(hashes))).hexdigest(), len(hashes), size)


def weights_of(model: Any) -> Weights:
    """The weights of a network: a `torch.nn.Module`, an exported program, an ONNX model or its path, or a file of weights alone."""
    if isinstance(model, (str, os.PathLike)) and Path(model).suffix.lower() == ".safetensors":
        from refold.dialects import aten

        return hash_weights(aten.stored_weights(Path(model)))
    if is_onnx(model):
        from refold.dialects import onnx

        return hash_weights(onnx.weights(model))
    from refold.dialects import aten

    return hash_weights(aten.weights(model))


def beside(output: Path) -> Path:
    """Where the certificate of a file lies.

    >>> beside(Path("deploy.onnx")).name
    'deploy.certificate.json'
    """
    return output.with_name(f"{output.stem}.certificate.json")


def compose(proof: Proof, file: str, weights: Weights) -> dict[str, Any]:
    """The content of a certificate, sealed with its own hash; of the output it knows the weights, not yet the bytes of the file."""
    certificate = proof.certificate
    return seal(
        {
            "format": FORMAT,
            "passed": certificate.passed,
            "original": {"name": proof.original, "weights": asdict(proof.weights)},
            "output": {"name": file, "weights": asdict(weights)},
            "inputs": dict(proof.inputs),
            "seed": certificate.seed,
            "regions": [{**asdict(one), "laws": list(proof.laws.get(one.name, ())), "passed": one.passed} for one in certificate.regions],
            "outputs": [
                {
                    **asdict(one),
                    "relative": one.difference / one.scale if one.scale else one.difference,
                    "times_the_original_error": one.folded_error / one.original_error if one.folded_error and one.original_error else None,
                }
                for one in certificate.outputs
            ],
            "sizes": [{**asdict(one), "shapes": {name: list(shape) for name, shape in one.shapes.items()}} for one in certificate.sizes],
            "versions": dict(certificate.versions),
        }
    )


def seal(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with the hash over it, in the place of one that it had; numbers that JSON does not know become text."""
    bare = json.loads(json.dumps({name: value for name, value in content.items() if name != "sha256"}), parse_constant=str)
    return {**bare, "sha256": hashlib.sha256(_canonical(bare)).hexdigest()}


def write_with(
    output: Path, proof: Proof, put: Callable[[Path, Callable[[Iterable[Tensor]], str]], Mapping[str, str]]
) -> tuple[str, dict[str, str]]:
    """Write an output by `put`; the text of the certificate to lay beside it, and the digests of the files that were written.

    `put` is given the file and a function that makes the text to lay inside it from the weights that it will hold; it calls that once, and
    gives the digests that it knows. The certificate beside the file knows the bytes of the file too, which the text within cannot. The
    folder holds nothing else.
    """
    made: list[dict[str, Any]] = []

    def text_for(tensors: Iterable[Tensor]) -> str:
        made.append(compose(proof, output.name, hash_weights(tensors)))
        return dump(made[0])

    known = put(output, text_for)
    (content,) = made
    companions = sorted(one for one in output.parent.iterdir() if one != output)
    digests = {one.name: known.get(one.name) or digest_of(one) for one in (output, *companions)}
    content["output"]["files"] = digests
    return f"{dump(seal(content))}\n", digests


def stated_files(text: str, name: str) -> dict[str, str] | None:
    """The digests in the text of a certificate of a file of this name; None where it is damaged, or of another."""
    try:
        output = load(text, name)["output"]
        return dict(output["files"]) if output["name"] == name else None
    except (VerificationError, KeyError, TypeError, ValueError):
        return None


def dump(content: Mapping[str, Any]) -> str:
    """A certificate as the text of a file."""
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)


def load(text: str | bytes, name: str) -> dict[str, Any]:
    """A certificate from its text; `name` is what an error calls it.

    Raises `VerificationError` where it is not a certificate, or not as it was written.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise VerificationError(f"{name} is damaged: it is not JSON ({error}); fold anew to have another") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise VerificationError(f"{name} is not a certificate of this format: it says {found!r}, not {FORMAT!r}; fold anew to have one")
    if content.get("sha256") != seal(content)["sha256"]:
        raise VerificationError(
            f"{name} has been changed since it was written: its content hashes to {seal(content)['sha256'][:12]}… where it says "
            f"{str(content.get('sha256'))[:12]}…; take the one that `refold fold` wrote, or fold anew"
        )
    return content


def find(output: Path, given: Path | None = None) -> tuple[str, dict[str, Any]] | None:
    """The certificate of a file and where it was found: the one given, the one beside the file, the one within, or None.

    A certificate beside the file that is of a file of another name is passed over where the file holds its own. One that was left while
    one file replaced another counts for whichever of the two stands, as a whole.

    Raises `VerificationError` where it is not a certificate, was changed, or the files are a mixture of those two.
    """
    place = given or beside(output)
    try:
        text: bytes | str | None = place.read_bytes() if given is not None or place.exists() else None
    except OSError as error:
        raise FoldError(f"cannot read the certificate {place}: {error.strerror or error}; name a file that exists") from error
    if isinstance(text, bytes) and (switch := Switch.parse(text)) is not None:
        text = _text_of(switch, output, place)
    outside = None if text is None else (str(place), load(text, str(place)))
    if outside is not None and (given is not None or outside[1]["output"]["name"] == output.name):
        return outside
    inside = _text_within(output)
    return outside if inside is None else (f"the certificate in {output}", load(inside, f"the certificate in {output}"))


def demand(output: Path, given: Path | None = None) -> tuple[str, dict[str, Any]] | None:
    """The certificate of a file as `find` finds it, which the file and the data beside it satisfy as `demand_file` demands.

    Where they do not agree, they are looked at once more while no other process of refold may replace them.
    """
    try:
        return _demanded(output, given)
    except VerificationError:
        with ExitStack() as stack:
            with suppress(OSError):  # a folder that cannot be locked is looked at as it is
                stack.enter_context(locked(output.parent))
            return _demanded(output, given)


def demand_file(found: tuple[str, Mapping[str, Any]], output: Path) -> None:
    """Raise `VerificationError` where the output, or data beside it, is not the file that was certified, byte for byte."""
    name, content = found
    files = content["output"].get("files")
    if files is None:
        return  # it lies within the file, and the weights alone are known
    certified = content["output"]["name"]
    for one, expected in files.items():
        place = output if one == certified else output.with_name(one)
        try:
            actual = digest_of(place)
        except FileNotFoundError:  # also where another process has just taken it away
            actual = "nothing"
        if actual != expected:
            raise VerificationError(
                f"{place} is not the file that {name} was written for ({one}): its sha256 is {actual[:12]}… where {expected[:12]}… was "
                "certified; take the certificate of this file, or fold anew"
            )


def demand_weights(found: tuple[str, Mapping[str, Any]], part: str, model_name: str, weights: Weights) -> None:
    """Raise `VerificationError` where the weights of the `original` or the `output` are not those that were certified."""
    name, content = found
    expected = Weights(**content[part]["weights"])
    if weights != expected:
        raise VerificationError(
            f"the weights of {model_name} are not those that {name} was written for ({content[part]['name']}): "
            f"{weights.tensors:,} tensors of {weights.bytes:,} bytes with sha256 {weights.sha256[:12]}… where {expected.tensors:,} of "
            f"{expected.bytes:,} with {expected.sha256[:12]}… were certified; give the {part} that was certified, or fold anew; "
            "--no-certificate compares them all the same"
        )


def summarized(found: tuple[str, Mapping[str, Any]]) -> str:
    """A certificate in one line."""
    name, content = found
    regions, versions = content["regions"], content["versions"]
    worst = max((region["ratio"] for region in regions), default=0.0)
    runtime = ", ".join(f"{one} {versions[one]}" for one in ("refold", "torch", "onnxruntime") if one in versions)
    return f"{name}: these are the weights that were certified; {len(regions)} regions, the worst at {worst:.2g} of its bound ({runtime})"


def _text_of(switch: Switch, output: Path, place: Path) -> str | None:
    """The text of the certificate that counts while one file replaces another."""
    if output.name != switch.model:
        return switch.old.certificate or switch.new.certificate
    side = standing(output.parent, switch)
    if side is None:
        raise VerificationError(
            f"{output} and the data beside it are neither those that stood when {place} was written nor those that were to replace them; "
            "take either with all of its files, or fold anew"
        )
    return side.certificate


def _demanded(output: Path, given: Path | None) -> tuple[str, dict[str, Any]] | None:
    found = find(output, given)
    if found is not None:
        demand_file(found, output)
    return found


def _text_within(output: Path) -> str | None:
    match output.suffix.lower():
        case ".onnx":
            from refold.dialects import onnx

            return onnx.annotation(output)
        case ".pt2":
            from refold.dialects import aten

            return aten.annotation(output)
    return None


def _hash_tensor(tensor: Tensor) -> bytes:
    name, dtype, shape, data = tensor
    hasher = hashlib.sha256(_canonical([name, dtype, [int(size) for size in shape]]) + b"\n")
    hasher.update(data)
    return hasher.digest()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
