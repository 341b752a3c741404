"""What the parts of the service share; built once, by the composition root."""

from __future__ import annotations

from dataclasses import dataclass, field

from recorder.catalogue.database import Database
from recorder.clock import Clock
from recorder.ingest.resumable.active import Active
from recorder.metrics import Metrics
from recorder.offline import OfflineAdmission
from recorder.playback.counting import ListenCounts
from recorder.playback.memory import Memory
from recorder.settings import Settings
from recorder.uploads import Uploads
from storage.keys import Keyring
from storage.objects import ObjectStore
from storage.spool import Spool
from storage.vault import Vault


@dataclass(frozen=True, slots=True)
class Services:
    """Settings, clock, database, keys and bytes, passed to every use case.

    Attributes:
        spool: where deliveries wait on local disk; None where nothing is spooled.
        offline: who may push while the database is away.
    """

    settings: Settings
    clock: Clock
    database: Database
    keyring: Keyring
    store: ObjectStore
    vault: Vault
    metrics: Metrics = field(default_factory=Metrics)
    uploads: Uploads = field(default_factory=Uploads)
    resumable: Active = field(default_factory=Active)
    counts: ListenCounts = field(default_factory=ListenCounts)
    memory: Memory = field(default_factory=Memory)
    spool: Spool | None = None
    offline: OfflineAdmission = field(default_factory=OfflineAdmission)
