"""For the API pages: each class's docstring lists its fields, with their descriptions or the comments behind them."""

import ast
from typing import Any

from griffe import Attribute, Class, ExprCall, Extension


class FieldDocs(Extension):
    """Fields of dataclasses and named tuples say what they are in `description=` or in a comment."""

    def on_class_members(self, *, cls: Class, **_: Any) -> None:
        """Add a list of the fields to the class's docstring."""
        fields = [
            each
            for each in cls.members.values()
            if isinstance(each, Attribute) and each.annotation and "property" not in each.labels
        ]
        if cls.docstring and fields:
            lines = [f"    {field.name}: {_description(field) or _comment(field) or '…'}" for field in fields]
            cls.docstring.value += "\n\nAttributes:\n" + "\n".join(lines)


def _description(field: Attribute) -> str:
    """What pydantic's Field says, with the default where it is a plain value."""
    if not isinstance(field.value, ExprCall):
        return ""
    said = {
        getattr(each, "name", "default"): str(getattr(each, "value", each)) for each in field.value.arguments
    }
    if "description" not in said:
        return ""
    default = f" (default: {ast.literal_eval(said['default'])})" if "default" in said else ""
    return str(ast.literal_eval(said["description"])) + default


def _comment(field: Attribute) -> str:
    last = field.lines_collection[field.filepath][field.endlineno - 1]
    return last.partition("  # ")[2]
