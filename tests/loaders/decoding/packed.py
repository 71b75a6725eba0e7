"""Codes in groups: what all formats here come down to."""

import dataclasses

import numpy as np

from .files import product


@dataclasses.dataclass
class Packed:
    """One linear: codes [out, in], scales and zero-points [out, groups], and the group of every input."""

    bits: int
    codes: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray
    group_of: np.ndarray

    def weights(self):
        """[out, in] in f32."""
        return product(self.scales[:, self.group_of], self.codes, self.zeros[:, self.group_of])

    def spread(self):
        """Codes, and the scale and the zero-point of each of them: the same however wide the groups are that share them."""
        return self.codes, self.scales[:, self.group_of].astype(np.float32), self.zeros[:, self.group_of]
