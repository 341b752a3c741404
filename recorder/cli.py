"""The command ``recorder``: only the tree of commands; each lives in ``recorder.commands``."""

from __future__ import annotations

import os

import click

from recorder.commands import (
    archive,
    audit,
    backup,
    controllers,
    customers,
    demo,
    doctor,
    erasure,
    keys,
    matters,
    push,
    reconcile,
    redact,
    report,
    requests,
    schedules,
    scrub,
    service,
    simulate,
    source_secrets,
    sources,
    spool,
    stores,
    tokens,
    users,
    webhooks,
)
from recorder.commands.failures import RecorderGroup


@click.group(cls=RecorderGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an unexpected error.")
@click.version_option(package_name="tallenne", prog_name="recorder")
def cli(debug: bool) -> None:
    """Call recordings kept sealed, used for a purpose, erased on time, and all of it provable.

    Settings are RECORDER_* variables, or keys of the TOML file that RECORDER_CONFIG names. Exit codes: 0 ok,
    1 something was found wrong, 2 wrong usage or settings, 3 a dependency is away, 4 refused.
    """
    del debug  # read by the boundary that catches errors, before any command runs


for command in (
    service.serve,
    service.worker,
    service.migrate,
    demo.demo,
    doctor.doctor,
    controllers.controller,
    customers.customer,
    users.user,
    sources.source,
    tokens.token,
    push.push,
    simulate.simulate,
    archive.import_archive,
    spool.spool,
    schedules.schedule,
    report.report,
    erasure.sweep,
    erasure.erase,
    backup.backup,
    backup.restore_check,
    reconcile.reconcile,
    redact.redact,
    requests.request,
    matters.matter,
    scrub.scrub,
    stores.store,
    keys.keys,
    webhooks.webhook,
    audit.audit,
):
    cli.add_command(command)

sources.source.add_command(source_secrets.secret)


def main() -> None:
    """Entry point of the console script."""
    os.umask(0o077)  # whatever is made on disk (catalogue, objects, logs) is its owner's alone
    cli.main(prog_name="recorder")
