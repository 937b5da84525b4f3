"""A program that is not ours checks the probes that our verifier accepts, and refuses those that it refuses."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from protocols.evidence.encoding import from_base64
from protocols.evidence.probe import SALT_BYTES
from tests.support.programs import need
from verifier.conformance import servers
from verifier.conformance.tamperings_probes import behind_servers

pytestmark = pytest.mark.live
PSS = ("-sigopt", "rsa_padding_mode:pss", "-sigopt", f"rsa_pss_saltlen:{SALT_BYTES}")


@pytest.mark.parametrize("policy_uri", [servers.BASIC, servers.AES128, servers.AES256])
def test_openssl_verifies_the_signature_of_a_server(policy_uri: str, tmp_path: Path) -> None:
    need("openssl")
    _, gateway = behind_servers()
    fields = servers.probe_fields(gateway, policy_uri=policy_uri)
    raw = {name: from_base64(fields[name], where="") for name in ("server_spki", "client_certificate", "signature")}
    c = bytes.fromhex(fields["c"])
    for name, data in (("key.der", raw["server_spki"]), ("signature", raw["signature"]),
                       ("message", raw["client_certificate"] + c), ("other", raw["client_certificate"] + c[::-1])):
        (tmp_path / name).write_bytes(data)
    subprocess.run(["openssl", "pkey", "-pubin", "-inform", "DER", "-in", "key.der", "-out", "key.pem"], cwd=tmp_path,
                   check=True, capture_output=True, timeout=60)
    scheme = PSS if policy_uri == servers.AES256 else ()
    for message, status in (("message", 0), ("other", 1)):
        done = subprocess.run(["openssl", "dgst", "-sha256", *scheme, "-verify", "key.pem", "-signature", "signature",
                               message], cwd=tmp_path, check=False, capture_output=True, timeout=60)
        assert done.returncode == status, done.stderr
