"""The command `correlate`: whether metrics of world models rank the agents that learned in them."""

from typing import Annotated

import typer

from diamond_bench.cli.common import STUDIES, AsJson, app, open_store, out, say, working, writing
from diamond_bench.cli.several_studies import studies_named


@app.command(rich_help_panel=STUDIES)
def correlate(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[STUDY [KEY=VALUE]...]...", help="Studies with their settings, such as scale=smoke. By default the whole store."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show how strongly the metrics of world models and the returns of their agents are correlated.

    Takes agents that have both evaluations: evaluate_agent, and evaluate_world_model of the world model in which they learned
    (evaluation.world_model=AGENT). A game needs ten of them, all under one condition. Other games are left out with a note, and the exit
    code is 2 if none remains.
    """
    with working("correlating"):  # the imports take seconds, too
        from diamond_bench import api
        from diamond_bench.printing import print_frame, print_json
        from diamond_bench.report.correlation import correlate as correlated
        from diamond_bench.report.correlation import write_correlations
        from diamond_bench.results.table import number_in_words

        named = studies_named(words or [])
        plans = [api.find_study(*study, say=say)[0] for study in named]
        store = open_store([word for word in words or [] if word.startswith("output_dir=")])
        refs = [ref for plan in plans for ref in plan.jobs] if plans else store.refs()
        found = correlated(store, refs)
    for note in found.notes:
        say(f"note: {note}")
    if as_json:
        print_json(out, found.table.to_dict("records"))
    else:
        print_frame(out, found.table.map(lambda cell: number_in_words(cell, 3) if isinstance(cell, float) else cell))
    with writing(store):
        files = write_correlations(found, store, [word for word in words or [] if not word.startswith("output_dir=")], say)
    for file in files:
        say(f"Wrote {file}")
