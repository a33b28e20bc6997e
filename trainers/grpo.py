"""The training loop, top to bottom: select, roll out, reward, observe, advantages, update, sync.

One step with the defaults: 32 prompts are selected from the beliefs, 8 rollouts each make 256 completions. Say 24 of
the 32 groups come back mixed. All 32 are observed (an all-wrong group is news to the tracker); the 24 x 8 = 192
completions with an advantage are trained on, in one optimizer step; the 64 others cost no forward pass. Uniform
selection, where a third of the prompts are useful, would have paid 256 rollouts for 88 completions to train on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch import Tensor, nn

from dps_pyro.fit import Posterior
from dps_pyro.live import LiveView
from dps_pyro.policy_gradient import (
    Counts,
    advantages,
    completion_logprobs,
    count,
    informative_groups,
    policy_loss,
)
from dps_pyro.refit import Refit
from dps_pyro.rollouts import RolloutEngine, Rollouts, concatenate
from dps_pyro.rollouts.transformers import TransformersEngine
from dps_pyro.sampler import PromptSampler
from dps_pyro.tasks import Prompt, Task, feature_columns
from dps_pyro.trainers.bookkeeping import Clock, DrySpell, Ledger, Means, reason_shares, seed_for
from dps_pyro.trainers.config import (
    TrainConfig,
    check_resumed,
    load_config,
    make_acquisition,
    make_model,
    make_task,
    save_config,
)
from dps_pyro.trainers.full_log import Chosen, FullLog
from dps_pyro.trainers.policy import autocast, load_policy, render
from dps_pyro.trainers.run_folder import RunFolder
from dps_pyro.trainers.summary import complete, finish

__all__ = ["evaluate", "train"]


def train(config: TrainConfig) -> dict[str, Any]:  # noqa: C901 - one loop, read from top to bottom
    """Train, or resume training.

    Returns:
        The run's summary, as in its folder's `summary.json`.

    Raises:
        ValueError: a setting is wrong, the folder holds another run, or the last checkpoint is damaged.
        FloatingPointError: something is no longer finite; the last checkpoint is good.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    config = config.resolved()
    console = Console()
    folder = RunFolder(config.out, resume=config.resume)
    if config.resume and not folder.blank:
        check_resumed(load_config(folder.path / "config.yaml"), config)
        if (summary := folder.finished(config.steps)) is not None:
            console.print(f"{folder.path}: all {summary['steps']} steps are done; more: --steps", soft_wrap=True)
            return complete(folder, config, summary, console.print)
    checkpoint = folder.load_checkpoint() if config.resume else None
    if config.resume and checkpoint is None:
        found = "no run yet, the settings given start it" if folder.blank else "no checkpoint yet, the run starts"
        console.print(f"{folder.path}: there is {found} at the first step", soft_wrap=True)

    # The parts: a policy, an engine that samples from it, a task, and a sampler that tracks the task's prompts.
    with folder.starting(save_config(config)):
        policy, tokenizer = load_policy(config, None if checkpoint is None else checkpoint.path / "policy")
        reference = load_policy(config)[0].requires_grad_(False) if config.kl > 0 else None
        optimizer = torch.optim.AdamW(policy.parameters(), lr=config.step_size, weight_decay=config.weight_decay)
        engine = TransformersEngine(policy, tokenizer, batch_size=config.rollout_batch)
        task = make_task(config, tokenizer)
        prompts = task.prompts("train")
        sampler = make_sampler(config, task)
        full_log = FullLog(folder.path, sampler.history) if config.full_log else None
        ledger, dry_spell = Ledger(config.group_size), DrySpell()
        if checkpoint is not None:
            ledger.load_state_dict(checkpoint.state["ledger"])
            sampler.load_state_dict(checkpoint.state["sampler"])
            checkpoint.restore_optimizer(optimizer)
            checkpoint.restore_rng()
            if full_log is not None:
                full_log.resume(ledger.step)
        folder.begin(save_config(config), ledger.step, sampler.history)

    with folder, LiveView(steps=config.steps, done=ledger.step, folder=folder.path) as view:

        def held_out() -> None:
            result = evaluate(engine, tokenizer, task, config)
            ledger.accuracy = result["accuracy"] or 0.0
            view.evaluated(folder.log({"kind": "eval", "step": ledger.step, "rollouts": ledger.rollouts} | result))

        if checkpoint is None:
            held_out()
        while ledger.step < config.steps:
            clock = Clock()
            with clock("select"):
                chance = sampler.informative(config.group_size)
                rows = sampler.select(min(config.batch_size * config.dynamic_sampling, len(prompts)))

            candidates = [prompts[row] for row in rows.tolist()]
            groups = roll_out(engine, tokenizer, task, candidates, config, ledger.step, clock)
            with clock("observe"):
                rows = rows[: len(groups.rewards)]  # dynamic sampling may have had enough before the last of them
                useful = trained_on(groups.rewards, config)
                solved = groups.rewards.sum(-1)
                sampler.observe(rows, solved, config.group_size, trained=useful, progress=ledger.accuracy)
            if full_log is not None:
                rest = full_log.others(rows)
                seed = seed_for(config.seed, "full_log", ledger.step)
                extra = rewarded(engine, tokenizer, task, [prompts[row] for row in rest.tolist()], config, seed, clock)
                chosen = Chosen(rows, solved, useful, chance[rows])
                full_log.append(chosen, rest, extra.rewards.sum(-1), config.group_size, ledger)

            with clock("update"):
                seed = seed_for(config.seed, "update", ledger.step)
                learned = update(policy, reference, optimizer, groups, config, seed)
            with clock("sync"):
                engine.sync(policy)

            ledger.book(groups.rewards, pool=float(chance.mean()))
            known = sampler.metrics()
            entry = {
                "kind": "train",
                "step": ledger.step - 1,
                **ledger.metrics(),
                "useful_predicted": float(chance[rows].mean()),
                "useful_pool": float(chance.mean()),
                "belief": sampler.belief.mean(0).tolist(),
                "visited": known["visited"],
                "log_evidence": known["log_evidence"],
                "length": float(groups.rollouts.completion_mask.sum(1).double().mean()),
                "truncated": groups.rollouts.finish.count("length") / len(groups.rollouts.finish),
                **reason_shares(groups.reasons),
                **learned,
                **clock.seconds,
            }
            view.update(folder.log(entry))
            if (warning := dry_spell.warning(entry)) is not None:
                view.say(warning, "yellow")

            last = ledger.step == config.steps
            if last or (config.eval_every > 0 and ledger.step % config.eval_every == 0):
                held_out()
            if last or ledger.step % config.checkpoint_every == 0:
                # The history first: a run that is killed between the two writes both again.
                sampler.history.to_parquet(folder.path / "history.parquet")
                if full_log is not None:
                    full_log.save()
                state = {"ledger": ledger.state_dict(), "sampler": sampler.state_dict()}
                folder.save_checkpoint(ledger.step, state, policy, optimizer, tokenizer, keep=config.keep_checkpoints)

        summary = finish(folder, config, sampler.dynamics, sampler.history, view.say)
        view.close(summary)
    return summary


