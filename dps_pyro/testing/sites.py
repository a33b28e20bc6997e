"""Checks of the prior: its sites, whether they belong to the prompts, and the rows that are asked for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dps_pyro.testing.case import Case, DynamicsError, differ

__all__ = ["check_own_values", "check_rows", "check_sites", "is_own"]

INSIDE = "Sample it inside `with prompts as rows:`"


def is_own(site: Any) -> bool:
    """Whether each prompt has its own value of a site, which is then inside the prompts plate."""
    return any(frame.name == "prompts" for frame in site["cond_indep_stack"])


def check_sites(case: Case) -> None:
    """Check that sites are continuous, and that the sites inside the prompts plate are exactly those per prompt."""
    drawn = case.draw()
    if drawn.params:
        mend = "Give it a prior with pyro.sample; a param is in no posterior, and the tracker would not know it"
        raise case.error("prior", "sites of pyro.sample", f"pyro.param({drawn.params[0]!r})", mend)
    fewer = case.draw(num_prompts=case.num_prompts - 1).sites
    if strange := sorted(drawn.sites.keys() ^ fewer.keys()):
        came = f"{strange[0]!r} with {case.num_prompts} or with {case.num_prompts - 1} only"
        mend = f"What a prompt has of its own is one site for all prompts. {INSIDE}, without a loop"
        raise case.error("prior", "the same sites for any number of prompts", came, mend)
    for name, site in drawn.sites.items():
        _check_site(case, name, site, fewer[name])
    case.parameters({})


def _check_site(case: Case, name: str, site: Any, fewer: Any) -> None:
    law, N = site["fn"], case.num_prompts
    if hasattr(torch.nn.Module, name):
        mend = f"Pyro's guides are torch modules, and keep a site's parameters under its name: call it 'my_{name}', say"
        raise case.error("prior", "site names that torch.nn.Module has no use for", repr(name), mend)
    if law.has_enumerate_support or law.support.is_discrete:
        mend = (
            "SVI and NUTS learn continuous parameters; a prompt's unknown kind belongs into its state (`PromptTypes`)"
        )
        raise case.error("prior", f"a continuous site {name!r}", type(law).__name__, mend)
    for frame, other in zip(site["cond_indep_stack"], fewer["cond_indep_stack"], strict=True):
        if frame.name != "prompts" and frame.size != other.size:
            mend = f"{INSIDE}, the plate that prior is given: a plate of its own cannot be a mini-batch's"
            raise case.error("prior", f"{name!r} in the plate 'prompts'", f"the plate {frame.name!r}", mend)
    shape, shape_of_fewer = (
        (law.event_shape, fewer["fn"].event_shape) if is_own(site) else (law.shape(), fewer["fn"].shape())
    )
    if shape != shape_of_fewer:
        raise _follows_the_prompts(case, name, shape, is_own(site))
    covered = {frame.dim for frame in site["cond_indep_stack"]}
    batch = law.batch_shape
    loose = [size for place, size in enumerate(batch) if place - len(batch) not in covered and size != 1]
    if loose:
        mend = f"Say that its parts belong together: `.to_event({len(loose)})` on the distribution"
        came = f"a batch of {list(batch)}" + (f", {N} being the prompts" if is_own(site) else "")
        raise case.error("prior", f"{name!r} to have the plates' dimensions only", came, mend)


def _follows_the_prompts(case: Case, name: str, shape: torch.Size, own: bool) -> DynamicsError:
    if own:
        mend = "Inside the plate say what one prompt has: the plate makes it as many as there are prompts"
        return case.error("prior", f"one prompt's {name!r} of a fixed shape", f"{list(shape)}, with the prompts", mend)
    came = f"shape {list(shape)}, which follows the number of prompts"
    mend = f"It is a site of each prompt, declared outside the prompts plate. {INSIDE}, of one prompt's shape"
    return case.error("prior", f"the global site {name!r} to be of a fixed shape", came, mend)


def check_own_values(case: Case) -> None:
    """Check that the laws of a prompt depend on its own values and on shared ones, never on those of other prompts."""
    drawn, others = case.draw(), case.values()
    values = {name: site["value"] for name, site in drawn.sites.items()}
    step = case.step(0)
    before = case.laws(case.parameters(values), step)
    for name in (name for name, site in drawn.sites.items() if is_own(site)):
        dim = _plate_dim(drawn.sites[name])
        for changed in (0, case.num_prompts - 1):
            row = torch.tensor([changed])
            value = values[name].index_copy(dim, row, others[name].index_select(dim, row))
            after = case.laws(case.parameters({**values, name: value}), step)
            rest = torch.arange(case.num_prompts) != changed
            for method, one, two in zip(before._fields, before, after, strict=True):
                axis = -3 if method == "transition" else -2
                keep = rest.nonzero().squeeze(-1)
                if differ(one.index_select(axis, keep), two.index_select(axis, keep)):
                    mend = (
                        f"{name!r} is sampled inside `with prompts`, once for each prompt: a global site, which all "
                        "prompts share, is sampled before it; the values of a site per prompt are used row by row"
                    )
                    came = f"those of others to change with prompt {changed}'s"
                    raise case.error(method, f"each prompt's laws to depend on its own {name!r}", came, mend)


def _plate_dim(site: Any) -> int:
    """The dimension of a site's value that runs over the prompts."""
    (dim,) = (frame.dim for frame in site["cond_indep_stack"] if frame.name == "prompts")
    return int(dim) - len(site["fn"].event_shape)


def own_rows(site: Any, value: Tensor, rows: Tensor) -> Tensor:
    """Take the value of a site for some prompts, if it has one per prompt."""
    return value.index_select(_plate_dim(site), rows) if is_own(site) else value


def check_rows(case: Case) -> None:
    """Check that the parameters of some rows are those rows of the parameters of all prompts."""
    values, rows = case.values(), torch.tensor([case.num_prompts - 1, 1])
    every = case.laws(case.parameters(values), case.step(0))
    some = case.laws(case.parameters(values, rows), case.step(0, rows))
    for method, one, two in zip(every._fields, every, some, strict=True):
        if differ(one.index_select(-3 if method == "transition" else -2, rows), two):
            came = f"another for the prompts {rows.tolist()}"
            mend = (
                "Inside `with prompts as rows:` index the columns of all prompts with rows, `self.column[rows]`; and "
                "use nothing of all prompts together, such as `step.trials.max()`"
            )
            raise case.error(method, "the same law of a prompt whichever rows are asked for", came, mend)
