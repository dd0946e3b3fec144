"""What sizes and dtypes a folded network takes, and how the conditions on them are found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from refold.dialects.aten._conditions import Condition, Conditions, Shapes, allows, not_among
from refold.dialects.aten._constants import draws_at_random
from refold.dialects.aten._guard import TracedInput
from refold.dialects.aten._retrace import Retrace, asks_no_more, at_example, find_alternatives
from refold.dialects.aten._trials import Outcome, Trial, Trials


@dataclass(frozen=True, slots=True)
class Allowed:
    """The sizes for which all `conditions` hold, or all conditions of one of the `alternatives`, and the dtypes beside the example's.

    `trials` are runs of the model and its trace at sizes other than the example's, `dtypes` those with inputs of other dtypes in which both
    gave the same.
    """

    conditions: Conditions
    alternatives: tuple[Conditions, ...] = ()
    trials: tuple[Trial, ...] = ()
    dtypes: tuple[tuple[str, torch.dtype, Trial], ...] = ()

    def takes(self, shapes: Shapes) -> bool:
        """Whether inputs of these shapes are taken."""
        return any(allows(one, shapes) for one in (self.conditions, *self.alternatives))

    @property
    def shown(self) -> list[Trial]:
        """The trials that are taken in which the model and its trace gave the same."""
        return [trial for trial in self.trials if trial.outcome is Outcome.SAME and self.takes(trial.shapes)]

    @property
    def refused(self) -> Iterator[tuple[Shapes, Condition]]:
        """Sizes that the model takes and that are not taken here, with the first condition that they break."""
        for trial in self.trials:
            if trial.outcome not in (Outcome.REFUSED, Outcome.SKIPPED) and not self.takes(trial.shapes):
                yield trial.shapes, next(one for one in self.conditions if not one.holds_at(trial.shapes))

    def has_exceptions(self, condition: Condition) -> bool:
        """Whether sizes that break a condition were seen to be taken for another reason."""
        return any(not condition.holds_at(trial.shapes) and self.takes(trial.shapes) for trial in self.trials)

    def with_shared_noted(self) -> Allowed:
        """The same, with `is_shared` set on the conditions that rule out nothing that the model was seen to take."""

        def is_shared(condition: Condition) -> bool:
            broken = [one for one in self.trials if one.outcome is not Outcome.SKIPPED and not condition.holds_at(one.shapes)]
            if not broken or not all(one.outcome is Outcome.REFUSED or self.takes(one.shapes) for one in broken):
                return False
            # An alternative may allow a part alone of what this condition rules out: sizes that it rules out too must have been tried.
            allowing = [other for other in self.alternatives if any(allows(other, one.shapes) for one in broken)]
            asked = [one for other in allowing for one in not_among(other, self.conditions)]
            return all(any(not one.holds_at(trial.shapes) for trial in broken) for one in asked)

        return replace(self, conditions=tuple(replace(one, is_shared=is_shared(one)) for one in self.conditions))


def find_allowed(trials: Trials, conditions: Sequence[Condition], inputs: Sequence[TracedInput], retrace: Retrace | None) -> Allowed:
    """Run the model beside its trace, and where it can be traced again, do so at sizes that the `conditions` rule out.

    A program that draws random numbers is not tried, since no two of its runs are alike.
    """
    if any(map(draws_at_random, trials.program.graph.nodes)):
        return Allowed(tuple(trials.with_example(conditions)))
    kept = trials.settle(conditions)
    broken = [one for one in conditions if not one.is_assumed and not one.holds_at(trials.example)]
    if broken:
        kept += at_example(trials, broken, kept, retrace)
    alternatives = () if retrace is None else tuple(find_alternatives(trials, kept, retrace))
    dtypes = tuple(
        (one.name, dtype, trial)
        for one in inputs
        for dtype, trial in trials.other_dtypes(one)
        if retrace is None or asks_no_more(trials, conditions, retrace, {one.name: dtype})
    )
    elsewhere = tuple(trial for trial in trials.seen.values() if trial.shapes != trials.example)
    return Allowed(tuple(kept), alternatives, elsewhere, dtypes)
