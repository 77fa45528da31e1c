"""Tables and figures of the paper, each built from results."""
