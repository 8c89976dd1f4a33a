"""For the API pages: each class's docstring lists its fields, with their descriptions or the comments behind them."""

from importlib import import_module
from typing import Any

from griffe import Attribute, Class, Extension


class FieldDocs(Extension):
    """Fields of dataclasses and named tuples say what they are in a description (pydantic) or in a comment."""

    def on_class_members(self, *, cls: Class, **_: Any) -> None:
        """Add a list of the fields to the class's docstring."""
        fields = [
            each
            for each in cls.members.values()
            if isinstance(each, Attribute) and each.annotation and "property" not in each.labels
        ]
        if cls.docstring and fields:
            described = _descriptions(cls)
            lines = [f"    {each.name}: {described.get(each.name) or _comment(each) or '…'}" for each in fields]
            cls.docstring.value += "\n\nAttributes:\n" + "\n".join(lines)


def _descriptions(cls: Class) -> dict[str, str]:
    """What pydantic knows of the fields; nothing for other classes."""
    if "gan_core.config" not in cls.path:
        return {}
    known = getattr(getattr(import_module("gan_core.config"), cls.name), "__pydantic_fields__", {})
    return {
        name: f"{field.description}{'' if field.default_factory else f' (default: {field.default})'}"
        for name, field in known.items()
    }


def _comment(field: Attribute) -> str:
    last = field.lines_collection[field.filepath][field.endlineno - 1]
    return last.partition("  # ")[2]
