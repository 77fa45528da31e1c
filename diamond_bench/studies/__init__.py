"""Studies: their specs, the plan of jobs they expand to, registration, estimates. Without torch."""
