"""`ioflt provider test`: each step from here to a key and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ioflt.cli import reporting
from ioflt.cli.hints import advising
from ioflt.cli.provider_common import open_providers
from ioflt.cli.render import emit, json_option, printable
from ioflt.errors import IofltError, ProviderUnavailable

if TYPE_CHECKING:
    from ioflt.keys.trial import Step, Tell


@click.command(short_help="Try a provider out, step by step.")
@click.argument("name")
@json_option
def test(name: str, as_json: bool) -> None:
    """Try the provider NAME: make a key and get it back; with key servers, on each of them.

    With a token (an HSM) each step on the way to its key is shown. The exit code is 4 when a step failed. A
    key on key servers is destroyed again.
    """
    steps: list[Step] = []

    def tell(step: Step) -> None:
        steps.append(step)
        if not as_json:
            where = f"{step.server}  " if step.server else ""
            print(printable(f"{where}{step.step}: {step.error or step.result}"), flush=True)

    with open_providers() as providers, reporting.by_files(name):
        kind = providers.about(name).kind
        well = providers.try_out(name, tell)
        if kind != "kmip":
            well = well and _try_keyd(name, tell)
    emit(steps, lambda: None, as_json)
    if not well:
        failed = sum(bool(step.error) for step in steps)
        raise ProviderUnavailable(f"the provider {name} did not pass: {failed} of {len(steps)} steps failed")


def _try_keyd(name: str, tell: Tell) -> bool:
    from ioflt.keys.client import KeyClient
    from ioflt.keys.trial import Step

    advice = "see that the server answers there, and that the file lets you in"
    with (
        advising(ProviderUnavailable, "key server(?!.*certificate is refused)|logs in", advice),
        KeyClient.connect() as keys,
    ):
        keys.reload()  # what it remembers of a server that hung does not count
        made = keys.new_key(name)
        tell(Step("", "make a key", made.key_id))
        ((dek, blob),) = keys.generate(made, [b"test"])
        (again,) = keys.unwrap([(made, blob, b"test")])
        if isinstance(again, IofltError):
            raise again
        with dek, again:
            well = dek == again
        tell(Step("", "get it back", "done" if well else "failed", "" if well else "another key came back"))
    return well
