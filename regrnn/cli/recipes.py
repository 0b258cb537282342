"""`regrnn recipes`."""

from json import dumps
from pathlib import Path


def recipes(name: str | None = None, /, *, json: bool = False) -> None:
    """List the recipes that come with the package, or show one whole.

    Parameters
    ----------
    name
        The recipe to show; it is a good beginning for a TOML file of your own.
    json
        Print JSON.
    """
    from regrnn.training.recipe import RECIPES, read_recipe, recipe_from_dict, recipe_names

    if name is not None:
        values = read_recipe(name)
        recipe_from_dict(values, name)  # a file of one's own may have anything in it
        path = RECIPES / f"{name}.toml" if name in recipe_names() else Path(name)
        print(dumps(values, indent=2) if json else path.read_text(encoding="utf-8").rstrip())
        return
    found = {name: read_recipe(name) for name in recipe_names()}
    if json:
        print(dumps(found, indent=2))
        return
    for name, values in found.items():
        print(f"{name}: {values['summary']}")
        for key, text in values.get("expected", {}).items():
            print(f"    {key:8} {text}")
    print("\nregrnn train NAME [--data PATH] [--section.key VALUE ...]; regrnn recipes NAME shows its settings")
