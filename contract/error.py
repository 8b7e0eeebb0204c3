"""The errors that contracts, tensors and inputs raise.

ContractError
├── ContractNotFound     no contract.json where one was expected
├── ContractInvalid      contract.json or passport.json is there but can't be trusted
│   └── DigestMismatch   a file of the version isn't the file that training wrote
└── InputError           what a client sent doesn't fit the contract
    ├── TensorError      a tensor's name, datatype, shape or data is wrong
    └── ImageError       not an image, or one that can't be decoded within the limits

Every message is one sentence that says what was expected and what came, and is safe to show to a client: it holds
no path of this machine below a model version's folder.
"""


class ContractError(Exception):
    """Root of everything this package raises on purpose."""


class ContractNotFound(ContractError):
    """There is no contract where one was expected."""


class ContractInvalid(ContractError):
    """A contract or passport can't be read or contradicts itself."""


class DigestMismatch(ContractInvalid):
    """A file of a version is missing or isn't the one the contract was written for."""


class InputError(ContractError):
    """Input from a client that doesn't fit the contract."""


class TensorError(InputError):
    """A tensor's name, datatype, shape or data is wrong."""


class ImageError(InputError):
    """Bytes that aren't an image we decode, or an image outside the limits."""
