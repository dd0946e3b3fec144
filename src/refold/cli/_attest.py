"""`refold attest`: the certificate of a file as an in-toto statement, signed where a key is given, and the check of a signed one."""

from __future__ import annotations

import json
from pathlib import Path

import click

from refold.cli._program import main
from refold.errors import VerificationError


@main.command(short_help="Write the certificate of FILE as an in-toto statement, or check a signed one.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="OUT", help="By default <stem>.intoto.json beside FILE.")
@click.option("--key", type=click.Path(path_type=Path), metavar="PEM", help="A private key: write it signed, in a DSSE envelope.")
@click.option("--check", type=click.Path(path_type=Path), metavar="SIGNED", help="Check this envelope or bundle and all files of it.")
@click.option("--public-key", type=click.Path(path_type=Path), metavar="PEM", help="The public key that --check goes by.")
def attest(file: Path, output: Path | None, key: Path | None, check: Path | None, public_key: Path | None) -> None:
    """Write the certificate of FILE as an in-toto statement of FILE and the data beside it.

    `cosign attest-blob --statement` signs it as it is; with --key it is signed here. With --check, the
    signature and every file that was signed are checked; exit with 3 where one is altered, renamed or gone.
    """
    from refold.attestation import check_envelope, make_statement, read_envelope, sign_statement
    from refold.files import replacing

    if (check is None) is not (public_key is None):
        raise click.UsageError("--check and --public-key go together; give both")
    if check is not None and public_key is not None:
        if key is not None or output is not None:
            raise click.UsageError("--check writes nothing; leave --key and -o out")
        statement = check_envelope(read_envelope(check), public_key, file.parent)
        names = [one["name"] for one in statement["subject"]]
        if file.name not in names:
            raise VerificationError(f"{check} is of {', '.join(names)}, not of {file.name}; name the file that was signed")
        click.echo(f"{check}: {' and '.join(names)} are what was signed")
        return
    content = make_statement(file)
    place = output or file.with_name(f"{file.stem}.intoto.json")
    with replacing(place) as draft:
        draft.write_text(f"{json.dumps(content if key is None else sign_statement(content, key), indent=1, ensure_ascii=False)}\n", "utf-8")
    click.echo(f"written to {place}")
