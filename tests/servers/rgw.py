"""One-node Ceph cluster (monitor, one OSD on a sparse file, RADOS gateway) out of a folder, as any user.

RGW enforces what matters to the service: signatures, versioning, Object Lock, conditional puts, ranges; and
it survives SIGKILL of all three daemons without losing an acknowledged object.
"""

from __future__ import annotations

import functools
import shutil
import urllib.request
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

from tests.servers import processes
from tests.servers.debian import unpacked
from tests.servers.processes import Daemon, ServerFailedError, ServerUnavailableError
from tests.servers.s3 import S3Server

_PACKAGES = ("radosgw", "ceph-mon", "ceph-osd")
_PROGRAMS = ("radosgw", "radosgw-admin", "ceph-mon", "ceph-osd", "ceph", "monmaptool")
_SIZE = 6 << 30  # bytes; a sparse file, so only what is written takes room

# tcp_nodelay: else 40 ms a request. The polling and waiting times make it start in 3 s instead of 15. The
# gateway talks to the monitor in the clear (crc): there are no cephx keys in a cluster that lives minutes.
_CONFIGURATION = Template("""\
[global]
fsid = $fsid
mon_host = [v2:127.0.0.1:$mon_port]
mon_initial_members = a
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
public_network = 127.0.0.0/8
ms_bind_msgr1 = false
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_read_lease_ratio = 0.05
osd_pool_default_pg_num = 1
osd_pool_default_pgp_num = 1
osd_pool_default_pg_autoscale_mode = off
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
osd_crush_chooseleaf_type = 0
mon_osd_full_ratio = 0.99
mon_osd_nearfull_ratio = 0.98
mon_osd_backfillfull_ratio = 0.985
osd_failsafe_full_ratio = 0.995
mon_data_avail_crit = 1
mon_data_avail_warn = 2
log_to_file = true
log_file = $folder/log/$$name.log
log_to_stderr = false
err_to_stderr = true
mon_cluster_log_file = $folder/log/cluster.log
run_dir = $folder
pid_file =
admin_socket = $folder/$$name.$$pid.asok
crash_dir = $folder/crash
debug_ms = 0/0
objecter_tick_interval = 0.25
objecter_timeout = 0.5
$paths
[mon]
mon_data = $folder/mon
mon_pg_warn_min_per_osd = 0
auth_allow_insecure_global_id_reclaim = true
mon_warn_on_insecure_global_id_reclaim_allowed = false
paxos_min_wait = 0.005
paxos_propose_interval = 0.05
[osd]
osd_data = $folder/osd
osd_objectstore = bluestore
bluestore_block_size = $size
bluestore_block_create = true
bluestore_block_db_create = false
bluestore_block_wal_create = false
bluestore_fsck_on_mount = false
bluestore_fsck_on_mkfs = false
bdev_aio_poll_ms = 10
osd_mon_shutdown_timeout = 0.2
osd_fast_shutdown = true
osd_memory_target = 939524096
osd_scrub_min_interval = 8640000
osd_class_update_on_start = true
osd_numa_auto_affinity = false
[client.rgw]
rgw_data = $folder/rgw
ms_mon_client_mode = crc
auth_client_required = none
rgw_frontends = beast tcp_nodelay=1 endpoint=127.0.0.1:$port
rgw_thread_pool_size = 64
rgw_enable_usage_log = false
rgw_enable_ops_log = false
rgw_run_sync_thread = false
rgw_dynamic_resharding = false
rgw_override_bucket_index_max_shards = 1
debug_rgw = 0/0
""")


@dataclass(frozen=True)
class Ceph:
    """Where Ceph's programs lie and what they need to run there."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    configuration: tuple[str, ...] = ()

    @property
    def radosgw(self) -> Path:
        """The gateway's program."""
        return self.folder / "radosgw"


@functools.cache
def _find_ceph() -> Ceph | str:
    found = shutil.which("radosgw", path=processes.clean_environment()["PATH"])
    if found is not None and all((Path(found).parent / program).exists() for program in _PROGRAMS):
        return Ceph(Path(found).parent)
    try:
        root = unpacked("ceph", _PACKAGES)
    except ServerUnavailableError as reason:
        return str(reason)
    libraries = next(iter(sorted(root.glob("usr/lib/*-linux-gnu"))), root / "usr/lib")
    ceph = Ceph(
        root / "usr/bin",
        {
            "LD_LIBRARY_PATH": f"{libraries}:{libraries}/ceph",
            "PYTHONPATH": str(root / "usr/lib/python3/dist-packages"),
        },
        (
            f"erasure_code_dir = {libraries}/ceph/erasure-code",
            f"osd_class_dir = {libraries}/rados-classes",
            f"plugin_dir = {libraries}/ceph",
        ),
    )
    try:
        processes.run(
            [ceph.radosgw, "--version"],
            environment=processes.clean_environment(**ceph.environment),
            seconds=20,
        )
    except ServerFailedError as reason:
        return f"unpacked Ceph does not run: {reason}"
    return ceph


