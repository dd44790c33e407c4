"""`TableScheduler`: a searched sampler, `schedule.json`, as a scheduler of Hugging Face diffusers.

    scheduler = TableScheduler.from_file("schedule.json", prediction_type="epsilon")
    scheduler.set_timesteps(device="cuda")
    x = scheduler.init_noise_sigma * torch.randn(shape, device="cuda")
    for t in scheduler.timesteps:
        output = model(scheduler.scale_model_input(x, t), t).sample
        x = scheduler.step(output, t, x).prev_sample

This file needs NumPy, torch and diffusers only: copy it to where it is used. With N rows, K remembered
outputs, and D_n the data that the model's n-th output means, step n is

    x_{n+1} = carry[n] x_n + sum_k weight[n][k] D_{n-k} + shift[n] + noise[n] z_n.
"""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin, SchedulerOutput
from diffusers.utils.torch_utils import randn_tensor
from numpy.typing import NDArray

SCHEMA_VERSION = 1
_KIND = "diffusion.table"
_PREDICTIONS = ("epsilon", "sample", "v_prediction")


class TableScheduler(SchedulerMixin, ConfigMixin):
    """Runs the numbers of a table; their count fixes the number of steps.

    One network evaluation per step, which are to be taken in the order of `timesteps`, all of them.
    """

    order = 1

    @register_to_config
    def __init__(
        self,
        time: list[float],
        alpha: list[float],
        sigma: list[float],
        carry: list[Any],
        weight: list[Any],
        shift: list[Any],
        noise: list[float] | None = None,
        start_scale: float = 1.0,
        start_shift: Any = 0.0,
        start_alpha: float = 0.0,
        start_sigma: float = 1.0,
        prediction_type: str = "epsilon",
        num_train_timesteps: int | None = None,
    ) -> None:
        """
        Args:
            time: [N], of the evaluations, in the noise schedule's time; falling.
            alpha: [N], of the signal.
            sigma: [N], of the noise.
            carry: [N], or [N, *P] with one number per element of a sample of shape P.
            weight: [N, K], or [N, K, *P]; of the newest output first.
            shift: [N], or [N, *P].
            noise: [N], deviations of fresh noise; None for a deterministic sampler.
            start_scale: the model first sees start_scale x_T + start_shift.
            start_shift: a number, or P of them.
            start_alpha: of x_T = start_alpha data + start_sigma noise.
            start_sigma: see above.
            prediction_type: what the model predicts: "epsilon", "sample" or "v_prediction".
            num_train_timesteps: of a model that counts its training steps from 0, which is given
                num_train_timesteps * time - 1, not rounded; None to give it the time itself.

        Raises:
            ValueError: the lists are no table, or an unknown prediction type.
        """
        if prediction_type not in _PREDICTIONS:
            raise ValueError(
                f"prediction_type must be one of {', '.join(_PREDICTIONS)}, "
                f"not {prediction_type!r}"
            )
        self._alpha = _numbers("alpha", alpha)
        self._sigma = _numbers("sigma", sigma)
        self._carry = _numbers("carry", carry)
        self._weight = _numbers("weight", weight)
        self._shift = _numbers("shift", shift)
        self._noise = None if noise is None else _numbers("noise", noise)
        self._start_shift = _numbers("start_shift", start_shift)
        times = _numbers("time", time)
        rows = len(times) if times.ndim else 0
        for name in ("alpha", "sigma", "carry", "weight", "shift", "noise"):
            column = getattr(self, f"_{name}")
            if column is not None and column.shape[:1] != (rows,):
                raise ValueError(
                    f"{name} is of shape {column.shape}, but there are {rows} times"
                )
        if self._weight.ndim < 2 or not 1 <= self._weight.shape[1] <= rows:
            raise ValueError(f"weight is of shape {self._weight.shape}, not [N, K]")
        if np.any(np.diff(times) >= 0):
            raise ValueError("the times of the evaluations do not fall")
        if num_train_timesteps is not None:
            times = num_train_timesteps * times - 1
        self._seen = times.astype(np.float32)
        self.init_noise_sigma = float(start_scale) * float(start_sigma)
        self.set_timesteps()

    @classmethod
    def from_file(
        cls,
        path: Path | str,
        *,
        prediction_type: str = "epsilon",
        num_train_timesteps: int | Literal["file"] | None = "file",
    ) -> "TableScheduler":
        """Returns the sampler of a `schedule.json`.

        Args:
            path: of the file.
            prediction_type: what the model predicts.
            num_train_timesteps: see `__init__`. By default it is how many betas the file's noise
                schedule has, and None if it has none.

        Raises:
            OSError: the file cannot be read.
            ValueError: in one line, why it is no sampler.
        """
        try:
            document = json.loads(Path(path).read_text())
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is not JSON: {error}") from None
        if not isinstance(document, dict) or document.get("kind") != _KIND:
            raise ValueError(f"{path}: not a sampler: its kind is not {_KIND!r}")
        if document.get("schema_version") != SCHEMA_VERSION:
            raise ValueError(
                f"{path}: schema version {document.get('schema_version')!r}; "
                f"this reads {SCHEMA_VERSION}"
            )
        try:
            if num_train_timesteps == "file":
                betas = document["noise"].get("betas")
                num_train_timesteps = None if betas is None else len(betas)
            return cls(
                **document["table"],
                prediction_type=prediction_type,
                num_train_timesteps=num_train_timesteps,
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            said = " ".join(str(error).split())
            raise ValueError(
                f"{path}: not a sampler: {type(error).__name__}: {said}"
            ) from None

    def __len__(self) -> int:
        return len(self._seen)

    def set_timesteps(
        self, num_inference_steps: int | None = None, device: Any = None
    ) -> None:
        """Begins a run.

        Args:
            num_inference_steps: None, or as many as the table has rows.
            device: where to put `timesteps`.

        Raises:
            ValueError: another number of steps.
        """
        if num_inference_steps not in (None, len(self)):
            raise ValueError(
                f"this table is of {len(self)} steps and can't be run in "
                f"{num_inference_steps}: pass num_inference_steps={len(self)}"
            )
        self.num_inference_steps = len(self)
        self.timesteps = torch.tensor(self._seen, device=device)
        self._outputs: list[Any] = []
        self._next = 0
        self._shifted = False

    def scale_model_input(self, sample: Any, timestep: Any = None) -> Any:
        """Returns what the model is given: the sample itself, save where a table shifts its start."""
        if self._start_shift.any() and (
            self._next == 0 if timestep is None else self._row(timestep) == 0
        ):
            self._shifted = True
            return sample + _like(self._start_shift, sample)
        return sample

    def step(
        self,
        model_output: Any,
        timestep: Any,
        sample: Any,
        generator: Any = None,
        return_dict: bool = True,
        *,
        variance_noise: Any = None,
    ) -> Any:
        """Returns the next sample, as diffusers' `SchedulerOutput` or a tuple of it.

        Args:
            model_output: of the model for this sample; [B, *P].
            timestep: one of `timesteps`, the one after the last call's.
            sample: the present state; [B, *P].
            generator: of a stochastic table's noise.
            return_dict: whether to return a `SchedulerOutput`.
            variance_noise: standard normal, instead of the generator's.

        Raises:
            ValueError: a timestep out of order or of another table, or samples of another shape
                than the table's coefficients.
        """
        n = self._row(timestep)
        if n not in (0, self._next):
            raise ValueError(
                f"step {n} of the table does not follow step {self._next - 1}: run all of "
                "`timesteps` in order"
            )
        dtype = torch.promote_types(sample.dtype, torch.float32)
        x = sample.to(dtype)
        if n == 0:
            self._outputs = []
            if self._start_shift.any():
                if not self._shifted:
                    raise ValueError(
                        "this table shifts its start: give the model "
                        "scheduler.scale_model_input(sample, timestep)"
                    )
                x = x + _like(self._start_shift, x)
        data = self._data(model_output.to(dtype), x, n)
        self._outputs = [data, *self._outputs][: self._weight.shape[1]]
        after = _like(self._carry[n], x) * x + _like(self._shift[n], x)
        for weight, output in zip(self._weight[n], self._outputs):
            after = after + _like(weight, x) * output
        if self._noise is not None:
            if variance_noise is None:
                variance_noise = randn_tensor(
                    x.shape, generator=generator, device=x.device, dtype=dtype
                )
            after = after + float(self._noise[n]) * variance_noise
        self._next = n + 1
        after = after.to(sample.dtype)
        return SchedulerOutput(prev_sample=after) if return_dict else (after,)

    def add_noise(self, original_samples: Any, noise: Any, timesteps: Any) -> Any:
        """Returns data noised as they are at these of the table's `timesteps`, one or [B].

        At the first one it is x_T, from which a table that starts at less than full noise goes on
        (image to image); such a state is not to be multiplied by `init_noise_sigma`.

        Raises:
            ValueError: a timestep that is not the table's.
        """
        rows = [self._row(t) for t in torch.as_tensor(timesteps).reshape(-1)]
        alpha, sigma = self._alpha.copy(), self._sigma.copy()
        scale = float(self.config.start_scale)
        alpha[0] = scale * self.config.start_alpha
        sigma[0] = scale * self.config.start_sigma
        shape = (-1, *[1] * (original_samples.ndim - 1))
        like = {"dtype": original_samples.dtype, "device": original_samples.device}
        share = torch.tensor(alpha[rows], **like).reshape(shape)
        deviation = torch.tensor(sigma[rows], **like).reshape(shape)
        return share * original_samples + deviation * noise

    def _row(self, timestep: Any) -> int:
        t = float(timestep)
        distance = np.abs(self._seen - t)
        row = int(np.argmin(distance))
        if not distance[row] <= 1e-6 + 1e-4 * abs(t):
            raise ValueError(f"{t} is none of the table's timesteps")
        return row

    def _data(self, output: Any, x: Any, n: int) -> Any:
        """The denoised sample that a model's output means."""
        alpha, sigma = float(self._alpha[n]), float(self._sigma[n])
        if self.config.prediction_type == "epsilon":
            return (x - sigma * output) / alpha
        if self.config.prediction_type == "v_prediction":
            return (alpha * x - sigma * output) / (alpha**2 + sigma**2)
        return output


def _numbers(name: str, values: Any) -> NDArray[np.float64]:
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is no array of numbers") from None
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{name} holds a number that is not finite")
    return array


def _like(value: NDArray[np.float64], x: Any) -> Any:
    """A coefficient as what a sample can be multiplied by: a number, or one per element."""
    if value.ndim == 0:
        return float(value)
    if value.shape != tuple(x.shape[1:]):
        raise ValueError(
            f"the table has coefficients for samples of shape {value.shape}, "
            f"not {tuple(x.shape[1:])}"
        )
    return torch.tensor(value, dtype=x.dtype, device=x.device)
