"""A workload for tests of privacy: one private step of a linear model, whose first record counts ``factor`` times.

It reports the whole change of its weights as ``change/<n>``, so that a test can work out by hand what it must be.
``outputs``: how many; ``use``: what the workload makes of ``fairlead.privacy``.
"""

import torch
from torch import nn

from fairlead.privacy import begin_privacy
from fairlead.workload import Context, Params


def train(params: Params, context: Context) -> None:
    """One step over all rows of the train split: the batch is as large as that."""
    if params.get("use") == "ignores":
        context.report({"train/loss": 1.0}, step=1)
    rows = context.all_rows("train")
    torch.manual_seed(context.seed)
    layers: list[nn.Module] = [nn.Linear(rows.features.shape[1], params.get("outputs", 1), bias=False)]
    if params.get("use") == "batch_norm":
        layers.append(nn.BatchNorm1d(params.get("outputs", 1)))
    model = nn.Sequential(*layers)
    nn.init.zeros_(layers[0].weight)
    privacy = begin_privacy(context, rows=len(rows), batch_size=len(rows), epochs=1)
    parallel = privacy.parallel(model)
    plain = torch.optim.SGD(model.parameters(), lr=1.0)
    optimizer = plain if params.get("use") == "steps_past_it" else privacy.optimizer(plain)
    features, factors = torch.from_numpy(rows.features), torch.ones(len(rows))
    factors[0] = params.get("factor", 1.0)
    factors *= params.get("scale", 1.0)
    for batch in privacy.batches(1):
        chosen = torch.from_numpy(batch.positions)
        losses = parallel(features[chosen]).sum(dim=1) * factors[chosen]
        optimizer.zero_grad()
        (losses.sum() * batch.loss_scale).backward()
        optimizer.step()
        if params.get("use") == "breaks_off":
            break
    change = model[0].weight.detach().flatten().tolist()
    context.report({f"change/{index}": value for index, value in enumerate(change)} | privacy.metrics(), step=1)
    context.export({"weight": model[0].weight}, config={})
