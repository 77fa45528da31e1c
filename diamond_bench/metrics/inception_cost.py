"""The cost of FID's Inception network, without torch."""

INCEPTION_FLOPS = 1.14e10
"""Floating-point operations for one image of 299 x 299: two for each multiply-add. tests/test_inception.py counts them."""
