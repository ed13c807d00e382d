"""`ioflt completion`: click's own completion scripts."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of SHELL.

    \b
    bash   ioflt completion bash > ~/.local/share/bash-completion/completions/ioflt
    zsh    ioflt completion zsh > "${fpath[1]}/_ioflt"
    fish   ioflt completion fish > ~/.config/fish/completions/ioflt.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None, shell  # noqa: S101 the choice above has only shells that click knows
    click.echo(kind(ctx.find_root().command, {}, "ioflt", "_IOFLT_COMPLETE").source())
