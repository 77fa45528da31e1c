"""LPIPS (Zhang et al. 2018) with VGG16."""

from diamond_bench.metrics.lpips import lpips_metric

METRIC = lpips_metric("lpips_vgg", "vgg", "LPIPS, VGG16", "LPIPS v0.1, VGG16, learned heads", 100.0)
