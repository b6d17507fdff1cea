"""One module a skill; each exports ``SKILL``. ``all_skills`` lists them in the order of the docs."""

from __future__ import annotations

from importlib import import_module

from coe.demo.skill import Skill

MODULES = ("arithmetic", "units", "calendar", "extraction", "sql", "letters", "logic", "sorting", "regex")


def all_skills() -> tuple[Skill, ...]:
    """Every demonstration skill."""
    skills = (import_module(f"{__name__}.{module}").SKILL for module in MODULES)
    return tuple(skill for skill in skills if isinstance(skill, Skill))


def skill_named(name: str) -> Skill:
    """The skill called ``name``; raises ``KeyError`` naming the choices."""
    by_name = {skill.name: skill for skill in all_skills()}
    if name not in by_name:
        raise KeyError(f"no skill {name!r}; there are {', '.join(by_name)}")
    return by_name[name]
