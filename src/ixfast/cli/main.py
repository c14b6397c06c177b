"""The entry point of the command line: the table of all commands. Each is in a module, which is imported when it is used."""

from __future__ import annotations

import click

from ixfast.cli.command_group import RootGroup, exit_status_table
from ixfast.process import hardening

# The commands in the order of the help: name, module and first line of its help. A test compares them with the modules.
COMMANDS = {
    "serve": ("ixfast.cli.serve", "Serve scans."),
    "demo": ("ixfast.cli.tap", "Provision the demo account with simulated tags of every encoding."),
    "tap": ("ixfast.cli.tap", "Tap a simulated tag of the demo account and print the URL of the resulting request."),
    "account": ("ixfast.cli.account", "Accounts: the owners of tags."),
    "api-key": ("ixfast.cli.account", "API keys, with which callers of a closed account authenticate."),
    "folder": ("ixfast.cli.folders", "Folders: groups of an account that have the same extended fields."),
    "group": ("ixfast.cli.groups", "Tag groups: tags with the same encoding profile and rules."),
    "batch": ("ixfast.cli.batches", "Batches: parts of a group, such as a production run."),
    "meta-key": ("ixfast.cli.meta_keys", "Meta keys, which decrypt what a chip mirrors encrypted."),
    "tag": ("ixfast.cli.tags", "Tags: list, show, activate and deactivate them."),
    "import": ("ixfast.cli.import_export", "Import the tags in FILE, all or none."),
    "export": ("ixfast.cli.import_export", "Export tags, without their keys, in a format that `ixfast import` reads."),
    "keys": ("ixfast.cli.keys", "Key-encryption keys: create, inspect and rotate them."),
    "verify": ("ixfast.cli.verify", "Show step by step what the tapped URL proves."),
    "audit": ("ixfast.cli.audit", "Verify the taps in FILE without a server."),
    "simulate": ("ixfast.cli.simulate", "Print genuine and other taps of simulated tags, and write the keys of the tags."),
    "scans": ("ixfast.cli.scans", "List the scans of the account AID, newest first, with the reasons of refusals."),
    "stats": ("ixfast.cli.scans", "Count the scans of the account AID by verdict."),
    "profile": ("ixfast.cli.profile", "Encoding profiles: how chips mirror their data into a URL."),
    "rules": ("ixfast.cli.rules", "Test and explain rule sets."),
    "doctor": ("ixfast.cli.doctor", "Check the installation, its files and its database, and print how to fix what is wrong."),
    "migrate": ("ixfast.cli.migrate", "Upgrade the schema of the database to this release."),
    "maintain": ("ixfast.cli.migrate", "Create the partitions of the coming months, and drop those beyond the retention."),
    "recover-counters": ("ixfast.cli.recover", "Recover the passes that a failover lost from the old primary."),
    "settings": ("ixfast.cli.installation", "Show the settings in effect, with secrets hidden."),
    "versions": ("ixfast.cli.installation", "Show the versions of ixfast, its core and its libraries."),
    "completion": ("ixfast.cli.installation", "Print a script that completes ixfast's commands and options in SHELL."),
    "bench": ("ixfast.cli.bench", "Run the benchmarks of a checkout."),
}


@click.group(
    name="ixfast",
    cls=RootGroup,
    modules=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=f"\b\nExit status:\n{exit_status_table()}",
)
@click.version_option(package_name="ixfast", prog_name="ixfast")
def main() -> None:
    """Verification engine for authentication NFC tags."""
    hardening.forbid_core_dumps()
