"""EK-100 action recognition: a clip with its verb, noun and action."""

from __future__ import annotations

from collections.abc import Mapping

from egovl.data.datasets.configs import EpicClassificationConfig
from egovl.data.datasets.epic_rows import (
    NUM_NOUNS,
    NUM_VERBS,
    check_root,
    clip_of,
    load_config_rows,
    load_rows,
)
from egovl.data.label_space import action_parts, epic_actions
from egovl.data.types import Sample


class EpicClassification:
    """Labels ``verb``, ``noun`` and ``action``; actions are numbered as in the released heads.

    Attributes:
        class_texts: For each label with texts, those of every class.
        parts_of: For ``action``, the verb and the noun of every action.

    Raises:
        FileNotFoundError: A file or the video folder is missing.
        ValueError: A row whose action the tables lack.
    """

    label_sizes: Mapping[str, int] = {}
    num_classes: Mapping[str, int]

    def __init__(self, config: EpicClassificationConfig) -> None:
        check_root(config.video_root)
        self._config = config
        self._rows = load_config_rows(config)
        actions = epic_actions(
            (row.verb, row.noun, row.narration)
            for table in config.action_tables
            for row in load_rows(table)
        )
        verbs, nouns = action_parts(actions)
        self.class_texts = {"action": actions.texts}
        self.parts_of = {"action": {"verb": verbs, "noun": nouns}}
        self.num_classes = {"verb": NUM_VERBS, "noun": NUM_NOUNS, "action": len(actions)}
        numbers = actions.numbers
        names = [f"{row.verb}:{row.noun}" for row in self._rows]
        unknown = sorted(set(names) - set(numbers))
        if unknown:
            raise ValueError(
                f"{config.annotations} has the actions {unknown[:3]} that action_tables lack; "
                "name the training and the validation csv there"
            )
        self._actions = [numbers[name] for name in names]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        row = self._rows[index]
        labels = {"verb": row.verb, "noun": row.noun, "action": self._actions[index]}
        return Sample(index, (clip_of(self._config, row),), (row.narration,), labels)

    def chunk_of(self, index: int) -> str:
        """Video of a row."""
        return self._rows[index].video_id
