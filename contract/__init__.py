"""What a model version promises; the only code that training, serving, gateway and monitoring share."""

from contract.error import (
    ContractError,
    ContractInvalid,
    ContractNotFound,
    DigestMismatch,
    ImageError,
    InputError,
    TensorError,
)
from contract.passport import Passport
from contract.profile import Profile
from contract.repository import Repository
from contract.schema import Contract, TensorSpec, json_schema

__all__ = [
    "Contract",
    "ContractError",
    "ContractInvalid",
    "ContractNotFound",
    "DigestMismatch",
    "ImageError",
    "InputError",
    "Passport",
    "Profile",
    "Repository",
    "TensorError",
    "TensorSpec",
    "json_schema",
]