def make_sampler(config: TrainConfig, task: Task) -> PromptSampler:
    """The configured sampler of the task's prompts."""
    prompts = task.prompts("train")
    features = feature_columns(prompts)
    return PromptSampler(
        make_model(config, task, features),
        prompts.ids,
        acquisition=make_acquisition(config),
        trials=config.group_size,
        posterior=None if config.prior is None else Posterior.load(config.prior),
        features=features,
        refit_every=config.refit_every or None,
        refit=Refit(background=True),
        seed=config.seed,
    )


class Groups(NamedTuple):
    """Prompts, rolled out and judged."""

    rollouts: Rollouts  # G * n rows, the n of a prompt adjacent
    rewards: Tensor  # [G, n], 0..1
    reasons: list[str]  # G * n, what the task says of each reward


def roll_out(
    engine: RolloutEngine,
    tokenizer: Any,
    task: Task,
    prompts: Sequence[Prompt],
    config: TrainConfig,
    step: int,
    clock: Clock,
) -> Groups:
    """Roll out the candidates, a batch at a time, until a batch's worth of groups is useful.

    Without dynamic sampling the candidates are one batch. With it (DAPO, arXiv 2503.14476) later batches are paid for
    only while useful groups are missing.
    """
    rollouts: list[Rollouts] = []
    reasons: list[str] = []
    rewards = torch.zeros(0, config.group_size)
    for part in range(0, len(prompts), config.batch_size):
        batch = prompts[part : part + config.batch_size]
        seed = seed_for(config.seed, "rollout", step, part)
        drawn, earned, why = rewarded(engine, tokenizer, task, batch, config, seed, clock)
        rollouts.append(drawn)
        rewards = torch.cat([rewards, earned])
        reasons += why
        if int(informative_groups(rewards).sum()) >= config.batch_size:
            break
    return Groups(concatenate(rollouts), rewards, reasons)


def rewarded(
    engine: RolloutEngine,
    tokenizer: Any,
    task: Task,
    prompts: Sequence[Prompt],
    config: TrainConfig,
    seed: int,
    clock: Clock,
) -> Groups:
    """Roll out a group a prompt, and judge it."""
    with clock("rollout"):
        texts = [render(tokenizer, prompt.text) for prompt in prompts]
        with autocast(config):
            rollouts = engine.generate(texts, config.group_size, config.sampling, seed=seed)
    with clock("reward"):
        owners = [prompt for prompt in prompts for _ in range(config.group_size)]
        earned = [task.reward(prompt, text) for prompt, text in zip(owners, rollouts.texts, strict=True)]
        values = torch.tensor([reward.value for reward in earned]).view(len(prompts), config.group_size)
    return Groups(rollouts, values, [reward.reason for reward in earned])


