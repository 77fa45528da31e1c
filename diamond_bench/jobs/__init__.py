"""One file a job kind: run(config, context) -> Result. The only place where data, models and metrics meet."""
