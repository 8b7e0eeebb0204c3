"""What a network consists of, as one digest: two that compute alike from the same weights have the same."""

import hashlib

from torch import nn

_NUMBERS = (bool, int, float, str, tuple)


def structure(network: nn.Module) -> str:
    """The first 16 digits of the SHA-256 of the kinds of its modules, their settings, and the shapes of what they hold.

    The settings of torch's own modules are what they print, those of others their public numbers and texts: so a share
    of dropout counts, which no shape shows.
    """
    lines = [f"{name} {type(module).__qualname__} {_settings(module)}" for name, module in network.named_modules()]
    lines += [f"{name} {list(tensor.shape)} {tensor.dtype}" for name, tensor in network.state_dict().items()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _settings(module: nn.Module) -> str:
    if type(module).__module__.startswith("torch."):
        return module.extra_repr()
    public = {name: value for name, value in vars(module).items() if not name.startswith("_") and name != "training"}
    return str({name: value for name, value in sorted(public.items()) if isinstance(value, _NUMBERS)})