def trained_on(rewards: Tensor, config: TrainConfig) -> Tensor:
    """bool [G], the groups that the update learns from: those with a signal, of them a batch."""
    useful = informative_groups(rewards)
    return useful & (useful.cumsum(0) <= config.batch_size)


def update(
    policy: nn.Module,
    reference: nn.Module | None,
    optimizer: torch.optim.Optimizer,
    groups: Groups,
    config: TrainConfig,
    seed: int,
) -> dict[str, float | None]:
    """Take the optimizer steps of one training step.

    Groups without signal are dropped before the forward pass: they cost nothing and dilute nothing. Of the useful ones
    a batch is used, as in DAPO, where dynamic sampling found more. The policy stays in evaluation mode: with dropout,
    it would not be the one that was sampled from.

    Returns:
        loss, grad_norm, clip_fraction, kl, reference_kl and entropy, averaged over the optimizer steps; None where no
        group had a signal.

    Raises:
        FloatingPointError: the gradient is no longer finite; the optimizer step was not taken.
    """
    useful = trained_on(groups.rewards, config)
    rollouts = groups.rollouts.select(useful.repeat_interleave(config.group_size))
    values = advantages(groups.rewards, config.loss)[useful].flatten().to(rollouts.logprobs.device)
    lengths = (rollouts.prompt_mask.sum(1) + rollouts.completion_mask.sum(1)).cpu()
    generator = torch.Generator().manual_seed(seed)
    means = Means("loss", "grad_norm", "clip_fraction", "kl", "reference_kl", "entropy")
    for _ in range(config.epochs):
        order = torch.randperm(len(values), generator=generator)
        for mini in order.tensor_split(min(config.mini_batches, max(len(order), 1))):
            if len(mini) == 0:
                continue
            counts = count(rollouts.completion_mask[mini])
            optimizer.zero_grad(set_to_none=True)
            # Rows of one length go together, so that less padding is computed.
            for micro in mini[lengths[mini].argsort(stable=True)].split(config.micro_batch):
                means.add(_backward(policy, reference, rollouts.select(micro), values[micro], counts, config))
            norm = nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
            if not torch.isfinite(norm):
                raise FloatingPointError(f"gradient norm: expected a finite number, got {float(norm)}")
            optimizer.step()
            means.add({"grad_norm": norm})
            means.close()
    return means.values()


def _backward(
    policy: nn.Module,
    reference: nn.Module | None,
    rollouts: Rollouts,
    values: Tensor,
    counts: Counts,
    config: TrainConfig,
) -> dict[str, Tensor]:
    """One micro-batch's share of the gradient."""
    rollouts = _tight(rollouts)
    sequences = rollouts.prompt_ids, rollouts.prompt_mask, rollouts.completion_ids, rollouts.completion_mask
    with autocast(config):
        logprobs = completion_logprobs(policy, *sequences, temperature=config.temperature)
        known = None
        if reference is not None:
            with torch.no_grad():
                known = completion_logprobs(reference, *sequences, temperature=config.temperature)
    share = policy_loss(
        config.loss,
        logprobs,
        rollouts.logprobs,
        values,
        rollouts.completion_mask,
        counts,
        max_completion_length=config.sampling.max_new_tokens,
        clip=config.clip,
        reference_logprobs=known,
        beta=config.kl,
    )
    share.loss.backward()
    return {name: value.detach() for name, value in share._asdict().items()}


def _tight(rollouts: Rollouts) -> Rollouts:
    """Without the columns that are padding in every row."""
    start = rollouts.prompt_mask.shape[1] - int(rollouts.prompt_mask.sum(1).max())
    end = int(rollouts.completion_mask.sum(1).max())
    return rollouts._replace(
        prompt_ids=rollouts.prompt_ids[:, start:],
        prompt_mask=rollouts.prompt_mask[:, start:],
        completion_ids=rollouts.completion_ids[:, :end],
        completion_mask=rollouts.completion_mask[:, :end],
        logprobs=rollouts.logprobs[:, :end],
    )


def evaluate(engine: RolloutEngine, tokenizer: Any, task: Task, config: TrainConfig) -> dict[str, float | None]:
    """Held-out accuracy: the share of `eval_samples` completions a test prompt that solve it, at the training
    temperature. The same draws at every evaluation. The standard error is over prompts."""
    prompts = task.prompts("test")
    texts = [render(tokenizer, prompt.text) for prompt in prompts]
    with autocast(config):
        rollouts = engine.generate(texts, config.eval_samples, config.sampling, seed=seed_for(config.seed, "evaluate"))
    owners = [prompt for prompt in prompts for _ in range(config.eval_samples)]
    earned = [task.reward(prompt, text).value for prompt, text in zip(owners, rollouts.texts, strict=True)]
    by_prompt = torch.tensor(earned, dtype=torch.float64).view(len(prompts), -1).mean(1)
    return {
        "accuracy": float(by_prompt.mean()),
        "stderr": float(by_prompt.std() / len(prompts) ** 0.5) if len(prompts) > 1 else None,
        "prompts": len(prompts),
        "samples": config.eval_samples,
    }
