"""Studies: their specs, the plan of jobs they expand to, the store of artifacts, the table of results. No torch here."""
