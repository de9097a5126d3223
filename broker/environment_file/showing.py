"""A plan for people, and as data: strings by value, secrets and auth connections by name.

* One line a change; text from outside is escaped, so that none of it moves a cursor.
"""

from collections.abc import Callable
from typing import Any, Final

from broker.environment_file.document import Named
from broker.environment_file.plan import Detail, Plan, Step
from broker.environment_file.tree import shown

MARKS: Final = {"create": "+", "update": "~", "replace": "-/+", "delete": "-"}
MAX_WARNINGS: Final = 20

Paint = Callable[[str, str], str]  # mark, text


def lines(plan: Plan, paint: Paint) -> list[str]:
    """What a person reads."""
    found = []
    for step in plan.steps:
        mark = MARKS[step.action]
        found.append(paint(mark, f"{mark} {headline(step)}"))
        found += [paint(_mark(one), f"    {_line(one)}") for one in step.details]
        found += [paint("+", f"    + {field}: given when it is applied") for field in step.needs]
    if plan.left:
        found.append("not in the file, and left as it is:")
        found += [f"    {one}" for one in plan.left]
    found += [f"warning: {one}" for one in plan.warnings[:MAX_WARNINGS]]
    if len(plan.warnings) > MAX_WARNINGS:
        found.append(f"warning: {len(plan.warnings) - MAX_WARNINGS} more; --json lists them all")
    return [*found, summary(plan)]


def summary(plan: Plan) -> str:
    """The last line."""
    if not plan.steps:
        return "no changes"
    counts = {
        "to create": _count(plan, "create"),
        "to change": _count(plan, "update"),
        "to replace": _count(plan, "replace"),
        "to delete": _count(plan, "delete"),
    }
    return ", ".join(f"{count} {word}" for word, count in counts.items() if count)


def headline(step: Step) -> str:
    """A step in a few words."""
    word = step.kind.replace("_", " ")
    if step.kind == "variable" and step.action != "delete":
        return f"{word} {step.name} ({step.type})"
    return f"{word} {_name(step.name)}"


def as_data(plan: Plan) -> dict[str, Any]:
    """What a program reads."""
    return {
        "changes": bool(plan.steps),
        "steps": [
            {
                "action": step.action,
                "kind": step.kind,
                "name": step.name,
                "details": [
                    {"part": one.part, "before": _data(one.before), "after": _data(one.after)}
                    for one in step.details
                ],
                "needs": list(step.needs),
            }
            for step in plan.steps
        ],
        "left": plan.left,
        "warnings": plan.warnings,
    }


def _count(plan: Plan, action: str) -> int:
    return sum(step.action == action for step in plan.steps)


def _mark(detail: Detail) -> str:
    if detail.before is None:
        return "+"
    return "-" if detail.after is None else "~"


def _line(detail: Detail) -> str:
    mark = _mark(detail)
    if mark == "~":
        return f"~ {detail.part}: {_value(detail.before)} -> {_value(detail.after)}"
    return f"{mark} {detail.part}: {_value(detail.after if mark == '+' else detail.before)}"


def _value(value: str | Named | None) -> str:
    if isinstance(value, Named):
        return f"{value.kind.replace('_', ' ')} {_name(value.name)}"
    return shown(value or "")


def _name(name: str) -> str:
    return name if name.isprintable() else shown(name)


def _data(value: str | Named | None) -> str | dict[str, str] | None:
    return {value.kind: value.name} if isinstance(value, Named) else value
