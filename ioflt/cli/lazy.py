"""Command groups that import a command's module when the command is used, not when help is shown."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem


@dataclass(frozen=True, slots=True)
class Entry:
    """One command: its name, where it lives (`module`, `attribute`), and the line that help shows."""

    name: str
    module: str
    attribute: str
    help: str

    def load(self) -> click.Command:
        """The command itself. Raises ImportError when its module cannot be imported."""
        command = getattr(import_module(self.module), self.attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{self.module}.{self.attribute} is no command")
        return command


@dataclass(frozen=True, slots=True)
class Section:
    """Entries shown under one title."""

    title: str
    entries: tuple[Entry, ...]


class LazyGroup(click.Group):
    """A group made from sections of entries; `manual` is (title, lines) pairs that end its help."""

    def __init__(
        self,
        *args: Any,  # noqa: ANN401 click.Group's own
        sections: Sequence[Section] = (),
        manual: Sequence[tuple[str, str]] = (),
        **kwargs: Any,  # noqa: ANN401 click.Group's own
    ) -> None:
        super().__init__(*args, **kwargs)
        self._sections = sections
        self._manual = manual

    def _entries(self) -> Iterator[Entry]:
        for section in self._sections:
            yield from section.entries

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [entry.name for entry in self._entries()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return next((entry.load() for entry in self._entries() if entry.name == cmd_name), None)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, known = args[0], self.list_commands(ctx)
        if name not in known and not name.startswith("-") and not ctx.resilient_parsing:
            close = difflib.get_close_matches(name, known, n=1)
            meant = f"; did you mean {close[0]}?" if close else ""
            raise click.UsageError(f"no such command: {name}{meant}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section in self._sections:
            with formatter.section(section.title):
                formatter.write_dl([(entry.name, entry.help) for entry in section.entries])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, lines in self._manual:
            with formatter.section(title):
                for line in lines.strip("\n").splitlines():
                    formatter.write(f"{' ' * formatter.current_indent}{line}".rstrip() + "\n")

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        commands = [
            CompletionItem(entry.name, help=entry.help)
            for entry in self._entries()
            if entry.name.startswith(incomplete)
        ]
        return commands + click.Command.shell_complete(self, ctx, incomplete)
