"""strongSwan in a namespace: charon, which negotiates the states, and swanctl, which tells it to.

$STRONGSWAN is the folder where its packages are unpacked (tests/kmod/strongswan); they look for their libraries and
plugins in /usr/lib/ipsec, which is there in the mount namespace of each program.
"""

import os
import subprocess
import tempfile
from pathlib import Path

import kit

FOLDER = os.environ.get("STRONGSWAN")
START = 'mkdir -p /usr/lib/ipsec && mount --bind "$0/usr/lib/ipsec" /usr/lib/ipsec && exec "$0/usr/sbin/$@"'
SETTINGS = """
{program} {{
    load = random nonce openssl aes sha2 hmac gcm kdf kernel-netlink socket-default vici
    install_routes = no
    make_before_break = yes
    delete_rekeyed_delay = 1
    retransmit_timeout = 1
    filelog {{
        {folder}/log {{
            default = 1
        }}
    }}
    plugins {{
        vici {{
            socket = unix://{folder}/vici
        }}
    }}
}}
"""
CONNECTION = """
{name} {{
    version = 2
    proposals = aes128gcm16-prfsha256-ecp256
    local_addrs = {here}
    remote_addrs = {there}
    encap = {encap}
    mobike = no
    local {{
        auth = psk
        id = {here_id}
    }}
    remote {{
        auth = psk
        id = {there_id}
    }}
    children {{
        {name} {{
            esp_proposals = {proposal}
            local_ts = {near}
            remote_ts = {far}
            rekey_time = 1h
            {more}
        }}
    }}
}}
"""


class Daemon:
    """charon in a namespace while the `with` lasts; `connections` are texts of CONNECTION."""

    def __init__(self, name, connections):
        if not FOLDER:
            raise kit.Skip("there is no $STRONGSWAN")
        self.name, self.connections = name, connections

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name)
        (self.path / "strongswan.conf").write_text("".join(SETTINGS.format(program=program, folder=self.path)
                                                           for program in ("charon-systemd", "swanctl")))
        (self.path / "swanctl.conf").write_text("connections {" + "".join(self.connections) + "}\n"
                                                "secrets {\n ike-all {\n secret = not a secret\n }\n}\n")
        with open(self.path / "output", "w") as output:
            self.child = subprocess.Popen(self.command("charon-systemd"), env=self.environment(),
                                          stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            kit.wait_until(lambda: (self.path / "vici").exists(), self.log)
            self.swanctl("--load-all", "--noprompt", "--file", str(self.path / "swanctl.conf"))
        except Exception:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        """Ends it without a word to its peer."""
        self.child.kill()
        self.child.wait()
        self.folder.cleanup()

    def command(self, program, *words):
        return ["ip", "netns", "exec", self.name, "sh", "-c", START, FOLDER, program, *words]

    def environment(self):
        return os.environ | {"STRONGSWAN_CONF": str(self.path / "strongswan.conf")}

    def begin(self, command, *words):
        """swanctl, as a process that goes on beside us."""
        return subprocess.Popen(self.command("swanctl", command, "--uri", f"unix://{self.path}/vici", *words),
                                env=self.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True)

    def swanctl(self, command, *words, meanwhile=None):
        """Its output. Calls `meanwhile` until it has ended."""
        child = self.begin(command, *words)
        while meanwhile and child.poll() is None:
            meanwhile()
        output = child.communicate()[0]
        if child.returncode:
            raise RuntimeError(f"swanctl {command} {words} in {self.name}: {output}\n{self.log()}")
        return output

    def log(self):
        files = (self.path / name for name in ("output", "log"))
        return "".join(file.read_text(errors="replace")[-4000:] for file in files if file.exists())
