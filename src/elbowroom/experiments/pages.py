"""The page of an experiment: what was asked, the table, the figure, and what was decided."""

from collections.abc import Mapping, Sequence

from .claims import Decision
from .experiment import Experiment, Findings

__all__ = ["claims_page", "experiment_page"]

DECIDED = ("claim", "estimand", "data", "mean", "se", "spread", "errors", "n", "runs", "ran out", "verdict")

def experiment_page(experiment: Experiment, findings: Findings, figure: str, facts: Mapping[str, str]) -> str:
    """The page in Markdown.

    Args:
        figure: the name of the file of the figure.
        facts: what else a reader must know of the run, such as the command and the versions.
    """
    lines = [
        f"# {experiment.name} ({_section(experiment)})",
        "",
        f"{experiment.question} {experiment.how}",
        "",
        f"![{experiment.name}]({figure})",
        "",
        *_table(findings.header, findings.rows),
        "",
        "Standard errors in brackets count the images as a sample.",
        "",
        "## What was decided",
        "",
        *(f"- {_in_words(decision)}" for decision in findings.decisions),
        "",
        *_decisions(findings.decisions),
        "",
        "## How it was made",
        "",
        *(f"- {key}: {value}" for key, value in facts.items()),
    ]
    return "\n".join(lines) + "\n"


def claims_page(decisions: Mapping[str, Sequence[Decision]]) -> str:
    """The claims of all experiments, by the name of the experiment, on one page in Markdown."""
    lines = ["# Claims of the paper, decided", ""]
    for name, each in decisions.items():
        lines += [f"## {name}", "", *_decisions(each), ""]
    return "\n".join(lines)


def _section(experiment: Experiment) -> str:
    """Where the paper has it, such as "section 5.2" or "appendix"."""
    return f"section {experiment.section}" if experiment.section[0].isdecimal() else experiment.section


def _in_words(decision: Decision) -> str:
    """What the paper says, what was found, and whether they agree."""
    claim = decision.claim
    found = f"{_with_article(claim.estimand)} is {decision.mean:+.2f} +- {decision.se:.2f} nats"
    if decision.spread is not None:
        found += f", with a standard deviation of {decision.spread:.2f} between {decision.n_runs} trainings"
    agrees = {
        "holds": "so it holds here",
        "does not hold": "so it does not hold here",
        "cannot tell": "which these data cannot tell from zero",
    }[decision.verdict]
    return f"{claim.whose} that {claim.says}. On {claim.data}, {found}, {agrees}."


def _with_article(estimand: str) -> str:
    """As it stands within a sentence, where formulas and numbers take no article."""
    is_formula = estimand.startswith(("L[", "KL(", "log p")) or estimand[0].isdecimal()
    return estimand if is_formula else f"the {estimand}"


def _decisions(decisions: Sequence[Decision]) -> list[str]:
    rows = [
        (
            decision.claim.says, decision.claim.estimand, decision.claim.data, f"{decision.mean:+.2f}",
            f"{decision.se:.2f}", "" if decision.spread is None else f"{decision.spread:.2f}",
            f"{decision.errors:+.1f}", f"{decision.n:,}",
            "one run" if decision.n_runs == 1 else f"{decision.n_runs} runs",
            "{} of {}".format(*decision.ran_out) if decision.ran_out[1] else "no fits", f"**{decision.verdict}**",
        )
        for decision in decisions
    ]  # fmt: skip
    explained = (
        "The estimand is greater than zero if the claim holds. Its mean is in nats, as are `se`, its standard error "
        "with the data as a sample, and `spread`, the standard deviation of its mean between trainings. `errors` is "
        "the distance from zero in standard errors, the trainings' included. Two of them decide, of ten data or more; "
        "with a spread that few trainings tell, as many as Student's t asks in place of two. `ran out` counts fits "
        "that were still gaining when their budget ended, of all fits of a row."
    )
    return [*_table(DECIDED, rows), "", explained]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    ruler = ["---" for _ in header]
    cells = ([cell.replace("|", r"\|") for cell in row] for row in (header, ruler, *rows))
    return [f"| {' | '.join(row)} |" for row in cells]
