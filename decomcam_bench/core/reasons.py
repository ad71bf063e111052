"""Define the vocabulary for pairs that have no map or no value: one code each, and a detail.

Records keep both in columns of their own (``reason`` and ``detail``), so that counts add up by code while
paths, numbers and messages stand in the detail alone. ``docs/store-format.md`` lists the codes.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple, TypeAlias


class Reason(str, Enum):
    """Name why a pair was skipped or failed.

    The value is what records store. Codes are never renamed: a new meaning gets a new code.
    """

    # The image or its annotation.
    MISSING_IMAGE = "missing_image"
    UNREADABLE_IMAGE = "unreadable_image"
    BAD_ANNOTATION = "bad_annotation"
    BAD_MASK = "bad_mask"
    BAD_PART_MASK = "bad_part_mask"
    # What the model answered.
    NON_FINITE_ACTIVATIONS = "non_finite_activations"
    NON_FINITE_GRADIENTS = "non_finite_gradients"
    NON_FINITE_FEATURES = "non_finite_features"
    NON_FINITE_SCORE = "non_finite_score"
    ZERO_GRADIENTS = "zero_gradients"
    ZERO_SCORE = "zero_score"
    # The map.
    ZERO_MAP = "zero_map"
    NON_FINITE_MAP = "non_finite_map"
    ROUNDING_ONLY = "rounding_only"
    NO_COMPONENTS = "no_components"
    ONE_TEXT_ALONE = "one_text_alone"
    MAP_MISSING = "map_missing"
    MAP_MALFORMED = "map_malformed"
    # Pairs that a protocol leaves out.
    DIFFICULT_ONLY = "difficult_only"
    SEVERAL_OBJECTS = "several_objects"
    LARGE_OBJECT = "large_object"
    MISCLASSIFIED = "misclassified"
    NO_MASK = "no_mask"
    NO_BOX = "no_box"
    NO_PARTS = "no_parts"
    NO_VISIBLE_PART = "no_visible_part"
    EMPTY_REGION = "empty_region"
    ONLY_IGNORED = "only_ignored"
    # Values that a metric could not compute.
    NON_FINITE_VALUE = "non_finite_value"
    NON_FINITE_COMPONENTS = "non_finite_components"
    ZERO_COMPONENTS = "zero_components"
    NON_FINITE_MASKED_MAP = "non_finite_masked_map"
    NO_REMAP = "no_remap"
    WORK_NOT_RECORDED = "work_not_recorded"
    MACHINE_NOT_MEASURED = "machine_not_measured"
    METRIC_ERROR = "metric_error"
    #: A reason of somebody's own method or metric; the detail holds its words.
    OTHER = "other"

    def __str__(self) -> str:
        return self.value


#: Failures whose cause can be gone at the next run: it tries such pairs again.
PASSING = frozenset({Reason.MISSING_IMAGE, Reason.UNREADABLE_IMAGE})


class Failure(NamedTuple):
    """Say why a pair has no map or value.

    Attributes:
        code: what counts are made by.
        detail: the particulars, or an empty string.
    """

    code: Reason
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}" if self.detail else str(self.code)


#: What a method or metric may give as a reason; see :func:`failure`.
Why: TypeAlias = "str | Reason | Failure"
#: Codes as schema 1 wrote them, where they differ.
_EARLIER = {
    "map_zero_mass": Reason.ZERO_MAP,
    "map_not_finite": Reason.NON_FINITE_MAP,
    "no_map": Reason.ZERO_MAP,
    "not_finite": Reason.NON_FINITE_VALUE,
    "scores_not_finite": Reason.NON_FINITE_SCORE,
    "components_not_finite": Reason.NON_FINITE_COMPONENTS,
    "components_zero_mass": Reason.ZERO_COMPONENTS,
    "masked_map_not_finite": Reason.NON_FINITE_MASKED_MAP,
}
_CODES = {reason.value: reason for reason in Reason}


def failure(given: Why) -> Failure:
    """Return a code and a detail for whatever a method or metric gave as its reason.

    >>> failure("map_zero_mass")
    Failure(code=<Reason.ZERO_MAP: 'zero_map'>, detail='')
    >>> failure("bad_mask: truncated file").detail
    'truncated file'
    >>> failure("my own words")
    Failure(code=<Reason.OTHER: 'other'>, detail='my own words')
    """
    if isinstance(given, Failure):
        return given
    if isinstance(given, Reason):
        return Failure(given)
    word, _, detail = given.partition(": ")
    code = _CODES.get(word) or _EARLIER.get(word)
    return Failure(code, detail) if code else Failure(Reason.OTHER, given)
