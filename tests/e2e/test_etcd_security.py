"""A real etcd server that asks who is there: users with passwords, certificates, and what they may not do."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from catalog.kv import Event, Put
from catalog.kv.etcd import EtcdKV, EtcdOptions
from catalog.kv.etcd_stubs import load_etcdrpc
from storage.clock import SystemClock
from storage.errors import ForbiddenError, InvalidError, UnavailableError
from tests.support.etcd import EtcdServer, etcd_server_or_skip

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]


def protect(server: EtcdServer) -> None:
    """Turn authentication on: root may do all, firn the keys that begin with firn."""
    rpc = load_etcdrpc()
    import_auth = rpc.AuthRoleGrantPermissionRequest.DESCRIPTOR.fields_by_name["perm"].message_type
    with grpc.insecure_channel(server.endpoint, [("grpc.enable_http_proxy", 0)]) as channel:
        auth = rpc.AuthStub(channel)
        for user, role in (("root", "root"), ("firn", "firn-role")):
            auth.UserAdd(rpc.AuthUserAddRequest(name=user, password=f"{user}-secret"), timeout=10)
            auth.RoleAdd(rpc.AuthRoleAddRequest(name=role), timeout=10)
            auth.UserGrantRole(rpc.AuthUserGrantRoleRequest(user=user, role=role), timeout=10)
        permission = import_auth._concrete_class(permType=2, key=b"firn", range_end=b"firo")
        auth.RoleGrantPermission(rpc.AuthRoleGrantPermissionRequest(name="firn-role", perm=permission), timeout=10)
        auth.AuthEnable(rpc.AuthEnableRequest(), timeout=10)


@pytest.fixture
def protected() -> Iterator[EtcdServer]:
    with etcd_server_or_skip("--auth-token-ttl", "3", "--bcrypt-cost", "4") as server:
        protect(server)
        yield server


async def test_a_user_with_a_password_reads_writes_watches_and_leases(protected: EtcdServer) -> None:
    kv = protected.kv(user="firn", password="firn-secret")
    lease = await kv.lease_grant(10)
    result = await kv.txn({"a": 0}, [Put("a", b"1", lease)])
    watch = kv.watch("", 1)
    assert await anext(watch) == Event("a", b"1", result.revision)
    await watch.aclose()
    await kv.lease_keepalive(lease)
    await kv.lease_revoke(lease)
    assert await kv.get("a") is None
    await kv.close()


async def test_a_token_that_the_server_forgot_is_fetched_anew(protected: EtcdServer) -> None:
    kv = protected.kv(user="firn", password="firn-secret")
    await kv.txn({}, [Put("a", b"1")])
    protected.kill()
    protected.start()
    protected.wait()
    entry = await kv.get("a")
    assert entry is not None and entry.value == b"1"
    assert (await kv.txn({"a": entry.revision}, [Put("a", b"2")])).succeeded
    await kv.close()


@pytest.mark.parametrize(
    "options",
    [
        {"user": "firn", "password": "wrong"},
        {"user": "nobody", "password": "firn-secret"},
        {},
        {"user": "firn", "password": "firn-secret", "namespace": "other"},
    ],
    ids=["wrong password", "unknown user", "no user", "outside the role"],
)
async def test_whoever_may_not_is_told_so_at_once(protected: EtcdServer, options: dict[str, str]) -> None:
    kv = protected.kv(**options)
    with pytest.raises(ForbiddenError, match="etcd refused the user") as caught:
        await kv.get("a")
    assert "secret" not in str(caught.value)
    with pytest.raises(ForbiddenError):
        await kv.txn({}, [Put("a", b"1")])
    with pytest.raises(ForbiddenError):
        await anext(kv.watch("", 1))
    await kv.close()


def openssl(*arguments: str, cwd: Path) -> None:
    subprocess.run(["openssl", *arguments], cwd=cwd, check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.crt, and server and client certificates that it signed; other.crt is of nobody's."""
    folder = tmp_path_factory.mktemp("certificates")
    for ca in ("ca", "other"):
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{ca}.key", "-out", f"{ca}.crt",
                "-days", "2", "-subj", f"/CN={ca}", cwd=folder)  # fmt: skip
    (folder / "san.txt").write_text("subjectAltName=IP:127.0.0.1")
    for name, ca in (("server", "ca"), ("client", "ca"), ("stranger", "other")):
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.csr",
                "-subj", f"/CN={name}", cwd=folder)  # fmt: skip
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", f"{ca}.crt", "-CAkey", f"{ca}.key", "-CAcreateserial",
                "-out", f"{name}.crt", "-days", "2", "-extfile", "san.txt", cwd=folder)  # fmt: skip
    return folder


@pytest.fixture
def over_tls(certificates: Path) -> Iterator[EtcdServer]:
    names = ("--cert-file", "server.crt", "--key-file", "server.key", "--trusted-ca-file", "ca.crt")
    flags = [name if name.startswith("--") else str(certificates / name) for name in names]
    with etcd_server_or_skip(*flags, "--client-cert-auth") as server:
        yield server


def client(server: EtcdServer, folder: Path, ca: str, name: str | None) -> EtcdKV:
    options = EtcdOptions(
        tls=True,
        ca_file=folder / f"{ca}.crt",
        cert_file=folder / f"{name}.crt" if name else None,
        key_file=folder / f"{name}.key" if name else None,
        deadline_ms=1500,
    )
    return EtcdKV([server.endpoint], SystemClock(), options)


async def test_mutual_tls_lets_a_signed_client_in_and_nobody_else(over_tls: EtcdServer, certificates: Path) -> None:
    kv = client(over_tls, certificates, "ca", "client")
    assert (await kv.txn({"a": 0}, [Put("a", b"1")])).succeeded
    await kv.close()
    for ca, name in (("ca", None), ("ca", "stranger"), ("other", "client")):
        kv = client(over_tls, certificates, ca, name)
        with pytest.raises(UnavailableError, match="see that the members run"):
            await kv.get("a")
        await kv.close()


async def test_a_certificate_that_is_not_there_is_named(tmp_path: Path) -> None:
    kv = EtcdKV(["127.0.0.1:1"], SystemClock(), EtcdOptions(ca_file=tmp_path / "none.crt"))
    with pytest.raises(InvalidError, match=r"TLS file.*none\.crt"):
        await kv.get("a")
