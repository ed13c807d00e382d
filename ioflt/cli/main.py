"""`ioflt`: the table of commands, the manual, and the one place that every failure ends in."""

from __future__ import annotations

import sys

import click

from ioflt import __version__, hygiene
from ioflt.cli import logs, streams
from ioflt.cli.lazy import Entry, LazyGroup, Section

_SECTIONS = (
    Section(
        "Datastores",
        (
            Entry(
                "datastore",
                "ioflt.cli.datastore",
                "datastore",
                "Make a directory a datastore; show one; its keys.",
            ),
            Entry(
                "mount", "ioflt.cli.mount", "mount", "Show a datastore's files decrypted at a mount point."
            ),
            Entry("umount", "ioflt.cli.mount", "umount", "End a mount: flush everything, forget the keys."),
            Entry("inspect", "ioflt.cli.inspect", "inspect", "What a stored file is. Needs no key."),
            Entry("check", "ioflt.cli.inspect", "check", "Verify every home and file of a datastore."),
            Entry("health", "ioflt.cli.health", "health", "What needs somebody: VMs, keys, certificates."),
        ),
    ),
    Section(
        "Virtual machines",
        (
            Entry(
                "vm",
                "ioflt.cli.vm",
                "vm",
                "List, encrypt, recrypt, clone, move, erase, import, export.",
            ),
            Entry("disk", "ioflt.cli.disk", "disk", "Make a disk of a VM longer."),
            Entry("cbt", "ioflt.cli.cbt", "cbt", "Changed blocks of disks: track them, ask for them."),
            Entry(
                "policy",
                "ioflt.cli.policy",
                "policy",
                "Storage policies: create, assign, check what departs from them.",
            ),
        ),
    ),
    Section(
        "Keys",
        (
            Entry(
                "provider",
                "ioflt.cli.provider",
                "provider",
                "Key providers: create, trust, list, test, backup, restore.",
            ),
            Entry("key", "ioflt.cli.key", "key", "Keys: what they protect, drill, locate, revoke."),
            Entry(
                "keyd", "ioflt.cli.keyd", "keyd", "The key-cache daemon: start, stop, status, lock, unlock."
            ),
        ),
    ),
    Section(
        "Who may",
        (
            Entry("role", "ioflt.cli.role", "role", "Roles: sets of privileges."),
            Entry("permission", "ioflt.cli.permission", "permission", "Grant, revoke, list, explain."),
            Entry("folder", "ioflt.cli.folder", "folder", "Tenants: sets of datastores and VMs."),
            Entry("service", "ioflt.cli.service", "service", "Principals that are no users here."),
            Entry("events", "ioflt.cli.events", "events", "What happened, who did it; verify the log."),
            Entry("attest", "ioflt.cli.attest", "attest", "A signed report of a datastore, for an auditor."),
            Entry("setup", "ioflt.cli.setup", "setup", "Separate the duties of two administrators."),
        ),
    ),
    Section(
        "Backup",
        (Entry("backup", "ioflt.cli.backup", "backup", "Back VMs up, look at backups, restore them."),),
    ),
    Section(
        "Recovery and exchange",
        (
            Entry("recovery", "ioflt.cli.recovery", "recovery", "Passphrases that stock cryptsetup opens."),
            Entry(
                "header", "ioflt.cli.recovery", "header", "Back up and restore the headers of a VM's files."
            ),
            Entry("vmx", "ioflt.cli.recovery", "vmx", "Exchange passphrase-encrypted VMX files with VMware."),
        ),
    ),
    Section(
        "Other",
        (
            Entry(
                "testbed",
                "ioflt.testing.testbed.commands",
                "testbed",
                "Test beds for programs that back up VMs.",
            ),
            Entry(
                "completion", "ioflt.cli.completion", "completion", "Print the completion script of a shell."
            ),
        ),
    ),
)

_MANUAL = (
    (
        "Examples",
        """
Keep the VMs of a directory encrypted, use them through a mount:

  ioflt datastore init /srv/ds
  ioflt vm import tiny.ova /srv/ds
  ioflt mount /srv/ds /mnt/ds
  qemu-img info /mnt/ds/tiny/tiny.vmdk
  ioflt umount /mnt/ds

Encrypt a VM that is there already; it must be powered off:

  ioflt vm register --clear /srv/ds/web01
  ioflt vm encrypt /srv/ds/web01

Keep a copy of the keys where this machine's loss cannot reach it:

  ioflt provider backup local /media/usb/local.p12
""",
    ),
    (
        "Arguments",
        """
DIR is a datastore: the directory that holds ciphertext, not a mount of it.
DIR/VM is one VM home in it. A passphrase comes from the terminal or from
--passphrase-file, where - is standard input; never from an argument.
""",
    ),
    (
        "Output",
        """
What a command shows goes to standard output. Everything else goes to
standard error: "ioflt: what happened", "hint: what to do". With --json the
outcome is one JSON value on standard output, a failure one line of JSON on
standard error.
""",
    ),
    (
        "Exit codes",
        """
 0  done                          8  the datastore's file system failed
 1  failed                        9  a daemon or program misbehaved
 2  wrong use                    10  not found
 3  denied                       11  exists already
 4  key not available            12  homes of different keys
 5  corrupt data                 13  check found something
 6  busy                         14  a full backup is due
 7  read-only                    70  a bug of ioflt
                              128+N  ended by signal N
""",
    ),
    (
        "Files",
        """
            as root           as another user
  state     /var/lib/ioflt    $XDG_STATE_HOME/ioflt (~/.local/state/ioflt)
  sockets   /run/ioflt        $XDG_RUNTIME_DIR/ioflt; for members of the
                              group ioflt root's
""",
    ),
    (
        "Environment",
        """
  IOFLT_HOME    keep state and sockets in this directory instead
  NO_COLOR      no colours
""",
    ),
)


class _Program(LazyGroup):
    """The whole program. Each command ends by naming the providers that were never backed up."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            result = super().invoke(ctx)
        except (click.UsageError, click.exceptions.Exit):  # no command ran: a slip, or help was shown
            raise
        except KeyboardInterrupt as error:  # click would write an empty line, and forget which signal it was
            raise click.Abort(str(error)) from error
        except Exception:  # said after a failure, too, which goes on
            self._remind(ctx)
            raise
        self._remind(ctx)
        return result

    @staticmethod
    def _remind(ctx: click.Context) -> None:
        if ctx.invoked_subcommand != "completion":
            from ioflt.cli.session import remind

            remind()


cli = _Program(
    name="ioflt",
    sections=_SECTIONS,
    manual=_MANUAL,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Encrypted storage for virtual machines: a datastore that holds only ciphertext, and a mount that"
    " shows its files decrypted to the programs of this machine.",
)
click.version_option(__version__, prog_name="ioflt", message="%(prog)s %(version)s")(cli)


def main() -> int:
    """Run the command that `sys.argv` names. Returns the exit code."""
    streams.fill_closed()
    try:
        logs.show_warnings()
        hygiene.forbid_dumps()  # commands have passphrases, data keys and plaintext in memory
        result = cli.main(prog_name="ioflt", standalone_mode=False)
        sys.stdout.flush()
    except SystemExit:  # completion ends so
        raise
    except BaseException as error:
        from ioflt.cli.failures import report

        as_json = not {"--json", "--json-progress"}.isdisjoint(sys.argv)
        return report(error, as_json=as_json, numbered=sys.argv[1:2] == ["backup"])
    return result if isinstance(result, int) else 0
