"""Maps that another program wrote, as a row of the same table."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from decomcam_bench.core.errors import ConfigError
from decomcam_bench.core.mapfiles import MapFolder, MapMalformedError, MapMissingError
from decomcam_bench.core.reasons import Failure, Reason, Why
from decomcam_bench.methods.base import Cost, Evidence, Explanation, MapMethod


@dataclass
class MapFiles(MapMethod):
    """Read each pair's map from a folder; see :mod:`decomcam_bench.core.mapfiles` for names and formats.

    A map of the size of the model's input is taken as it is, pixel by pixel. A map of any other size covers the
    whole original image. Metrics that are defined in original pixels read it as it is; for those that run the
    model it is brought to the input as the image was (resized, and cropped where the model crops), bilinearly,
    with a wider filter where it shrinks. Negative values count as 0, as in all maps. A pair fails with
    ``map_missing``, or with ``map_malformed``.

    The content of the files is part of the cell key, their location is not.

    Attributes:
        dir: the folder.
    """

    id = "files"

    dir: str = ""

    uses_layer: ClassVar[bool] = False
    repeatable: ClassVar[bool] = False

    @cached_property
    def folder(self) -> MapFolder:
        """The folder, listed.

        Raises:
            ConfigError: when none is named.
            DataError: when it cannot be read.
        """
        if not self.dir:
            raise ConfigError("method=files needs method.dir=FOLDER, where the maps lie")
        return MapFolder(Path(self.dir).expanduser())

    @cached_property
    def identity(self) -> dict[str, Any]:
        return {"maps": self.folder.digest()}

    def map(self, evidence: Evidence) -> Explanation:
        maps = np.zeros((len(evidence), *evidence.input_size), dtype=np.float32)
        failures: dict[int, Why] = {}
        foreign: dict[int, np.ndarray] = {}
        for pair, (image_id, class_name) in enumerate(evidence.pair_names):
            try:
                found = self.folder.read(image_id, class_name)
            except MapMissingError:
                failures[pair] = Reason.MAP_MISSING
                continue
            except MapMalformedError as error:
                failures[pair] = Failure(Reason.MAP_MALFORMED, str(error))
                continue
            if found.shape == evidence.input_size:
                maps[pair] = found
            else:
                maps[pair] = evidence.map_to_input(pair, found)
                foreign[pair] = np.maximum(found, 0)
            if not (maps[pair] > 0).any():
                failures[pair] = Reason.ZERO_MAP
                maps[pair] = 0
        return Explanation(torch.from_numpy(maps).to(evidence.device), "none", failures=failures, foreign=foreign)

    def foreign_map(self, image_id: str, class_name: str, input_size: tuple[int, int]) -> np.ndarray | None:
        found = self.folder.read(image_id, class_name)
        return None if found.shape == input_size else np.maximum(found, 0)

    def cost(self, rank: int | None, channels: int) -> Cost:
        return Cost()
