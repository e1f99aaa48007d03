"""Put the output of the demo into README.md, between its markers: the held-out ladder and the verdict.

elbowroom demo > demo.txt && python tools/readme_demo.py demo.txt
"""

import sys
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"
START, END = "<!-- demo -->\n", "<!-- /demo -->"


def main() -> None:
    text = Path(sys.argv[1]).read_text(encoding="utf-8")
    shown = text[text.index("heldout: ") : text.index("runs saved in")].strip()
    readme = README.read_text(encoding="utf-8")
    before, rest = readme.split(START)
    after = rest[rest.index(END) :]
    README.write_text(f"{before}{START}```\n{shown}\n```\n{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
