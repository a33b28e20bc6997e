"""The training loop, top to bottom: select, roll out, reward, observe, advantages, update, sync.

One step with the defaults: 32 prompts are selected from the beliefs, 8 rollouts each make 256 completions. Say 24 of
the 32 groups are useful. All 32 are observed, because the tracker also learns from a group that is all wrong. The
24 x 8 = 192 completions with an advantage are trained on in one optimizer step, and the other 64 cost no forward pass.
If a third of all prompts are useful, uniform selection would have paid 256 rollouts for 88 completions to train on.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any

import torch

from dps_pyro.history.log import Features, RolloutHistory
from dps_pyro.models.selectors.oracle import OracleFilter
from dps_pyro.rollouts import Sleeps, closing
from dps_pyro.rollouts.seeds import seed_for
from dps_pyro.selection.plan import second_half
from dps_pyro.support.console import plain_console
from dps_pyro.trainers.config.config_file import check_resumed, load_config, save_config
from dps_pyro.trainers.config.settings import TrainConfig
from dps_pyro.trainers.parts import make_engine, make_sampler, make_task
from dps_pyro.trainers.policy.load import load_policy, load_reference
from dps_pyro.trainers.policy.reading import reading_features
from dps_pyro.trainers.run.boards import require_wandb
from dps_pyro.trainers.run.completions import log_completions
from dps_pyro.trainers.run.folder import RunFolder
from dps_pyro.trainers.run.full_log import Chosen, FullLog
from dps_pyro.trainers.run.live import LiveView
from dps_pyro.trainers.run.lock import claimed
from dps_pyro.trainers.run.summary import complete, finish
from dps_pyro.trainers.step.ahead import Ahead, Turn
from dps_pyro.trainers.step.bookkeeping import Clock, Drift, DrySpell, Ledger, Reasons
from dps_pyro.trainers.step.groups import Source, draw, evaluate, go_on, pictured, rewarded, roll_out, shown, told
from dps_pyro.trainers.step.optimizer import learning_rate, make_optimizer, set_learning_rate
from dps_pyro.trainers.step.policy_update import advantages_of, update, update_batch
from dps_pyro.trainers.step.prompts import fitting, prompt_limit

__all__ = ["train"]


def train(config: TrainConfig) -> dict[str, Any]:
    """Train, or resume training.

    Returns:
        The run's summary, as in its folder's `summary.json`.

    Raises:
        ValueError: a setting is wrong, the folder holds another run, another process is training in it, or the last
            checkpoint is damaged.
        OSError: a file cannot be read or written, for instance because the disk is full; the message names it.
        FloatingPointError: a loss, a gradient or a weight is no longer finite; the last checkpoint is good.
    """
    if config.machine.threads is not None:
        torch.set_num_threads(config.machine.threads)
    config = config.resolved()
    with claimed(config.task.out, resume=config.task.resume) as path:
        return _train(config, RunFolder(path, resume=config.task.resume))


def _train(config: TrainConfig, folder: RunFolder) -> dict[str, Any]:  # noqa: C901 - one loop, from top to bottom
    console = plain_console()
    say = partial(console.print, soft_wrap=True, markup=False, highlight=False)
    if config.task.resume and not folder.blank:
        check_resumed(load_config(folder.path / "config.yaml"), config)
        if (summary := folder.finished(config.task.steps, say)) is not None:
            say(f"{folder.path}: all {summary['steps']} steps are done; more: --steps")
            return complete(folder, config, summary, say)
    checkpoint = folder.load_checkpoint() if config.task.resume else None
    for name in [] if checkpoint is None else folder.damaged_completions(checkpoint):
        say(f"{folder.path / name} is not what was written; nothing but people reads it, and the run goes on.")
    if config.task.resume and checkpoint is None:
        found = "no run yet, the settings given start it" if folder.blank else "no checkpoint yet, the run starts"
        say(f"{folder.path}: there is {found} at the first step")

    # The parts: a policy, an engine that samples from it, a task, and a sampler that tracks the task's prompts.
    with folder.starting(save_config(config)), ExitStack() as opened:
        if config.evaluation.wandb is not None:
            require_wandb()
        policy, tokenizer = load_policy(config, None if checkpoint is None else checkpoint.path / "policy")
        reference = load_reference(config, policy)
        optimizer, rate = make_optimizer(policy, config), learning_rate(config)
        engine = opened.enter_context(closing(make_engine(config, policy, tokenizer)))
        ahead = Ahead()
        task = make_task(config, tokenizer)
        for note in getattr(task, "notes", ()):
            say(note)
        limit = prompt_limit(config, policy, engine)
        prompts, tests = (fitting(task, split, tokenizer, config, limit, say) for split in ("train", "test"))
        read: Features = {}
        number = config.selection.read_prompts
        if number and checkpoint is None:
            read = reading_features(policy, tokenizer, shown(tokenizer, task, prompts, config), number)
        elif number:  # by the policy of the first step, which is gone
            logged = RolloutHistory.from_parquet(folder.path / "history.parquet").features
            read = {name: column for name, column in logged.items() if name.startswith("reading ")}
        sampler = make_sampler(config, task, prompts, read)
        source = Source(engine, tokenizer, task, config, sampler.tolerance)
        full_log = FullLog(folder.path, sampler.history) if config.evaluation.full_log else None
        ledger, dry_spell, drift = Ledger(config.rollouts.group_size, sampler.tolerance), DrySpell(), Drift()
        if checkpoint is not None:
            ledger.load_state_dict(checkpoint.state["ledger"])
            sampler.load_state_dict(checkpoint.state["sampler"])
            if sampler.matched is not None:
                say(f"The prompts are not those that the run was saved with: {sampler.matched}.")
            else:  # rollouts that were drawn ahead are of the prompts as they were
                again = partial(pictured, source, prompts)
                ahead.load_state_dict(checkpoint.state.get("ahead", {}), policy.device, again)
            checkpoint.restore_optimizer(optimizer)
            checkpoint.restore_rng()
            if full_log is not None:
                full_log.resume(ledger.step)
        before = [] if checkpoint is None else checkpoint.metrics
        reasons = Reasons(before)
        project = config.evaluation.wandb
        folder.begin(save_config(config), ledger.step, sampler.history, metrics=before, wandb=project)
        opened = opened.pop_all()  # until here an error closes the engine, from here the end of the loop does

    with folder, opened, ahead, LiveView(steps=config.task.steps, done=ledger.step, folder=folder.path) as view:

        def held_out() -> None:
            result = evaluate(source, tests)
            ledger.accuracy = result["accuracy"] or 0.0
            entry = {"kind": "eval", "step": ledger.step, "rollouts": ledger.rollouts} | result
            if config.evaluation.keep_best:
                folder.keep_best(entry, policy, tokenizer)
            view.evaluated(folder.log(entry))

        def choose() -> Turn:
            """The next prompts, for the policy as it is."""
            if isinstance(sampler.tracker, OracleFilter) and ledger.step % config.selection.oracle_every == 0:
                sampler.tracker.tell(*told(source, prompts, ledger.step))
            chance = sampler.informative(config.rollouts.group_size)
            if config.rollouts.group_sizes:
                made = sampler.plan(
                    config.rollouts.batch_size * config.rollouts.group_size,
                    config.rollouts.group_sizes,
                    config.signal,
                )
                return Turn(ledger.step, made.rows, chance, sizes=made.sizes)
            rows = sampler.select(min(config.rollouts.candidates or len(prompts), len(prompts)))
            first = torch.full_like(rows, config.rollouts.first_rollouts) if config.rollouts.first_rollouts else None
            return Turn(ledger.step, rows, chance, sizes=first)

        if checkpoint is None:
            held_out()
        while ledger.step < config.task.steps:
            clock = Clock()
            with clock("select"):
                version, rows, chance, drawn, sizes = ahead.take() or choose()

            candidates = [prompts[row] for row in rows.tolist()]
            chances = chance[rows] if config.rollouts.refill == "missing" else None
            groups = roll_out(source, candidates, ledger.step, clock, drawn=drawn, sizes=sizes, chances=chances)
            if config.rollouts.first_rollouts:  # the second part goes where the posterior after the first promises most
                rates = sampler.tracker.rates().of(groups.of(rows))
                size = config.rollouts.group_size
                left = config.rollouts.batch_size * size - int(groups.sizes.sum()) - groups.skipped
                signal = config.signal
                more = second_half(rates, groups.solved, groups.sizes, left, most=2 * size, signal=signal)
                first = [candidates[place] for place in groups.of(torch.arange(len(rows))).tolist()]
                groups = go_on(source, groups, more, first, ledger.step, clock)
            with clock("observe"):
                # Dynamic sampling may have had enough before the last of them; some may not have been judged.
                rows = groups.of(rows)
                if config.by_belief:  # what was expected before these groups were seen
                    groups = groups._replace(expected=sampler.baseline(rows, groups.rewards))
                update_seed = seed_for(config.machine.seed, "update", ledger.step)
                taken = update_batch(groups, config, update_seed)
                sampler.observe(
                    rows, groups.solved, groups.sizes, version,
                    trained=taken.groups, progress=ledger.accuracy, useful=groups.useful,
                )  # fmt: skip
            if full_log is not None:
                rest = full_log.others(rows)
                seed = seed_for(config.machine.seed, "full_log", ledger.step)
                others = [prompts[row] for row in rest.tolist()]
                extra = rewarded(source, others, seed, clock)
                full_log.append(Chosen(rows, groups, taken.groups, chance[rows]), extra.of(rest), extra, ledger)
            if config.evaluation.log_completions and ledger.step % config.evaluation.log_completions == 0:
                weighed = advantages_of(groups, config) * taken.completions
                log_completions(folder.path, ledger.step, [prompts[row] for row in rows.tolist()], groups, weighed)

            if config.rollouts.async_rollouts and ledger.step + 1 < config.task.steps:
                with clock("select"):
                    turn = choose()
                asked = [prompts[row] for row in turn.rows.tolist()]
                seed = seed_for(config.machine.seed, "rollout", ledger.step + 1, 0)
                ahead.begin(turn, partial(draw, source, asked, seed, turn.sizes))
            elif isinstance(engine, Sleeps):
                with clock("sync"):
                    engine.sleep()
            with clock("update"):
                set_learning_rate(optimizer, now := rate(ledger.step))
                learned = update(policy, reference, optimizer, groups, config, update_seed)
            with clock("rollout"):
                ahead.wait()
            with clock("sync"):
                engine.sync(policy)

            ledger.book(groups.rewards, pool=float(chance.mean()), skipped=groups.skipped)
            known = sampler.metrics()
            entry = {
                "kind": "train",
                "step": ledger.step - 1,
                **({"policy_version": version} if config.rollouts.async_rollouts else {}),
                **ledger.metrics(),
                "useful_predicted": float(chance[rows].mean()),
                "useful_pool": float(chance.mean()),
                "belief": sampler.belief.mean(0).tolist(),
                "visited": known["visited"],
                "log_evidence": known["log_evidence"],
                "length": float(groups.rollouts.completion_mask.sum(1).double().mean()),
                "truncated": groups.rollouts.finish.count("length") / len(groups.rollouts.finish),
                "skipped": groups.skipped,
                "trained": int(taken.completions.sum()),
                **reasons.shares(groups.reasons),
                "learning_rate": now,
                **learned,
                "selection_share": clock.share("select", "observe"),
                **clock.seconds,
            }
            view.update(folder.log(entry))
            if groups.trouble is not None:
                view.say(
                    f"{groups.skipped} completions were left out of step {ledger.step}: {groups.trouble}", "yellow"
                )
            for watch in (dry_spell, drift):
                if (warning := watch.warning(entry)) is not None:
                    view.say(warning, "yellow")

            last = ledger.step == config.task.steps
            if last or (config.evaluation.eval_every > 0 and ledger.step % config.evaluation.eval_every == 0):
                held_out()
            if last or ledger.step % config.evaluation.checkpoint_every == 0:
                # The history first: a run that is killed between the two writes both again.
                sampler.history.to_parquet(folder.path / "history.parquet")
                if full_log is not None:
                    full_log.save()
                state = {"ledger": ledger.state_dict(), "sampler": sampler.state_dict(), "ahead": ahead.state_dict()}
                folder.save_checkpoint(
                    ledger.step, state, policy, optimizer, tokenizer, keep=config.evaluation.keep_checkpoints
                )

        folder.save_policy("policy", policy, tokenizer)
        summary = finish(folder, config, sampler.dynamics, sampler.history, view.say)
        view.close(summary)
    return summary
