"""The document of `show` and `run`: what a study found."""

from __future__ import annotations

from pydantic import Field

from objectives.schema.environment import Environment
from objectives.schema.evaluation import Outcome
from objectives.schema.limits import Limits
from search.documents.json_document import Document, Part
from search.documents.numbers import ConfigurationNumbers, configuration_numbers, default_numbers
from studies.results.facts import facts
from studies.results.front import Preference, Winner, WorkloadResult
from studies.results.labels import workload_label
from studies.results.results import Results
from studies.results.summary import summary
from studies.storage.url import shown
from variants.axes import Choice


class WinnerNumbers(ConfigurationNumbers):
    """A winner: a configuration with its numbers."""

    clear: bool = Field(description="False: others may be as fast, and no number decides")
    ties: tuple[str, ...] = Field(
        description="Variants in words that cannot be told from it by latency"
    )


class WorkloadNumbers(Part):
    """A workload, its default, its winners and its front."""

    label: str = Field(description="The workload in words, as tables have it")
    workload: dict[str, Choice] = Field(description="Its choice for each axis")
    default: ConfigurationNumbers = Field(
        description="PyTorch's default: what all others are divided by"
    )
    default_is_roofline: bool = Field(
        description="The default failed, and ratios are to its roofline"
    )
    winners: dict[Preference, WinnerNumbers] = Field(
        description="By preference; empty where nothing was measured"
    )
    strict_winners: dict[Preference, WinnerNumbers] = Field(
        description="The same within the usual error, where the study accepts a larger one"
    )
    front: tuple[ConfigurationNumbers, ...] = Field(
        description="What nothing beats in both memory and latency, by rising memory"
    )


class RunNumbers(Part):
    """How a run went."""

    ended: str = Field(description="Why it ended, in a line")
    interrupted: bool = Field(description="By Ctrl-C or SIGTERM; exit status 130")
    trials: int = Field(description="Trials of this run alone")
    wall_s: float = Field(description="Seconds, from the first process to the last verdict")
    seconds: dict[str, float] = Field(description="Seconds by stage, of all devices together")
    next: tuple[str, ...] = Field(description="Commands that lead on")


class StudyDocument(Document):
    """What a study found."""

    study: str = Field(description="Its name")
    storage: str = Field(description="Where it is; a password is left out")
    environment: Environment = Field(description="Device and software that measured it last")
    earlier_environments: int = Field(
        description="Others, in which some of its trials were measured"
    )
    sampler: str = Field(description="What proposed its trials")
    seed: int = Field(description="Of inputs and proposals")
    limits: Limits = Field(description="What a trial must keep to")
    axes: dict[str, tuple[Choice, ...]] = Field(description="The space: choices of each axis")
    trials: int = Field(description="Told so far")
    abandoned: int = Field(description="Begun by a process that ended")
    outcomes: dict[Outcome, int] = Field(description="How many trials ended in each")
    summary: str = Field(description="The verdict, in a sentence")
    facts: tuple[str, ...] = Field(description="What to know beside the numbers, a line each")
    workloads: tuple[WorkloadNumbers, ...] = Field(
        description="Those whose default was measured, in the order of the space"
    )
    run: RunNumbers | None = Field(description="Of `run`; null of `show`")


def study_document(
    results: Results, storage: str, command: str = "show", run: RunNumbers | None = None
) -> StudyDocument:
    """Return the document of a study's results."""
    varying = set(results.plan.space.searched)
    return StudyDocument(
        command=command,
        study=results.study_name,
        storage=shown(storage),
        environment=results.environment,
        earlier_environments=len(results.earlier_environments),
        sampler=results.plan.sampler,
        seed=results.plan.seed,
        limits=results.plan.limits,
        axes=dict(results.plan.space.axes),
        trials=len(results.trials),
        abandoned=results.abandoned,
        outcomes=dict(results.outcomes),
        summary=summary(results),
        facts=tuple(facts(results)),
        workloads=tuple(
            _workload(result, workload_label(result.workload, varying))
            for result in results.workloads
        ),
        run=run,
    )


def _workload(result: WorkloadResult, label: str) -> WorkloadNumbers:
    return WorkloadNumbers(
        label=label,
        workload=result.workload.model_dump(mode="json", exclude_none=True),
        default=default_numbers(result),
        default_is_roofline=not result.baseline.measured,
        winners={name: _winner(won, result) for name, won in result.winners.items()},
        strict_winners={name: _winner(won, result) for name, won in result.strict_winners.items()},
        front=tuple(configuration_numbers(candidate, result) for candidate in result.front),
    )


def _winner(won: Winner, result: WorkloadResult) -> WinnerNumbers:
    numbers = configuration_numbers(won.candidate, result)
    ties = tuple(configuration_numbers(tie, result).label for tie in won.ties)
    return WinnerNumbers(**numbers.model_dump(), clear=won.clear, ties=ties)
