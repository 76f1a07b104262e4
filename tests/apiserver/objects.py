"""Makes the largest object that a schema allows."""

from typing import Any


def largest(schema: dict[str, Any], number: int = 0) -> Any:
    """A value with every text, list and map at its bound; *number* tells the items of a list apart."""
    match schema:
        case {"enum": known}:
            return max(known, key=len)
        case {"type": "boolean"}:
            return False
        case {"type": "integer", "maximum": high}:
            return high
        case {"format": "date-time"}:
            return "2030-01-31T09:00:00.123456789+01:00"
        case {"type": "string", "maxLength": length, **rest}:
            letter = "A" if "[A-Z]" in rest.get("pattern", "") else "a"
            return _numbered(letter, length, number)
        case {"type": "array", "items": items, "maxItems": length}:
            return [largest(items, item) for item in range(length)]
        case {"properties": fields}:
            return {name: largest(inner, number) for name, inner in fields.items()}
        case {"maxProperties": count}:
            return {f"key-{item:04}": "x" * 100 for item in range(count)}
    raise AssertionError(schema)


def _numbered(letter: str, length: int, number: int) -> str:
    """A text of *length* that differs by its *number*, in letters alone."""
    mark = "".join(chr(ord(letter) + int(digit)) for digit in f"{number:04}")
    return letter * (length - len(mark)) + mark
