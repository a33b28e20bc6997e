"""Predicted prompts in verl, without a fork. docs/guides/verl.md is the guide.

verl 0.9: `dps_pyro.trainers.verl.trainer`, by `VERL_USE_EXTERNAL_MODULES` and `trainer.v1.trainer_mode`.
verl 0.5 to 0.7: `dps_pyro.trainers.verl.curriculum`, by `data.sampler.class_path`.
"""
