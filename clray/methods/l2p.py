"""Learning to prompt: of a pool of prompts, those whose keys are nearest to an image go before it.

Wang, Zhang, Lee, Zhang, Sun, Ren, Su, Perot, Dy & Pfister 2022 (CVPR, arXiv 2112.08654).

A frozen vision transformer gives the query q(x), its [CLS] feature. Of M prompts, each of
``length`` tokens and with a key k_i, those N are selected whose keys have the greatest cosine with
q(x). Their tokens are put before the image's own, to which positions were added, and go through the
transformer; the mean of what it gives at these tokens goes to a linear classifier. The loss of an
example is

    cross-entropy + pull * sum over the selected i of (1 - cos(q(x), k_i)),

where cross-entropy reaches the prompts and the classifier, and the pull the selected keys, alone.

``compete: task``, the default, lets only the current task's classes compete in the cross-entropy:
the paper's code sets all other logits to minus infinity. The head's rows for old classes then stay
as they were, and each class is told from those of its own task alone. ``protocol`` is what other
methods do: with a growing head, the new classes also learn to win against the old ones. On two
tasks of five digits, class-incremental, with an encoder that had seen other images of all ten, the
average accuracy is 0.85 with ``task`` and 0.56 with ``protocol`` (CODA-Prompt's 0.94 and 0.50).

Differences:

- Each image selects for itself, as in the paper, in training and prediction. The released code
  (JAX), and those after it (l2p-pytorch, Mammoth), give the whole batch the N prompts that its
  images select most often, when predicting too: an answer then depends on what else is in the
  batch, and batches of one task tell which task it is.
- The paper's values are the defaults: M = 10, N = 5, length 5, pull 0.5. The released code has a
  length of 10, N = 4 and a pull of 1 on CIFAR-100; l2p-pytorch a pull of 0.1. A pull of theirs is
  ours: they subtract the sum of cosines, which differs by a constant.
- Prompts and keys begin uniform in [0, 0.01), as in the released code; l2p-pytorch has [0, 1). The
  head begins as the model's; the released code's is 0.
- The paper's option to make tasks select different prompts is left out; the released configuration
  for CIFAR-100 has it off.
- The optimizer begins afresh with each task, whatever ``optimizer.reset`` says, as published: Adam
  at 0.03 * batch / 256, gradients clipped to norm 1 (``optimizer.clip_norm: 1``), 5 epochs. Pixels
  there are in [0, 1] without normalisation (``mean: [0, 0, 0]``, ``std: [1, 1, 1]``); here the
  model says.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from clray.errors import BadSpec
from clray.learner import Setup
from clray.models.prompt_learner import PromptConfig, PromptLearner
from clray.models.prompted_vit import with_tokens
from clray.spec import PLASTICITY

LARGEST = 0.01
"""What prompts and keys begin below."""


class Config(PromptConfig):
    """Knobs of learning to prompt."""

    pool_size: int = Field(10, ge=1)
    """M, how many prompts there are."""
    length: int = Field(5, ge=1)
    """Tokens of each prompt."""
    num_selected: int = Field(5, ge=1)
    """N, how many prompts an image gets."""
    pull: Annotated[float, PLASTICITY] = Field(0.5, ge=0)
    """How strongly selected keys are pulled towards queries, against a mean cross-entropy of 1."""


class PromptPool(nn.Module):
    """Prompts and their keys.

    Args:
        size: M.
        length: tokens of a prompt.
        width: D, of a token and of a key.
        num_selected: N.
        generator: draws what they begin as, on the CPU.
    """

    def __init__(
        self, size: int, length: int, width: int, num_selected: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.num_selected = num_selected
        drawn = (torch.rand(size, n, width, generator=generator) * LARGEST for n in (length, 1))
        prompts, keys = drawn
        self.prompts, self.keys = nn.Parameter(prompts), nn.Parameter(keys.squeeze(1))

    def forward(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [B, N * length, D] of the prompts that queries [B, D] select, the most similar
        first, and the sum [B] of their keys' cosine distances."""
        similar = F.normalize(query, dim=1) @ F.normalize(self.keys, dim=1).T
        cosines, chosen = similar.topk(self.num_selected, 1)
        return self.prompts[chosen].flatten(1, 2), (1 - cosines).sum(1)


class L2p(PromptLearner):
    """Cross-entropy from the selected prompts, which pull their keys towards the query."""

    config: Config

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        if config.num_selected > config.pool_size:
            accepted = f"at most {config.pool_size}, the pool_size"
            raise BadSpec("method l2p: num_selected", config.num_selected, accepted)
        self.take_up(
            PromptPool(
                config.pool_size, config.length, self.width, config.num_selected, setup.generator
            )
        )

    def prompted(self, tokens: Tensor, query: Tensor) -> tuple[Tensor, Tensor | None]:
        """See ``PromptLearner.prompted``."""
        prompts, distances = self.model.prompts(query)  # type: ignore[operator]
        outputs = with_tokens(self.network, tokens, prompts)[:, : prompts.shape[1]]
        features: Tensor = self.network.fc_norm(outputs.mean(1))
        return features, self.config.pull * distances
