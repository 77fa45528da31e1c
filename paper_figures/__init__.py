"""Tables and figures of the paper, each from results."""
