"""The code of jobs, one file per kind: run(config, context) -> Result. Only here do data, models and metrics meet."""
