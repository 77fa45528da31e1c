"""Packages that only some games need."""

from importlib.util import find_spec

from diamond_bench.errors import UserError


def check_package(module: str, game: str) -> None:
    """Raises UserError if the package of a game is not installed. The package is not imported."""
    if find_spec(module) is None:
        package = module.replace("_", "-")
        raise UserError(f"{game}: it needs the package {package}; get it with: pip install '.[envs3d]' in the checkout")
