"""The data sets, and the files that hold them.

May import `options` and `common`.
"""

from typing import TYPE_CHECKING

from qpc_qiskit.common.lazy import lazy_names

if TYPE_CHECKING:
    from qpc_qiskit.data.images import DATA_NAMES, ImageData, load, load_source, unit_images

__all__ = ["DATA_NAMES", "ImageData", "load", "load_source", "unit_images"]

__getattr__ = lazy_names(__name__, dict.fromkeys(__all__, "images"))
