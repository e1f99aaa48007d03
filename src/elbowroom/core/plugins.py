"""The adapters that are installed, by the library whose models they take. Nothing of them is imported here."""

from importlib.metadata import EntryPoint, entry_points

__all__ = ["adapter_for", "installed_adapters"]

ENTRY_POINTS = "elbowroom.adapters"


def installed_adapters() -> dict[str, EntryPoint]:
    """The entry points of all adapters, by the name of the library, which is that of its top module."""
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def adapter_for(thing: object) -> str | None:
    """How to call the adapter that takes this model, such as "er.pythae"; None if no adapter is known.

    A model belongs to the library in which its class or a base of it was defined.
    """
    known = installed_adapters()
    for kind in type(thing).__mro__:
        point = known.get(kind.__module__.partition(".")[0])
        if point is not None:
            return f"er.{point.name}" if point.module.startswith("elbowroom.") else f"{point.module}.{point.name}"
    return None