def find_ceph() -> Ceph:
    """Find Ceph's programs: installed, or unpacked from Debian's archive into a cache without being root.

    Raises:
        ServerUnavailableError: neither.
    """
    ceph = _find_ceph()
    if isinstance(ceph, str):
        raise ServerUnavailableError(ceph)
    return ceph


class RgwServer(S3Server):
    """A cluster of three daemons and an S3 account."""

    def __init__(self, ceph: Ceph, *, size: int = _SIZE) -> None:
        super().__init__()
        self._ceph = ceph
        self._size = size
        self._mon_port = processes.free_port()
        self._folder = processes.work_folder("rgw")
        self._environment = processes.clean_environment(
            CEPH_CONF=str(self._folder / "ceph.conf"), **ceph.environment
        )
        self._monitor = self._daemon("ceph-mon", "-f", "-i", "a")
        self._osd = self._daemon("ceph-osd", "-f", "-i", "0")
        self._gateway = self._daemon("radosgw", "-n", "client.rgw", "-f")
        self._formatted = False
        version = processes.run([ceph.radosgw, "--version"], environment=self._environment)
        self.kind = f"Ceph RGW {version.split()[2]}"

    def _daemon(self, program: str, *arguments: str) -> Daemon:
        return Daemon(
            program,
            [self._ceph.folder / program, "-c", self._folder / "ceph.conf", *arguments],
            self._folder / "log" / f"{program}.out",
            environment=self._environment,
        )

    def _run(self, program: str, *arguments: str | Path) -> str:
        return processes.run([self._ceph.folder / program, *arguments], environment=self._environment)

    def _ask(self, *arguments: str) -> str:
        return self._run("ceph", "-c", self._folder / "ceph.conf", "--connect-timeout", "10", *arguments)

    def _format(self) -> None:
        """Make the monitor's and the OSD's stores and the account, in the order that Ceph wants."""
        configuration = self._folder / "ceph.conf"
        for name in ("mon", "osd", "log", "rgw", "crash"):
            (self._folder / name).mkdir(exist_ok=True)
        fsid = str(uuid.uuid4())
        configuration.write_text(
            _CONFIGURATION.substitute(
                fsid=fsid,
                mon_port=self._mon_port,
                port=self.port,
                folder=self._folder,
                size=self._size,
                paths="\n".join(self._ceph.configuration),
            )
        )
        monmap = self._folder / "monmap"
        address = f"[v2:127.0.0.1:{self._mon_port}]"
        self._run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, monmap)
        self._run("ceph-mon", "-c", configuration, "-i", "a", "--mkfs", "--monmap", monmap)
        self._monitor.start()
        osd = str(uuid.uuid4())
        self._ask("osd", "new", osd, "0")
        self._run("ceph-osd", "-c", configuration, "-i", "0", "--mkfs", "--osd-uuid", osd)
        self._osd.start()
        processes.wait_until(lambda: "1 up" in self._ask("osd", "stat"), "the OSD was not up")
        self._run(
            *("radosgw-admin", "-c", configuration, "-n", "client.rgw", "user", "create"),
            *("--uid=test", "--display-name=test"),
            *(f"--access-key={self.access_key}", f"--secret-key={self.secret_key}"),
        )
        self._formatted = True

    def _answers(self) -> bool:
        for daemon in (self._monitor, self._osd, self._gateway):
            daemon.start()  # a gateway that came up before its OSD gives up; it just starts again
        try:
            with urllib.request.urlopen(f"{self.url}/", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def start(self) -> None:
        """See `S3Server.start`."""
        try:
            if not self._formatted:
                self._format()
            processes.wait_until(self._answers, "the gateway did not answer")
        except ServerFailedError as error:
            tails = [daemon.log_tail(600) for daemon in (self._monitor, self._osd, self._gateway)]
            raise ServerFailedError("\n".join([f"Ceph RGW: {error}", *tails])) from error

    def stop(self) -> None:
        """See `S3Server.stop`."""
        for daemon in (self._gateway, self._osd, self._monitor):
            daemon.stop(seconds=3.0)
        self._sweep_sockets()

    def kill(self) -> None:
        """See `S3Server.kill`."""
        for daemon in (self._gateway, self._osd, self._monitor):
            daemon.kill()
        self._sweep_sockets()

    def _sweep_sockets(self) -> None:
        for path in self._folder.glob("*.asok"):
            path.unlink()

    def close(self) -> None:
        """See `S3Server.close`."""
        for daemon in (self._gateway, self._osd, self._monitor):
            daemon.kill()
        processes.remove_folder(self._folder)
