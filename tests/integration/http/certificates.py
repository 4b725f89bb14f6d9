"""Authorities and certificates of a test, made by `openssl`."""

import ssl
import subprocess

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Authority:
    """Who signs certificates, in *directory*."""

    def __init__(self, directory, name="authority"):
        self.directory, self.name = directory, name
        self.certificate = directory / f"{name}.pem"
        _openssl(
            "req", "-x509", *_KEY, "-subj", f"/CN={name}", "-days", "2", "-keyout", self._key, "-out", self.certificate
        )

    @property
    def _key(self):
        return self.directory / f"{self.name}.key"

    def trusting(self):
        """A client's context that trusts it, and nobody else."""
        return ssl.create_default_context(cafile=self.certificate)

    def serving(self, host, *, days=2):
        """A server's context with a certificate for *host*; with no days left it has expired a moment later."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.certify(host, days=days))
        return context

    def certify(self, host, *, days=2):
        """A certificate for *host* and its key, as files."""
        key, request, signed = (self.directory / f"{host}{days}.{kind}" for kind in ("key", "csr", "pem"))
        extensions = self.directory / f"{host}{days}.ext"
        extensions.write_text(f"subjectAltName=DNS:{host}\n")
        _openssl("req", *_KEY, "-subj", f"/CN={host}", "-keyout", key, "-out", request)
        _openssl(
            "x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial",
            "-days", str(days), "-extfile", extensions, "-out", signed,
        )  # fmt: skip
        return signed, key


def _openssl(*arguments):
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
