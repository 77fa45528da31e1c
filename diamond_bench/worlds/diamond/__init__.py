"""The family `diamond`: a denoiser that predicts the next frame from the last frames and actions."""
