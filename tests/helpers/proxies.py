"""Real proxies in front of a server: nginx and Caddy, as docs/web.md sets them up.

Responsible for: the rest of their configuration, starting and stopping them. Must not know: what is tested.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from conftest import skip_or_fail
from helpers.processes import wait_until

PAGE = Path(__file__).parents[2] / "docs" / "web.md"
KINDS = ("nginx, kept", "nginx, stripped", "caddy, kept", "caddy, stripped")
_SERVER = "127.0.0.1:8780"  # as the page has it
_NGINX = """
daemon off; {user} pid {directory}/nginx.pid; error_log {directory}/error.log; worker_processes 1;
events {{ }}
http {{
  access_log {directory}/access.log;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
  server {{
    listen 127.0.0.1:{port}{tls};
    {block}
  }}
}}
"""
_CADDY = "{{\n admin off\n auto_https off\n log {{\n  output file {directory}/log\n }}\n}}\n{block}"


def block_of(kind: str) -> str:
    """What the page says about one."""
    program, _, form = kind.partition(", ")
    kept, stripped = re.findall(rf"^```{program}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return str(kept if form == "kept" else stripped)


@contextlib.contextmanager
def proxy(kind: str, directory: Path, to_port: int, *, certificate: Path | None = None) -> Iterator[int]:
    """One in front of the server at a port; gives its own. `certificate`: with its key, for TLS (nginx)."""
    program = kind.partition(",")[0]
    found = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        skip_or_fail(f"no {program}: `apt-get install {'nginx-light' if program == 'nginx' else program}`")
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    block = block_of(kind)
    assert _SERVER in block
    block = block.replace(_SERVER, f"127.0.0.1:{to_port}")
    config = directory / "config"
    if program == "nginx":
        user = "user root;" if os.geteuid() == 0 else ""  # else its workers are nobody, who may not write here
        tls = "" if certificate is None else f" ssl; ssl_certificate {certificate}; ssl_certificate_key {certificate}"
        config.write_text(_NGINX.format(directory=directory, port=port, block=block, tls=tls, user=user))
        command = [found, "-c", str(config), "-p", str(directory), "-e", str(directory / "early.log")]
    else:
        block = block.replace("jobs.example.org", f"http://127.0.0.1:{port}", 1)
        config.write_text(_CADDY.format(directory=directory, block=block))
        command = [found, "run", "--config", str(config), "--adapter", "caddyfile"]
    with _running(command, directory, port):
        yield port


@contextlib.contextmanager
def _running(command: Sequence[str], directory: Path, port: int) -> Iterator[None]:
    environment = {
        **os.environ,
        "HOME": str(directory),
        "XDG_DATA_HOME": str(directory),
        "XDG_CONFIG_HOME": str(directory),
    }
    with (directory / "said").open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=environment, cwd=directory)
    try:
        wait_until(lambda: process.poll() is not None or _answers(port), 30, "the proxy")
        assert process.poll() is None, (directory / "said").read_text()
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def certificate_for(directory: Path) -> Path:
    """One that nobody knows, with its key."""
    found = directory / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run(
        [*command, "-keyout", found, "-out", directory / "only"], check=True, capture_output=True, timeout=60
    )
    with found.open("a") as file:
        file.write((directory / "only").read_text())
    return found


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0
