"""``python -m docs.generate``: write the generated pages of the reference."""

from docs.generate.pages import REFERENCE, pages

if __name__ == "__main__":
    for name, text in pages().items():
        (REFERENCE / name).write_text(text, encoding="utf-8")
