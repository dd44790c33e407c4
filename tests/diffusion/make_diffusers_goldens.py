"""Writes diffusers_goldens.json: what diffusers' schedulers do to an exact denoiser, in float32.

    python tests/diffusion/make_diffusers_goldens.py

Needs diffusers and torch, which are no dependencies of this project; made with diffusers 0.42.1 and
torch 2.13.0 (CPU). Each case holds the sigma / alpha grid that the scheduler chose and its result;
the model is a mixture of Gaussians, whose noise prediction is a closed form.
"""

import json
from pathlib import Path

import numpy as np
import torch
from diffusers.schedulers import (
    DDIMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)

STEPS, SAMPLES, DIMENSIONS, COMPONENTS = 8, 12, 4, 5
RNG = np.random.default_rng(0)
MEANS = RNG.normal(size=(COMPONENTS, DIMENSIONS)).round(6)
VARIANCES = RNG.uniform(0.3, 0.7, COMPONENTS).round(6)
NOISE = RNG.normal(size=(SAMPLES, DIMENSIONS)).round(6)


def eps(x, alpha, sigma):
    """The exact noise prediction of the mixture with equal weights."""
    x = x.astype(np.float64)
    variance = alpha**2 * VARIANCES + sigma**2
    offset = x[:, None] - alpha * MEANS
    logits = -0.5 * (offset**2).sum(-1) / variance - DIMENSIONS / 2 * np.log(variance)
    weight = np.exp(logits - logits.max(1, keepdims=True))
    weight /= weight.sum(1, keepdims=True)
    return sigma * (weight[..., None] * offset / variance[:, None]).sum(1)


def run(scheduler, sigmas, scale=1.0, exploding=False, **step):
    """Runs a scheduler; `sigmas` are those of its timesteps, in order."""
    x = torch.tensor(NOISE * scale, dtype=torch.float32)
    for t, sigma in zip(scheduler.timesteps, sigmas, strict=True):
        alpha = 1.0 if exploding else 1 / np.sqrt(1 + sigma**2)
        output = eps(x.numpy(), alpha, sigma * alpha)
        output = torch.tensor(output, dtype=torch.float32)
        x = scheduler.step(output, t, x, **step).prev_sample
    return x.numpy()


def case(scheduler, name, **fields):
    scheduler.set_timesteps(STEPS)
    sigmas = scheduler.sigmas.double().numpy()
    return {"name": name, "sigmas": sigmas.tolist(), **fields}, sigmas[:-1]


def multistep():
    common = {"final_sigmas_type": "sigma_min", "lower_order_final": True}
    for algorithm, prediction in (("dpmsolver", "noise"), ("dpmsolver++", "data")):
        for order in (1, 2, 3):
            for kind, variant in (("midpoint", "midpoint"), ("heun", "taylor")):
                if order == 1 and kind == "heun":
                    continue
                scheduler = DPMSolverMultistepScheduler(
                    algorithm_type=algorithm,
                    solver_order=order,
                    solver_type=kind,
                    **common,
                )
                fields = {"order": order, "prediction": prediction, "variant": variant}
                yield scheduler, case(scheduler, "dpm_solver", **fields), {}
    zeros = torch.zeros(SAMPLES, DIMENSIONS)
    for order in (1, 2):
        scheduler = DPMSolverMultistepScheduler(
            algorithm_type="sde-dpmsolver++", solver_order=order, **common
        )
        fields = {"order": order, "prediction": "data", "stochastic": True}
        yield (
            scheduler,
            case(scheduler, "dpm_solver", **fields),
            {"variance_noise": zeros},
        )
    scheduler = DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++", solver_order=2, final_sigmas_type="zero"
    )
    yield scheduler, case(scheduler, "dpm_solver", order=2, prediction="data"), {}


def others():
    for algorithm, prediction in (("dpmsolver", "noise"), ("dpmsolver++", "data")):
        for order in (2, 3):
            scheduler = DPMSolverSinglestepScheduler(
                algorithm_type=algorithm,
                solver_order=order,
                lower_order_final=True,
                final_sigmas_type="sigma_min",
            )
            fields = {"order": order, "prediction": prediction}
            entry = case(scheduler, "singlestep", **fields)
            entry[0]["order_list"] = list(scheduler.order_list)
            yield scheduler, entry, {}
    for order in (1, 2, 3):
        scheduler = DEISMultistepScheduler(solver_order=order)
        yield scheduler, case(scheduler, "deis", order=order), {}
    for kind in ("bh1", "bh2"):
        for order in (1, 2, 3):
            for data in (True, False):
                scheduler = UniPCMultistepScheduler(
                    solver_order=order,
                    solver_type=kind,
                    predict_x0=data,
                    final_sigmas_type="sigma_min",
                )
                prediction = "data" if data else "noise"
                fields = {"order": order, "variant": kind, "prediction": prediction}
                yield scheduler, case(scheduler, "unipc", **fields), {}


def ddim():
    scheduler = DDIMScheduler(
        clip_sample=False, set_alpha_to_one=False, timestep_spacing="trailing"
    )
    scheduler.set_timesteps(STEPS)
    steps = [*scheduler.timesteps.tolist(), 0]
    kept = scheduler.alphas_cumprod.double().numpy()[steps]
    sigmas = np.sqrt((1 - kept) / kept)
    entry = {"name": "ddim", "sigmas": sigmas.tolist()}
    yield {**entry, "result": run(scheduler, sigmas[:-1]).tolist()}
    still = run(scheduler, sigmas[:-1], eta=0.5, variance_noise=torch.zeros(12, 4))
    yield {**entry, "eta": 0.5, "result": still.tolist()}


def heun():
    scheduler = HeunDiscreteScheduler(beta_start=1e-4, beta_end=0.02)
    scheduler.set_timesteps(STEPS)
    sigmas = scheduler.sigmas.double().numpy()
    grid = [*sigmas[0:-1:2].tolist(), 0.0]
    result = run(scheduler, sigmas[:-1], scale=grid[0], exploding=True)
    yield {"name": "heun", "sigmas": grid, "result": result.tolist()}


def main() -> None:
    cases = [*ddim(), *heun()]
    for make in (multistep, others):
        for scheduler, (entry, sigmas), step in make():
            cases.append(entry | {"result": run(scheduler, sigmas, **step).tolist()})
    for entry in cases:
        entry["result"] = np.round(entry["result"], 7).tolist()
    document = {
        "made_with": {"diffusers": "0.42.1", "torch": torch.__version__},
        "means": MEANS.tolist(),
        "variances": VARIANCES.tolist(),
        "noise": NOISE.tolist(),
        "cases": cases,
    }
    path = Path(__file__).with_name("diffusers_goldens.json")
    path.write_text(json.dumps(document) + "\n")
    print(f"{len(cases)} cases, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
