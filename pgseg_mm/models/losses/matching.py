import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


@torch.no_grad()
def match_prototypes(similarity: Tensor) -> Tensor:
    """Match groups and prototypes one-to-one so that their total similarity is largest.

    Args:
        similarity: (B, G, G), of groups (rows) to prototypes (columns) of the same image.

    Returns:
        (B, G), the prototype of each group.
    """
    costs = similarity.detach().float().cpu().numpy()
    matches = [linear_sum_assignment(cost, maximize=True)[1] for cost in costs]
    return torch.from_numpy(np.stack(matches)).to(similarity.device)
