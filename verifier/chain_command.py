"""Command `chain`: certificates of a server and its maker into one file for --also. Nothing of it is secret."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from protocols.terms.say import Say

if TYPE_CHECKING:
    from protocols.errors import Problem

FILE_BYTES_MAX = 256 * 1024
_PEM = b"-----BEGIN CERTIFICATE-----"


def chain_arguments(parser: argparse.ArgumentParser, say: Say) -> None:
    """Arguments of `tallystick chain`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = say("chain.examples")
    parser.add_argument("certificates", metavar="CERT", type=Path, nargs="+", help=say("chain.help.certificates"))
    parser.add_argument("--gateway", metavar="ID", required=True, help=say("chain.help.gateway"))
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help=say("chain.help.out"))


def chain_command(args: argparse.Namespace, say: Say) -> int:
    """Write the file. 0 done, 2 a file that cannot be used, or certificates that do not sign each other."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    from protocols.errors import ConfigError, Problem, VerificationError
    from protocols.evidence import jcs, probe
    from protocols.evidence.encoding import to_base64
    from verifier.proof.chains import read_certificates

    problems: list[Problem] = []
    if not re.fullmatch("[0-9a-f]{32}", args.gateway):
        problems.append(Problem.of("--gateway", "chain.gateway", value=args.gateway))
    ders: list[bytes] = []
    for path in args.certificates:
        found = _certificates(path, problems)
        ders += found
    if problems:
        raise ConfigError(problems)
    leaf = probe.parse_certificate(ders[0])
    spki = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    value = {"type": "tallystick/chain/v1", "gateway": args.gateway, "spki_sha256": probe.spki_sha256(spki),
             "certificates": [to_base64(der) for der in ders]}
    try:
        read_certificates(value, where=str(args.output))
    except VerificationError as error:
        raise ConfigError(error.problems) from error
    args.output.write_bytes(jcs.encode(value))
    print(say("chain.written", file=args.output, count=len(ders), subject=leaf.subject.rfc4514_string(),
              spki_sha256=value["spki_sha256"]))
    return 0


def _certificates(path: Path, problems: list[Problem]) -> list[bytes]:
    """Return the certificates (DER) of a DER or PEM file; record why none can be read."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    from protocols.errors import Problem
    from protocols.evidence import probe

    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
        if len(data) > FILE_BYTES_MAX:
            raise ValueError(f"larger than {FILE_BYTES_MAX} bytes")
        ders = [c.public_bytes(Encoding.DER) for c in x509.load_pem_x509_certificates(data)] if _PEM in data else [data]
        for der in ders:
            probe.parse_certificate(der)
    except OSError as error:
        problems.append(Problem.of(str(path), "chain.file", reason=error.strerror or type(error).__name__))
    except Exception as error:  # the library has no family for what it refuses
        problems.append(Problem.of(str(path), "chain.malformed", reason=str(error)[:120]))
    else:
        return ders
    return []
